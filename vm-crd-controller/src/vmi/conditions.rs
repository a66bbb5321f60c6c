//! The conditions of an instance: whether it is ready, and what keeps it from being what it asks for.

use vm_api::v1::{Condition, Phase, VirtualMachineInstanceStatus};

use super::decide::Observed;
use super::phase::Seen;
use super::pod::{self, Complaint, Progress};
use crate::conditions::{condition, find, kind, reason};

/// Types of conditions that stay when the guest ends.
const LASTING: [&str; 3] = [
    kind::SYNCHRONIZED,
    kind::LIVE_MIGRATABLE,
    kind::SOFTWARE_EMULATION,
];

/// The conditions of the observed instance in phase `phase`; `old` is its status so far.
pub(super) fn of(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
    phase: Phase,
    seen: &Seen,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    conditions.extend(scheduled(observed, seen));
    conditions.extend(ready(observed, phase, seen));
    conditions.extend(synchronized(observed, phase, old, seen));
    if phase == Phase::Running {
        conditions.push(condition(
            kind::LIVE_MIGRATABLE,
            false,
            Some("NotSupported"),
            Some("live migration is not supported by this version"),
        ));
        if observed.emulated {
            conditions.push(condition(
                kind::SOFTWARE_EMULATION,
                true,
                Some("NoHardwareVirtualization"),
                Some("the node's CPU does not virtualize: the guest runs by emulation, slowly"),
            ));
        }
    } else if phase.is_final() {
        for kind in LASTING {
            if find(&conditions, kind).is_none() {
                conditions.extend(find(&old.conditions, kind).cloned());
            }
        }
    }
    conditions
}

fn scheduled(observed: &Observed<'_>, seen: &Seen) -> Option<Condition> {
    let unschedulable = |message: &str| {
        condition(
            kind::POD_SCHEDULED,
            false,
            Some(reason::UNSCHEDULABLE),
            Some(message),
        )
    };
    match (seen, observed.obstacle) {
        (
            Seen::Pod {
                progress: Progress::Unschedulable(message),
                ..
            },
            _,
        ) => Some(unschedulable(message)),
        (Seen::NoPod, Some(obstacle)) if obstacle.reason() == reason::PVC_NOT_FOUND => {
            Some(unschedulable(&obstacle.to_string()))
        }
        _ => None,
    }
}

fn ready(observed: &Observed<'_>, phase: Phase, seen: &Seen) -> Option<Condition> {
    let not = |reason, message| Some(condition(kind::READY, false, Some(reason), message));
    let pod = match seen {
        Seen::NoPod if phase == Phase::Pending && observed.obstacle.is_none() => return None,
        Seen::NoPod => {
            return not(
                reason::POD_NOT_EXISTS,
                Some("virt-launcher pod has not been scheduled"),
            );
        }
        Seen::Pod {
            terminating: true, ..
        } => {
            return not(
                reason::POD_TERMINATING,
                Some("virt-launcher pod is terminating"),
            );
        }
        Seen::Pod { .. } => observed.pod?,
    };
    if phase != Phase::Running {
        let message = failure(seen).map_or("Guest VM is not reported as running", |complaint| {
            complaint.message.as_str()
        });
        return not(reason::GUEST_NOT_RUNNING, Some(message));
    }
    match pod::condition(pod, "Ready") {
        Some(ready) if ready.status == "True" => Some(condition(kind::READY, true, None, None)),
        Some(unready) => not(
            unready
                .reason
                .as_deref()
                .unwrap_or(reason::POD_CONDITION_MISSING),
            unready.message.as_deref(),
        ),
        None => not(
            reason::POD_CONDITION_MISSING,
            Some("virt-launcher pod is missing the Ready condition"),
        ),
    }
}

/// What keeps the instance from being what it asks for: an obstacle, kubelet's complaint, or the
/// failure of a start.
fn synchronized(
    observed: &Observed<'_>,
    phase: Phase,
    old: &VirtualMachineInstanceStatus,
    seen: &Seen,
) -> Option<Condition> {
    let not = |reason: &str, message: &str| {
        Some(condition(
            kind::SYNCHRONIZED,
            false,
            Some(reason),
            Some(message),
        ))
    };
    if let Some(obstacle) = observed.obstacle {
        return not(obstacle.reason(), &obstacle.to_string());
    }
    let ran = old
        .phase_transition_timestamps
        .iter()
        .any(|transition| transition.phase == Some(Phase::Running));
    match seen {
        Seen::Pod {
            progress: Progress::Stuck(complaint),
            ..
        } => not(&complaint.reason, &complaint.message),
        Seen::Pod {
            progress: Progress::Failed(complaint, None),
            ..
        } if !ran => not(&complaint.reason, &complaint.message),
        Seen::Pod {
            progress: Progress::Starting,
            ..
        } if !phase.is_final() => {
            let complaint = observed.complaint?;
            not(&complaint.reason, &complaint.message)
        }
        _ => None,
    }
}

/// Why the machine failed, as far as its pod tells.
pub(super) fn failure(seen: &Seen) -> Option<&Complaint> {
    match seen {
        Seen::Pod {
            progress: Progress::Failed(complaint, _),
            ..
        } => Some(complaint),
        _ => None,
    }
}
