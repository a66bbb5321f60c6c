//! From kubelet's wish to the guest's words, by phase, beside a container and QEMU alone.

use anyhow::{Context, Result};

use super::median;
use super::moments::Moments;
use super::pods::{Kind, Pods};
use super::raw::Raw;
use super::report::{Promise, Report};
use crate::cluster::ClusterName;
use crate::progress::Step;

const GROUP: &str = "Start, medians";

pub(super) fn measure(cluster: &ClusterName, runs: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin(format!(
        "Starting a machine, a container and QEMU {runs} times"
    ));
    step.total(runs as u64);
    let (mut machines, mut containers, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let machine = Pods::run(cluster, Kind::Machine, 1)?;
        let uid = one_of(&machine)?;
        machines.push(Moments::of(cluster, Kind::Machine, &uid)?);
        let raw = Raw::like(cluster, Kind::Machine, &uid, None)?;
        machine.delete()?;
        let container = Pods::run(cluster, Kind::Container, 1)?;
        let uid = one_of(&container)?;
        containers.push(Moments::of(cluster, Kind::Container, &uid)?);
        container.delete()?;
        alone.push(raw.run()?.start.as_secs_f64() * 1000.0);
        step.part("");
    }
    step.done();
    for (kind, moments) in [("machine", &machines), ("container", &containers)] {
        let mut phase = |name: &str, of: fn(&Moments) -> f64| {
            let value = median(moments.iter().map(of).collect());
            report.add(GROUP, format!("{kind}: {name}"), value, "ms");
            value
        };
        phase("sandbox", |it| Moments::between(it.asked, it.sandbox));
        phase("container created", |it| {
            Moments::between(it.sandbox, it.created)
        });
        phase("container started", |it| {
            Moments::between(it.created, it.started)
        });
        phase("its first words", |it| {
            Moments::between(it.started, it.ready)
        });
        phase("all of it", Moments::whole);
    }
    let whole = |moments: &[Moments]| median(moments.iter().map(Moments::whole).collect());
    let raw = median(alone);
    report.add(GROUP, "QEMU alone: all of it", raw, "ms");
    let added = whole(&machines) - whole(&containers) - raw;
    report.add(GROUP, "machine - container - QEMU alone", added, "ms");
    report.promise(Promise::AtMost(50.0));
    Ok(())
}

fn one_of(pods: &Pods<'_>) -> Result<String> {
    pods.uids()?.pop().context("no pod")
}
