//! What is to be done about a replica set: a pure function from what is observed to a [`Plan`].
//!
//! *Expected flow*: too few → instances are made; too many → those that matter least go; ended ones
//! go. *Guarantees*: nothing is made or deleted while it is paused or being deleted; an instance
//! that failed early holds its place for [`HOLD`], so that a guest which fails at once costs an
//! instance in that time and not in a second. *Assumptions*: the instances are the set's own.

use std::cmp::Reverse;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vm_api::v1::{Phase, VirtualMachineInstance};

use crate::clock;
use crate::conditions::{find, is_true, kind, reason};
use crate::replicas::Counts;

/// How long an instance that failed holds its place.
const HOLD: Duration = Duration::from_secs(10);

/// Instances that are made or deleted at once, at most.
const BURST: usize = 500;

/// What is known when deciding.
pub(super) struct Observed<'a> {
    /// How many there are to be.
    pub(super) wanted: usize,
    /// Whether anything may be made or deleted.
    pub(super) acts: bool,
    /// The instances of the set.
    pub(super) instances: &'a [&'a VirtualMachineInstance],
    /// How many were made that no watch has shown yet.
    pub(super) coming: usize,
    /// Now.
    pub(super) now: Time,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan<'a> {
    /// So many instances are to be made.
    pub(super) create: usize,
    /// These are to be deleted.
    pub(super) delete: Vec<&'a VirtualMachineInstance>,
    /// What the status says.
    pub(super) counts: Counts,
    /// When to look again, if nothing happens before.
    pub(super) again: Option<Duration>,
}

/// How an instance counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// As one of the replicas.
    Active,
    /// It failed a moment ago and holds its place for so long.
    Held(Duration),
    /// It ended, or its pod goes without it.
    Ended,
    /// It is being deleted.
    Leaving,
}

/// What is to be done about a replica set.
pub(super) fn decide<'a>(observed: &Observed<'a>) -> Plan<'a> {
    let lives: Vec<_> = observed
        .instances
        .iter()
        .map(|instance| (*instance, life(instance, &observed.now)))
        .collect();
    let mut active: Vec<_> = lives
        .iter()
        .filter(|(_, life)| *life == Life::Active)
        .map(|(instance, _)| *instance)
        .collect();
    let held: Vec<_> = lives
        .iter()
        .filter_map(|(_, life)| match life {
            Life::Held(left) => Some(*left),
            _ => None,
        })
        .collect();
    let mut plan = Plan {
        counts: Counts {
            replicas: active.len(),
            ready: active.iter().filter(|it| is_ready(it)).count(),
        },
        again: held.iter().min().copied(),
        ..Plan::default()
    };
    if !observed.acts {
        return plan;
    }
    let excess = active.len().saturating_sub(observed.wanted);
    active.sort_by_key(|instance| least_first(instance));
    plan.delete = active.into_iter().take(excess.min(BURST)).collect();
    let ended = lives.iter().filter(|(_, life)| *life == Life::Ended);
    plan.delete.extend(ended.map(|(instance, _)| *instance));
    let there = plan.counts.replicas + held.len() + observed.coming;
    plan.create = observed.wanted.saturating_sub(there).min(BURST);
    plan
}

fn life(instance: &VirtualMachineInstance, now: &Time) -> Life {
    if instance.metadata.deletion_timestamp.is_some() {
        return Life::Leaving;
    }
    let Some(status) = &instance.status else {
        return Life::Active;
    };
    let pod_goes = find(&status.conditions, kind::READY).is_some_and(|ready| {
        ready.status == "False" && ready.reason.as_deref() == Some(reason::POD_TERMINATING)
    });
    match status.phase {
        Some(Phase::Failed) => {
            let ended = status.reached(Phase::Failed);
            let age = ended.map_or(HOLD, |ended| clock::between(ended, now));
            match HOLD.checked_sub(age).filter(|left| !left.is_zero()) {
                Some(left) => Life::Held(left),
                None => Life::Ended,
            }
        }
        Some(phase) if phase.is_final() => Life::Ended,
        _ if pod_goes => Life::Ended,
        _ => Life::Active,
    }
}

