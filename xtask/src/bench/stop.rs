//! From `kubectl delete` to a pod that is gone. Neither kind follows the polite signal, so both take
//! their grace period of a second.

use std::time::Instant;

use anyhow::Result;

use super::median;
use super::pods::{Kind, Pods};
use super::report::Report;
use crate::cluster::ClusterName;
use crate::progress::Step;

const GROUP: &str = "Delete with a grace period of 1 s, medians";

pub(super) fn measure(cluster: &ClusterName, runs: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin("Deleting machines and containers");
    let mut medians = Vec::new();
    for kind in [Kind::Machine, Kind::Container] {
        let mut times = Vec::new();
        for _ in 0..runs {
            let pods = Pods::run(cluster, kind, 1)?;
            let begin = Instant::now();
            pods.delete()?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        let time = median(times);
        report.add(GROUP, format!("{kind:?}").to_lowercase(), time, "ms");
        medians.push(time);
    }
    if let [machine, container] = medians[..] {
        report.add(GROUP, "machine / container", machine / container, "");
    }
    step.done();
    Ok(())
}
