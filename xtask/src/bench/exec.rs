//! Commands in a guest beside commands in a container.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::pods::{Kind, Pods};
use super::report::Report;
use super::{NAMESPACE, median};
use crate::cluster::{ClusterName, kubectl};
use crate::progress::Step;

const GROUP: &str = "kubectl exec, medians";

/// What is read from a command's standard output, in MiB.
const MIB: usize = 16;

pub(super) fn measure(cluster: &ClusterName, runs: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin("Running commands in a guest and in a container");
    let mut latencies = Vec::new();
    for kind in [Kind::Tiny, Kind::Container] {
        let pods = Pods::run(cluster, kind, 1)?;
        let pod = &pods.names[0];
        // The agent of a guest that has just booted.
        exec(cluster, pod, &["true"])?;
        let time = |words: &[&str], runs| -> Result<f64> {
            let mut times = Vec::new();
            for _ in 0..runs {
                let begin = Instant::now();
                exec(cluster, pod, words)?;
                times.push(begin.elapsed().as_secs_f64());
            }
            Ok(median(times))
        };
        let name = format!("{kind:?}").to_lowercase();
        let latency = time(&["true"], runs)? * 1000.0;
        report.add(GROUP, format!("{name}: true"), latency, "ms");
        latencies.push(latency);
        let count = format!("count={MIB}");
        let stream = ["dd", "if=/dev/zero", "bs=1M", &count, "status=none"];
        let seconds = time(&stream, runs.min(3))? - latency / 1000.0;
        report.add(
            GROUP,
            format!("{name}: stdout"),
            MIB as f64 / seconds,
            "MiB/s",
        );
        pods.delete()?;
    }
    if let [machine, container] = latencies[..] {
        report.add(GROUP, "true: machine / container", machine / container, "");
    }
    step.done();
    Ok(())
}

fn exec(cluster: &ClusterName, pod: &str, words: &[&str]) -> Result<()> {
    let mut exec = kubectl(cluster);
    exec.args(["exec", pod, NAMESPACE, "--"]).args(words);
    let status = exec.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{words:?} in {pod} ended with {status}");
    Ok(())
}
