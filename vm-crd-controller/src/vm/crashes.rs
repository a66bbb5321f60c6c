//! Guests that crash soon after they began, again and again.
//!
//! KubeVirt restarts such a machine at once for ever; here the first few crashes are free, then the
//! pauses of failed starts apply. What is counted lives in memory: a new leader counts anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use vm_api::v1::{Phase, VirtualMachine, VirtualMachineInstance};

use crate::clock;

/// A guest that ran this long is no part of a loop.
const STEADY: Duration = Duration::from_secs(60);

/// Crashes in a row after which the machine is started again at once.
pub(super) const FREE: u32 = 3;

/// Crashes in a row, by machine.
#[derive(Default)]
pub(super) struct Crashes(Mutex<HashMap<String, Count>>);

#[derive(Clone, Default)]
struct Count {
    crashes: u32,
    last: Option<String>,
}

impl Crashes {
    /// How many crashes in a row end with that of `instance`, as far as it has crashed.
    pub(super) fn count(
        &self,
        vm: &VirtualMachine,
        instance: Option<&VirtualMachineInstance>,
    ) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = vm.uid().unwrap_or_default();
        if vm.metadata.deletion_timestamp.is_some() {
            counts.remove(&key);
            return 0;
        }
        let Some((instance, end)) = instance.and_then(|instance| Some((instance, end(instance)?)))
        else {
            return counts.get(&key).map_or(0, |count| count.crashes);
        };
        if end == End::Other {
            counts.remove(&key);
            return 0;
        }
        let count = counts.entry(key).or_default();
        let uid = instance.uid();
        if count.last != uid {
            count.last = uid;
            count.crashes = count.crashes.saturating_add(1);
        }
        count.crashes
    }
}

/// How a run of a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    EarlyCrash,
    Other,
}

/// How the guest of `instance` ended, if it ran and ended.
fn end(instance: &VirtualMachineInstance) -> Option<End> {
    let status = instance.status.as_ref()?;
    let phase = status.phase.filter(|phase| phase.is_final())?;
    let began = status.reached(Phase::Running)?;
    let ran = status
        .reached(phase)
        .map_or(Duration::ZERO, |ended| clock::between(began, ended));
    Some(if phase == Phase::Failed && ran < STEADY {
        End::EarlyCrash
    } else {
        End::Other
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(uid: &str, phase: &str, ended: &str) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "uid": uid },
            "spec": {},
            "status": { "phase": phase, "phaseTransitionTimestamps": [
                { "phase": "Running", "phaseTransitionTimestamp": "2026-01-01T00:00:00Z" },
                { "phase": phase, "phaseTransitionTimestamp": ended },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn early_crashes_add_up_until_a_run_is_steady() {
        let vm = VirtualMachine::new("tl", Default::default());
        let crashes = Crashes::default();
        let early = "2026-01-01T00:00:59Z";
        let late = "2026-01-01T00:01:00Z";
        assert_eq!(crashes.count(&vm, None), 0);
        assert_eq!(crashes.count(&vm, Some(&ended("a", "Failed", early))), 1);
        assert_eq!(
            crashes.count(&vm, Some(&ended("a", "Failed", early))),
            1,
            "each counts once"
        );
        assert_eq!(crashes.count(&vm, None), 1, "it outlives the instance");
        assert_eq!(crashes.count(&vm, Some(&ended("b", "Failed", early))), 2);
        assert_eq!(crashes.count(&vm, Some(&ended("c", "Succeeded", early))), 0);
        assert_eq!(crashes.count(&vm, Some(&ended("d", "Failed", early))), 1);
        assert_eq!(crashes.count(&vm, Some(&ended("e", "Failed", late))), 0);
    }
}
