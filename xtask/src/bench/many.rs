//! Many at once: machines, as many containers, and as many QEMUs alone.

use std::time::Duration;

use anyhow::{Context, Result};
use time::OffsetDateTime;

use super::moments::Moments;
use super::pods::{Kind, Pods};
use super::raw::Raw;
use super::report::{Promise, Report};
use crate::cluster::ClusterName;
use crate::progress::Step;

/// How long the last of many may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

const GROUP: &str = "Many at once: from the first wish to the words of each";

pub(super) fn measure(cluster: &ClusterName, number: usize, report: &mut Report) -> Result<()> {
    let step = Step::begin(format!("Starting {number} at once"));
    let mut last = Vec::new();
    let mut raw = None;
    for kind in [Kind::Machine, Kind::Container] {
        let pods = Pods::run(cluster, kind, number)?;
        let uids = pods.uids()?;
        let moments = uids.iter().map(|uid| Moments::of(cluster, kind, uid));
        let moments = moments.collect::<Result<Vec<_>>>()?;
        let first = moments.iter().map(|it| it.asked).min().context("none")?;
        let ready = moments.iter().map(|it| it.ready);
        let name = format!("{number} {kind:?}s").to_lowercase();
        last.push(add(report, &name, first, ready.collect()));
        if kind == Kind::Machine {
            raw = Some(Raw::like(cluster, Kind::Machine, &uids[0], None)?);
        }
        pods.delete()?;
    }
    let raw = raw.context("no machine")?;
    let first = OffsetDateTime::now_utc();
    let running = raw.run_many(number)?;
    let ready = running.iter().map(|(_, ready)| *ready).collect();
    last.push(add(report, &format!("{number} QEMUs alone"), first, ready));
    if let [machines, containers, alone] = last[..] {
        let ratio = machines / (containers + alone);
        report.add(
            GROUP,
            format!("{number}: machines / (containers + QEMUs alone)"),
            ratio,
            "",
        );
        if number > 1 {
            report.promise(Promise::AtMost(1.15));
        }
    }
    step.done();
    Ok(())
}

/// Adds the middle, the 95th of a hundred and the last; the last.
fn add(
    report: &mut Report,
    name: &str,
    first: OffsetDateTime,
    mut ready: Vec<OffsetDateTime>,
) -> f64 {
    ready.sort();
    let at = |part: usize| {
        let index = (ready.len() * part).div_ceil(100).max(1) - 1;
        Moments::between(first, ready[index]) / 1000.0
    };
    report.add(GROUP, format!("{name}: p50"), at(50), "s");
    report.add(GROUP, format!("{name}: p95"), at(95), "s");
    report.add(GROUP, format!("{name}: last"), at(100), "s");
    at(100)
}
