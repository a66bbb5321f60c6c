//! The disk and the network of a machine beside those of QEMU alone, as the guest sees them.

use anyhow::{Context, Result};

use super::far_end::{self, FarEnd, MIB};
use super::pods::{Kind, Pods};
use super::raw::Raw;
use super::report::{Promise, Report};
use super::{NAMESPACE, NODE, median};
use crate::cluster::{ClusterName, kubectl};
use crate::command;
use crate::progress::Step;

const GROUP: &str = "Throughput, medians";

/// Something that the guest does.
struct Work {
    name: &'static str,
    /// How much that moves: so much that the guest's clock, of 10 ms, is fine enough.
    mib: u32,
    /// The part of QEMU's own rate that a machine reaches at least.
    promised: f64,
    script: String,
}

/// The aim is 0.98; medians of two runs differ by a few hundredths.
const DISK: f64 = 0.95;

/// A machine's packets also cross its pod's address translation, a veth pair and a bridge.
const NETWORK: f64 = 0.9;

/// With the guest's second disk, and with the far end at this address.
fn works(far_end: &str) -> [Work; 4] {
    let work = |name, mib, promised, script: &str| Work {
        name,
        mib,
        promised,
        script: script.to_owned(),
    };
    let (sink, source) = (far_end::SINK, far_end::SOURCE);
    [
        work(
            "disk write",
            256,
            DISK,
            "for i in $(seq 8); do dd if=/dev/zero of=/dev/vdb bs=1M count=32 conv=fsync; done",
        ),
        work(
            "disk read",
            1024,
            DISK,
            "for i in $(seq 32); do dd if=/dev/vdb of=/dev/null bs=1M count=32 iflag=direct; done",
        ),
        work(
            "network send",
            MIB,
            NETWORK,
            &format!(
                "dd if=/dev/zero bs=1M count={MIB} | nc.traditional {far_end} {sink} | grep all"
            ),
        ),
        work(
            "network receive",
            MIB,
            NETWORK,
            &format!(
                "nc.traditional {far_end} {source} </dev/null | \
                 dd of=/dev/null bs=1M iflag=fullblock 2>&1 | grep '^{MIB}+0 records in'"
            ),
        ),
    ]
}

pub(super) fn measure(cluster: &ClusterName, runs: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin("Moving bytes on disk and network of a machine and of QEMU alone");
    let _far_end = FarEnd::new(cluster)?;
    let machine = Pods::run(cluster, Kind::Tiny, 1)?;
    let uid = get(cluster, &machine.names[0], "{.metadata.uid}")?;
    let raw = Raw::like(cluster, Kind::Tiny, &uid, Some(far_end::TAP))?;
    let exec = |line: &str| {
        let mut exec = kubectl(cluster);
        exec.args(["exec", &machine.names[0], NAMESPACE, "--", "sh", "-c", line]);
        let output = command::output(&mut exec)?;
        output.lines().find_map(seconds).context("no time")
    };
    let node = NODE.addresses().v4.to_string();
    let in_machine = rates(runs, &node, exec)?;
    machine.delete()?;
    let mut running = raw.run()?;
    // The first line opens the shell on its console.
    running.say("")?;
    running.say(&format!(
        "killall udhcpc; ip address add {} dev eth0; ip link set eth0 up",
        far_end::GUEST
    ))?;
    let alone = rates(runs, far_end::HOST, |line| {
        running.say(line)?;
        running.hear(seconds)
    })?;
    let promised = works("").map(|work| work.promised);
    let both = in_machine.into_iter().zip(alone).zip(promised);
    for (((name, machine), (_, alone)), promised) in both {
        report.add(GROUP, format!("machine: {name}"), machine, "MiB/s");
        report.add(GROUP, format!("QEMU alone: {name}"), alone, "MiB/s");
        report.add(
            GROUP,
            format!("{name}: machine / QEMU alone"),
            machine / alone,
            "",
        );
        report.promise(Promise::AtLeast(promised));
    }
    step.done();
    Ok(())
}

/// How much of each work `time` sees done, in MiB/s. It is given a line for the guest's shell, and
/// returns the seconds that this says.
fn rates(
    runs: usize,
    far_end: &str,
    mut time: impl FnMut(&str) -> Result<f64>,
) -> Result<Vec<(&'static str, f64)>> {
    let mut rate = |work: &Work| {
        let line = format!(
            "read a _ </proc/uptime; {{ {}; }} >/dev/null 2>&1 && read b _ </proc/uptime; echo took $a $b",
            work.script
        );
        let rates = (0..runs).map(|_| Ok(f64::from(work.mib) / time(&line)?));
        let rates = rates.collect::<Result<_>>().context(work.name)?;
        Ok((work.name, median(rates)))
    };
    works(far_end).iter().map(&mut rate).collect()
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
