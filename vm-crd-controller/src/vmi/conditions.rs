//! The conditions of an instance: whether it is ready, and what keeps it from being what it asks for.

use vm_api::machine::of_kvm;
use vm_api::v1::{Condition, Phase, VirtualMachineInstanceStatus};

use super::decide::Observed;
use super::phase::Seen;
use super::pod::{self, Complaint, Progress};
use super::{asked, resize};
use crate::conditions::{condition, find, kind, reason};

/// Types of conditions that stay when the guest ends.
const LASTING: [&str; 5] = [
    kind::POD_SCHEDULED,
    kind::SYNCHRONIZED,
    kind::LIVE_MIGRATABLE,
    kind::STORAGE_LIVE_MIGRATABLE,
    kind::SOFTWARE_EMULATION,
];

/// Why no machine can move.
const NOT_MIGRATABLE: &str = "live migration is not supported by this version";

/// The conditions of the observed instance in phase `phase`; `old` is its status so far.
pub(super) fn of(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
    phase: Phase,
    seen: &Seen,
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    conditions.extend(scheduled(observed, seen));
    let paused = asked::paused(observed, old, phase);
    // A machine that starts paused is taken for ready until it was asked, as in KubeVirt.
    let was_unready = find(&old.conditions, kind::READY)
        .is_some_and(|it| it.reason.as_deref() == Some(reason::READINESS_GATES_NOT_READY));
    let stands_still = paused.is_some() && (observed.told.is_some() || was_unready);
    conditions.extend(ready(observed, phase, seen, stands_still));
    let stays = matches!(
        seen,
        Seen::Pod {
            terminating: false,
            ..
        }
    );
    let leaves = observed.instance.metadata.deletion_timestamp.is_some() && !stays;
    // What kept a machine from starting is told no longer once it was told to go.
    if !leaves {
        conditions.extend(synchronized(observed, phase, old, seen));
    }
    conditions.extend(paused);
    if phase == Phase::Running {
        conditions.extend(asked::agent_connected(observed, old));
        conditions.extend(asked::access_credentials(observed, old));
        conditions.extend(resize::conditions(observed));
        for kind in [kind::LIVE_MIGRATABLE, kind::STORAGE_LIVE_MIGRATABLE] {
            let reason = Some(reason::NOT_MIGRATABLE);
            conditions.push(condition(kind, false, reason, Some(NOT_MIGRATABLE)));
        }
        if observed.emulated {
            conditions.push(condition(
                kind::SOFTWARE_EMULATION,
                true,
                Some("NoHardwareVirtualization"),
                Some(&emulated(&of_kvm(&observed.instance.spec))),
            ));
        }
    } else if phase.is_final() {
        let ended_before = old.phase.is_some_and(Phase::is_final);
        for kind in LASTING {
            if kind == kind::SYNCHRONIZED && leaves && !ended_before {
                continue;
            }
            if find(&conditions, kind).is_none() {
                conditions.extend(find(&old.conditions, kind).cloned());
            }
        }
    }
    conditions
}

/// What it means for a guest to be emulated, and for what of its spec is KVM's alone.
fn emulated(of_kvm: &[String]) -> String {
    let mut message =
        "the node's CPU does not virtualize: the guest runs by emulation, slowly".to_owned();
    if !of_kvm.is_empty() {
        message += &format!(", and without {}", of_kvm.join(", "));
    }
    message
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

fn ready(observed: &Observed<'_>, phase: Phase, seen: &Seen, paused: bool) -> Option<Condition> {
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
        Some(ready) if ready.status == "True" && paused => not(
            reason::READINESS_GATES_NOT_READY,
            Some("the guest is paused"),
        ),
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
    let ran = old.reached(Phase::Running).is_some();
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