fn is_ready(instance: &VirtualMachineInstance) -> bool {
    let status = instance.status.as_ref();
    status.is_some_and(|status| is_true(&status.conditions, kind::READY))
}

/// Those whose guest does not run yet, then those that are not ready, then the youngest.
fn least_first(
    instance: &VirtualMachineInstance,
) -> (bool, bool, Reverse<Option<Time>>, Option<String>) {
    let phase = instance.status.as_ref().and_then(|status| status.phase);
    let metadata = &instance.metadata;
    (
        phase == Some(Phase::Running),
        is_ready(instance),
        Reverse(metadata.creation_timestamp.clone()),
        metadata.name.clone(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn instance(name: &str, status: Value, created: i64) -> VirtualMachineInstance {
        let created = clock::after(&at(0), u32::try_from(created).unwrap());
        serde_json::from_value(json!({
            "metadata": { "name": name, "creationTimestamp": created }, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn running(ready: &str) -> Value {
        json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] })
    }

    fn observed<'a>(wanted: usize, instances: &'a [&'a VirtualMachineInstance]) -> Observed<'a> {
        Observed {
            wanted,
            acts: true,
            instances,
            coming: 0,
            now: at(100),
        }
    }

    fn names(plan: &Plan<'_>) -> Vec<String> {
        let names = plan.delete.iter().map(|it| it.metadata.name.clone());
        names.map(Option::unwrap).collect()
    }

    #[test]
    fn what_is_missing_is_made_once() {
        let a = instance("a", running("True"), 1);
        let b = instance("b", json!({ "phase": "Pending" }), 2);
        let there = [&a, &b];
        let plan = decide(&observed(5, &there));
        assert_eq!((plan.create, names(&plan).len()), (3, 0));
        let counts = Counts {
            replicas: 2,
            ready: 1,
        };
        assert_eq!(plan.counts, counts);
        let coming = Observed {
            coming: 3,
            ..observed(5, &there)
        };
        assert_eq!(decide(&coming).create, 0);
        let paused = Observed {
            acts: false,
            ..observed(5, &there)
        };
        assert_eq!(decide(&paused).create, 0);
        assert_eq!(decide(&observed(10_000, &[])).create, BURST);
    }

    #[test]
    fn what_matters_least_goes_first() {
        let old = instance("old", running("True"), 1);
        let young = instance("young", running("True"), 9);
        let unready = instance("unready", running("False"), 2);
        let pending = instance("pending", json!({ "phase": "Scheduling" }), 3);
        let new = instance("new", json!({}), 4);
        let there = [&old, &young, &unready, &pending, &new];
        let order = ["new", "pending", "unready", "young", "old"];
        for keep in 0..=5 {
            let plan = decide(&observed(keep, &there));
            assert_eq!(names(&plan), order[..5 - keep], "{keep}");
            assert_eq!(plan.create, 0);
        }
    }

    #[test]
    fn what_ended_is_cleared_and_replaced() {
        let off = instance("off", json!({ "phase": "Succeeded" }), 1);
        let gone = json!({ "phase": "Running", "conditions": [
            { "type": "Ready", "status": "False", "reason": "PodTerminating" } ] });
        let gone = instance("gone", gone, 1);
        let mut leaving = instance("leaving", running("True"), 1);
        leaving.metadata.deletion_timestamp = Some(at(90));
        let there = [&off, &gone, &leaving];
        let plan = decide(&observed(2, &there));
        assert_eq!(names(&plan), ["off", "gone"]);
        assert_eq!((plan.create, plan.counts.replicas), (2, 0));
    }

    #[test]
    fn an_early_failure_holds_its_place_for_a_while() {
        let failed = |second: i64| {
            json!({ "phase": "Failed", "phaseTransitionTimestamps": [
                { "phase": "Failed", "phaseTransitionTimestamp": at(second) } ] })
        };
        let just = instance("just", failed(97), 1);
        let past = instance("past", failed(90), 1);
        let there = [&just, &past];
        let plan = decide(&observed(2, &there));
        assert_eq!((plan.create, names(&plan)), (1, vec!["past".to_owned()]));
        assert_eq!(plan.again, Some(Duration::from_secs(7)));
    }
}
