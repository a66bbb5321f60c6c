//! The pause between attempts to start a machine that keeps failing, as KubeVirt has it.
//!
//! An instance that ended without its guest ever having run counts as a failed start; one that ran
//! wipes the count out. Beyond KubeVirt, guests that keep crashing early count as well.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use vm_api::v1::{Phase, RunStrategy, StartFailure, VirtualMachineInstance};

use super::crashes;
use crate::clock;
use crate::machine::digest;

/// The first pause, in seconds; the n-th is n² times as long.
const FIRST: u32 = 10;

/// The longest pause, in seconds.
const LONGEST: u32 = 300;

/// The failures of starts after `instance` was looked at; `crashes` early ones lie behind it in a
/// row. An instance that was deleted before it ended did not fail.
pub(super) fn next(
    old: Option<&StartFailure>,
    strategy: RunStrategy,
    instance: Option<&VirtualMachineInstance>,
    crashes: u32,
    now: &Time,
) -> Option<StartFailure> {
    if !matches!(strategy, RunStrategy::Always | RunStrategy::RerunOnFailure) {
        return None;
    }
    let Some(instance) = instance else {
        return old.cloned();
    };
    let ended = is_final(instance);
    let crashes = crashes.saturating_sub(crashes::FREE);
    if ran(instance) && (!ended || crashes == 0) {
        return None;
    }
    let uid = instance.uid();
    let known = old.is_some_and(|failure| failure.last_failed_vmi_uid == uid);
    let deleted = instance.metadata.deletion_timestamp.is_some();
    if !ended || known || deleted {
        return old.cloned();
    }
    let before = old
        .and_then(|failure| failure.consecutive_fail_count)
        .unwrap_or(0);
    let count = if ran(instance) {
        crashes
    } else {
        u32::try_from(before).unwrap_or(0).saturating_add(1)
    };
    let pause = pause(count, uid.as_deref().unwrap_or_default());
    Some(StartFailure {
        consecutive_fail_count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
        last_failed_vmi_uid: uid,
        retry_after_timestamp: Some(clock::after(now, pause)),
    })
}

/// How long the next start has to wait. No pause is longer than the longest: what seems so tells of a
/// clock that was set back.
pub(super) fn left(failure: Option<&StartFailure>, now: &Time) -> Option<Duration> {
    let until = failure?.retry_after_timestamp.as_ref()?;
    let left = clock::between(now, until);
    let longest = Duration::from_secs(LONGEST.into());
    Some(left).filter(|left| !left.is_zero() && *left <= longest)
}

/// Whether the guest of `instance` ever ran.
pub(super) fn ran(instance: &VirtualMachineInstance) -> bool {
    let status = instance.status.as_ref();
    status.is_some_and(|status| status.reached(Phase::Running).is_some())
}

fn is_final(instance: &VirtualMachineInstance) -> bool {
    instance
        .status
        .as_ref()
        .and_then(|status| status.phase)
        .is_some_and(Phase::is_final)
}

/// Seconds to wait after the `count`-th failure; the failed instance's UID spreads machines that
/// failed together over half as long again.
fn pause(count: u32, uid: &str) -> u32 {
    let seconds = FIRST
        .saturating_mul(count.saturating_mul(count))
        .min(LONGEST);
    let spread = u64::from(seconds / 2 + 1);
    let extra = u32::try_from(digest(&[uid]) % spread).unwrap_or(0);
    (seconds + extra).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(uid: &str, phases: &[&str]) -> VirtualMachineInstance {
        let transitions: Vec<_> = phases
            .iter()
            .map(|phase| json!({ "phase": phase, "phaseTransitionTimestamp": clock::now() }))
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "uid": uid },
            "spec": {},
            "status": {
                "phase": phases.last(),
                "phaseTransitionTimestamps": transitions,
            },
        }))
        .unwrap()
    }

    #[test]
    fn each_failed_instance_counts_once_and_pauses_grow() {
        let now = clock::now();
        let always = RunStrategy::Always;
        let failed = |uid: &str| instance(uid, &["Pending", "Scheduling", "Failed"]);
        let mut failure: Option<StartFailure> = None;
        for (round, (least, most)) in [
            (10, 15),
            (40, 60),
            (90, 135),
            (160, 240),
            (250, 300),
            (300, 300),
        ]
        .into_iter()
        .enumerate()
        {
            let instance = failed(&format!("uid-{round}"));
            failure = next(failure.as_ref(), always, Some(&instance), 0, &now);
            let again = next(failure.as_ref(), always, Some(&instance), 0, &now);
            assert_eq!(failure, again, "it counts once");
            let left = left(failure.as_ref(), &now).unwrap().as_secs();
            assert!((least..=most).contains(&left), "round {round}: {left} s");
        }
        let gone = next(failure.as_ref(), always, None, 0, &now);
        assert_eq!(gone, failure, "the count outlives the instance");
        let ran = instance("x", &["Pending", "Running", "Failed"]);
        assert_eq!(next(failure.as_ref(), always, Some(&ran), 0, &now), None);
        assert_eq!(
            next(failure.as_ref(), RunStrategy::Manual, None, 0, &now),
            None
        );
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_pause_longer() {
        let now = clock::now();
        let failure = StartFailure {
            retry_after_timestamp: Some(clock::after(&now, 15)),
            ..StartFailure::default()
        };
        let left = |now| left(Some(&failure), &now).map(|left| left.as_secs());
        assert_eq!(left(now.clone()), Some(15));
        let hour_ago = Time(now.0 - Duration::from_secs(3600));
        assert_eq!(left(hour_ago), None);
        assert_eq!(left(clock::after(&now, 3600)), None);
    }

    #[test]
    fn a_few_early_crashes_are_free() {
        let now = clock::now();
        let crashed = instance("x", &["Pending", "Running", "Failed"]);
        let runs = instance("x", &["Pending", "Running"]);
        let after = |instance, crashes| {
            next(None, RunStrategy::Always, Some(instance), crashes, &now)
                .and_then(|failure| failure.consecutive_fail_count)
        };
        for (crashes, expected) in [(1, None), (3, None), (4, Some(1)), (6, Some(3))] {
            assert_eq!(after(&crashed, crashes), expected, "{crashes}");
        }
        assert_eq!(after(&runs, 9), None, "it runs");
    }
}
