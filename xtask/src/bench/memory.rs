//! Memory that is not the guest's: of each process of a machine, and of QEMU alone.

use anyhow::{Context, Result};

use super::NODE;
use super::pods::{Kind, Pods};
use super::raw::Raw;
use super::report::{Promise, Report};
use crate::cluster::{self, ClusterName};
use crate::command;
use crate::progress::Step;

const GROUP: &str = "Memory beside the guest's (proportional set size)";

/// The guest's memory in KiB, which is one mapping of QEMU.
const GUEST_KIB: u64 = 32 << 10;

/// Prints `name pid` of each process that serves the pod with the UID `$1`.
const PROCESSES: &str = r#"
for config in $(grep -l "$1" /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json); do
  id=${config%/config.json}
  pgrep -f "^[^ ]*containerd-shim-kubevirt-v1 .*-id ${id##*/}" | sed 's/^/shim /'
done | sort -u
for group in $(grep -l "$1" /proc/[0-9]*/cgroup 2>/dev/null); do
  pid=${group#/proc/}
  pid=${pid%/cgroup}
  echo "$(cat /proc/$pid/comm) $pid"
done
"#;

/// One of so many machines that run at once, which share what their programs have in common.
pub(super) fn measure(cluster: &ClusterName, number: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin(format!("Measuring the memory of one of {number}"));
    let machines = Pods::run(cluster, Kind::Machine, number)?;
    let uid = machines.uids()?.pop().context("no pod")?;
    let mut node = cluster::on_node(cluster, NODE)?;
    let processes = command::output(node.args(["sh", "-c", PROCESSES, "sh", &uid]))?;
    for line in processes.lines() {
        let (name, pid) = line.split_once(' ').context("no process")?;
        report.add(
            GROUP,
            format!("one machine of {number}: {name}"),
            mib_of(cluster, pid)?,
            "MiB",
        );
        match name {
            // What its program's file takes is shared by all that run.
            "shim" if number > 1 => report.promise(Promise::AtMost(3.0)),
            ".kubevirt-holde" => report.promise(Promise::AtMost(0.5)),
            _ => {}
        }
    }
    let raw = Raw::like(cluster, Kind::Machine, &uid, None)?;
    machines.delete()?;
    let running = raw.run_many(number)?;
    let (raw, _) = running.last().context("none")?;
    report.add(
        GROUP,
        format!("one QEMU alone of {number}"),
        mib_of(cluster, &raw.pid.to_string())?,
        "MiB",
    );
    step.done();
    Ok(())
}

/// The memory of a process, without the guest's, in MiB.
fn mib_of(cluster: &ClusterName, pid: &str) -> Result<f64> {
    let read = ["cat", &format!("/proc/{pid}/smaps")];
    let smaps = command::output(cluster::on_node(cluster, NODE)?.args(read))?;
    Ok(kib_without_guest(&smaps) as f64 / 1024.0)
}

fn kib_without_guest(smaps: &str) -> u64 {
    let mut sum = 0;
    let mut is_guests = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next(), words.next());
        let value = value.and_then(|value| value.parse::<u64>().ok());
        match (key, value) {
            (Some("Size:"), Some(size)) => is_guests = size == GUEST_KIB,
            (Some("Pss:"), Some(pss)) if !is_guests => sum += pss,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_left_out() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize: 32768 kB\nPss: 9000 kB\nPss_Dirty: 1 kB\n\
                     7f02-7f03 r-xp 0 00:00 0 /usr/bin/qemu\nSize: 100 kB\nPss: 40 kB\n";
        assert_eq!(kib_without_guest(smaps), 40);
    }
}
