//! The disk of a machine beside that of QEMU alone, as the guest sees it.

use anyhow::{Context, Result};

use super::pods::{Kind, Pods};
use super::raw::Raw;
use super::report::{Promise, Report};
use super::{NAMESPACE, median};
use crate::cluster::{ClusterName, kubectl};
use crate::command;
use crate::progress::Step;

const GROUP: &str = "Disk throughput, medians";

/// What the guest does with its second disk, and how many MiB that moves: so many that its clock, of
/// 10 ms, is fine enough.
const WORKS: [(&str, u32, &str); 2] = [
    (
        "disk write",
        256,
        "for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/dev/vdb bs=1M count=32 conv=fsync; done",
    ),
    (
        "disk read",
        1024,
        "for i in $(seq 32); do dd if=/dev/vdb of=/dev/null bs=1M count=32 iflag=direct; done",
    ),
];

pub(super) fn measure(cluster: &ClusterName, runs: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin("Moving bytes on the disks of a machine and in QEMU alone");
    let machine = Pods::run(cluster, Kind::Tiny, 1)?;
    let uid = get(cluster, &machine.names[0], "{.metadata.uid}")?;
    let raw = Raw::like(cluster, Kind::Tiny, &uid)?;
    let exec = |line: &str| {
        let mut exec = kubectl(cluster);
        exec.args(["exec", &machine.names[0], NAMESPACE, "--", "sh", "-c", line]);
        let output = command::output(&mut exec)?;
        output.lines().find_map(seconds).context("no time")
    };
    let in_machine = rates(runs, exec)?;
    machine.delete()?;
    let mut running = raw.run()?;
    // It opens the shell on its console.
    running.say("")?;
    let alone = rates(runs, |line| {
        running.say(line)?;
        running.hear(seconds)
    })?;
    for (((name, ..), machine), alone) in WORKS.iter().zip(in_machine).zip(alone) {
        report.add(GROUP, format!("machine: {name}"), machine, "MiB/s");
        report.add(GROUP, format!("QEMU alone: {name}"), alone, "MiB/s");
        report.add(
            GROUP,
            format!("{name}: machine / QEMU alone"),
            machine / alone,
            "",
        );
        report.promise(Promise::AtLeast(0.9));
    }
    step.done();
    Ok(())
}

/// How much of each work `time` sees done, in MiB/s. It is given a line for the guest's shell, and
/// returns the seconds that this says.
fn rates(runs: usize, mut time: impl FnMut(&str) -> Result<f64>) -> Result<Vec<f64>> {
    let mut rate = |mib: u32, work: &str| {
        let line = format!(
            "read a _ </proc/uptime; {{ {work}; }} 2>/dev/null; read b _ </proc/uptime; echo took $a $b"
        );
        let rates = (0..runs).map(|_| Ok(f64::from(mib) / time(&line)?));
        Ok(median(rates.collect::<Result<_>>()?))
    };
    let works = WORKS.iter();
    works.map(|(_, mib, work)| rate(*mib, work)).collect()
}

/// The seconds that a line of the guest's tells.
fn seconds(line: &str) -> Option<f64> {
    let mut words = line.trim().strip_prefix("took ")?.split(' ');
    let (begin, end): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(end - begin)
}

fn get(cluster: &ClusterName, pod: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    let mut get = kubectl(cluster);
    command::output(get.args(["get", "pod", pod, NAMESPACE, "--output", &path]))
}
