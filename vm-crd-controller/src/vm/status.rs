//! The status of a machine, computed whole from its instance and what must be remembered.

use vm_api::v1::{
    Condition, Phase, PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance,
    VirtualMachineStatus,
};

use super::decide::{Observed, Remembered};
use super::{instance, snapshots};
use crate::conditions::{condition, find, is_true, kind, reason, with_times};
use crate::events::Note;

/// Conditions that are the machine's own; all others are its instance's.
const OWN: [&str; 2] = [kind::FAILURE, kind::RESTART_REQUIRED];

/// Reasons of an instance's condition that its machine's owner is told as well: what the machine asks
/// for cannot be had, and waiting does not help.
const TOLD_TWICE: [&str; 3] = [
    reason::UNSUPPORTED_FIELD,
    reason::INVALID_SPEC,
    reason::FAILED_CREATE,
];

/// Reasons for which kubelet does not get an image at all.
const NO_IMAGE: [&str; 5] = [
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// The status of the observed machine.
pub(super) fn of(
    observed: &Observed<'_>,
    strategy: RunStrategy,
    remembered: Remembered,
) -> VirtualMachineStatus {
    let vm = observed.vm;
    let old = vm.status.clone().unwrap_or_default();
    let created = observed.instance.is_some();
    // Known only once the machine was started under some strategy, so that "never yet" shows.
    let run_strategy = if created || (old.run_strategy.is_some() && !remembered.unstarted) {
        Some(strategy.to_string())
    } else {
        old.run_strategy.clone()
    };
    let observed_generation = match observed.instance {
        Some(instance) if remembered.restart.is_some() => instance::generation(instance),
        _ => vm.metadata.generation,
    };
    let conditions = conditions(observed, &old, &remembered);
    let mut status = VirtualMachineStatus {
        created: Some(created),
        ready: Some(is_true(&conditions, kind::READY)),
        run_strategy,
        state_change_requests: remembered.requests,
        start_failure: remembered.failure,
        observed_generation,
        desired_generation: vm.metadata.generation,
        volume_snapshot_statuses: snapshots::of(vm),
        instancetype_ref: observed.refs.instancetype.clone(),
        preference_ref: observed.refs.preference.clone(),
        ..old.clone()
    };
    status.conditions = with_times(conditions, &old.conditions, &observed.now);
    status.printable_status = Some(printable(vm, observed.instance, strategy, &status));
    status
}

/// Whether a status says that something is wrong, so that it must not wait.
pub(super) fn tells_of_trouble(status: &VirtualMachineStatus) -> bool {
    let is_false = |kind| find(&status.conditions, kind).is_some_and(|c| c.status == "False");
    is_false(kind::SYNCHRONIZED)
        || is_false(kind::POD_SCHEDULED)
        || is_true(&status.conditions, kind::FAILURE)
}

/// What to tell when the status changes from `old` to `new`.
pub(super) fn notes(old: &VirtualMachineStatus, new: &VirtualMachineStatus) -> Vec<Note> {
    let said = |status: &VirtualMachineStatus, kind| {
        find(&status.conditions, kind).map(|c| (c.reason.clone(), c.message.clone()))
    };
    [kind::FAILURE, kind::SYNCHRONIZED]
        .into_iter()
        .filter_map(|kind| {
            let (reason, message) = said(new, kind)?;
            if kind == kind::SYNCHRONIZED && !TOLD_TWICE.contains(&reason.as_deref()?) {
                return None;
            }
            let news = said(old, kind) != Some((reason.clone(), message.clone()));
            let reason = reason.unwrap_or_else(|| reason::FAILED_CREATE.to_owned());
            news.then(|| Note::warning(reason, message.unwrap_or_default()))
        })
        .collect()
}

fn conditions(
    observed: &Observed<'_>,
    old: &VirtualMachineStatus,
    remembered: &Remembered,
) -> Vec<Condition> {
    let instance = observed
        .instance
        .and_then(|instance| instance.status.as_ref());
    let mut conditions: Vec<Condition> = instance
        .map(|status| status.conditions.clone())
        .unwrap_or_default()
        .into_iter()
        .filter(|condition| !OWN.contains(&condition.r#type.as_str()))
        .collect();
    if find(&conditions, kind::READY).is_none() {
        conditions.insert(0, not_ready(observed.instance.is_some()));
    }
    conditions.extend(failure(observed, old, remembered));
    let leaving =
        |instance: &VirtualMachineInstance| instance.metadata.deletion_timestamp.is_some();
    if let Some(why) = &remembered.restart
        && observed.instance.is_some_and(|instance| !leaving(instance))
    {
        let required = condition(kind::RESTART_REQUIRED, true, None, Some(why));
        conditions.push(required);
    }
    conditions
}

fn not_ready(has_instance: bool) -> Condition {
    let (reason, message) = if has_instance {
        (
            reason::INSTANCE_CONDITION_MISSING,
            "VMI is missing the Ready condition",
        )
    } else {
        (reason::INSTANCE_NOT_EXISTS, "VMI does not exist")
    };
    condition(kind::READY, false, Some(reason), Some(message))
}

/// Why there is no running instance: what keeps one from being made, or why the last start failed,
/// which outlives the instance that failed.
fn failure(
    observed: &Observed<'_>,
    old: &VirtualMachineStatus,
    remembered: &Remembered,
) -> Option<Condition> {
    let failed = |reason: &str, message: &str| {
        Some(condition(kind::FAILURE, true, Some(reason), Some(message)))
    };
    if let Some(trouble) = observed.trouble {
        return failed(trouble.reason(), &trouble.to_string());
    }
    let known = remembered.failure.as_ref()?;
    let uid = &known.last_failed_vmi_uid;
    let said = old
        .start_failure
        .as_ref()
        .is_some_and(|failure| failure.last_failed_vmi_uid == *uid);
    let instance = observed
        .instance
        .filter(|instance| instance.metadata.uid == *uid && !said);
    let Some(status) = instance.and_then(|instance| instance.status.as_ref()) else {
        return find(&old.conditions, kind::FAILURE).cloned();
    };
    let why = find(&status.conditions, kind::SYNCHRONIZED)
        .or_else(|| find(&status.conditions, kind::READY))?;
    failed(
        status
            .reason
            .as_deref()
            .or(why.reason.as_deref())
            .unwrap_or(reason::FAILED_CREATE),
        why.message.as_deref().unwrap_or_default(),
    )
}

/// The status in one word: the first that holds, in KubeVirt's order.
fn printable(
    vm: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    strategy: RunStrategy,
    status: &VirtualMachineStatus,
) -> PrintableStatus {
    if vm.metadata.deletion_timestamp.is_some() {
        return PrintableStatus::Terminating;
    }
    let phase = instance.map(|instance| {
        instance
            .status
            .as_ref()
            .and_then(|status| status.phase)
            .unwrap_or(Phase::Pending)
    });
    let Some((instance, phase)) = instance.zip(phase.filter(|phase| !phase.is_final())) else {
        let expected = matches!(strategy, RunStrategy::Always | RunStrategy::RerunOnFailure);
        return if expected && status.start_failure.is_some() {
            PrintableStatus::CrashLoopBackOff
        } else {
            PrintableStatus::Stopped
        };
    };
    if instance.metadata.deletion_timestamp.is_some() {
        return PrintableStatus::Stopping;
    }
    if is_true(&status.conditions, kind::PAUSED) {
        return PrintableStatus::Paused;
    }
    if phase == Phase::Running {
        return PrintableStatus::Running;
    }
    let reason_of = |kind| {
        find(&status.conditions, kind)
            .filter(|condition| condition.status == "False")
            .and_then(|condition| condition.reason.as_deref())
    };
    match (
        reason_of(kind::SYNCHRONIZED),
        reason_of(kind::POD_SCHEDULED),
    ) {
        (Some(reason::PVC_NOT_FOUND), _) => PrintableStatus::ErrorPvcNotFound,
        (_, Some(reason::UNSCHEDULABLE)) => PrintableStatus::ErrorUnschedulable,
        (Some("ImagePullBackOff"), _) => PrintableStatus::ImagePullBackOff,
        (Some(reason), _) if NO_IMAGE.contains(&reason) => PrintableStatus::ErrImagePull,
        _ => PrintableStatus::Starting,
    }
}
