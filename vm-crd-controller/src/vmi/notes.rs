//! What is told, as events, when an instance's status changes.

use vm_api::v1::{Phase, VirtualMachineInstanceStatus};

use super::phase::Seen;
use super::pod::Progress;
use crate::conditions::{find, is_true, kind, reason};
use crate::events::Note;

/// The notes for a step from `before` with status `old` to `after` with status `new`.
pub(super) fn of(
    before: Phase,
    after: Phase,
    old: &VirtualMachineInstanceStatus,
    new: &VirtualMachineInstanceStatus,
    seen: &Seen,
) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(trouble(old, new));
    if after == Phase::Running && before != Phase::Running {
        notes.push(Note::normal("Created", "VirtualMachineInstance defined."));
        notes.push(Note::normal("Started", "VirtualMachineInstance started."));
    }
    if after == Phase::Running && !is_shutting_down(old) && is_shutting_down(new) {
        notes.push(Note::normal("ShuttingDown", "Signaled Graceful Shutdown"));
    }
    let ran = before == Phase::Running || matches!(seen, Seen::Pod { .. });
    if after.is_final() && !before.is_final() && ran {
        notes.push(Note::normal("Deleted", "Signaled Deletion"));
        notes.push(stopped(after, seen));
    }
    notes
}

/// A warning when the condition Synchronized turns False or says something else than before.
fn trouble(old: &VirtualMachineInstanceStatus, new: &VirtualMachineInstanceStatus) -> Option<Note> {
    let said = |status: &VirtualMachineInstanceStatus| {
        find(&status.conditions, kind::SYNCHRONIZED)
            .filter(|condition| condition.status == "False")
            .map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    let (reason, message) = said(new)?;
    if said(old) == Some((reason.clone(), message.clone())) {
        return None;
    }
    let reason = reason.unwrap_or_else(|| reason::FAILED_CREATE.to_owned());
    Some(Note::warning(reason, message.unwrap_or_default()))
}

fn is_shutting_down(status: &VirtualMachineInstanceStatus) -> bool {
    !is_true(&status.conditions, kind::READY)
        && find(&status.conditions, kind::READY)
            .is_some_and(|ready| ready.reason.as_deref() == Some(reason::POD_TERMINATING))
}

fn stopped(after: Phase, seen: &Seen) -> Note {
    match (after, seen) {
        (Phase::Succeeded, _) => {
            Note::normal("Stopped", "The VirtualMachineInstance was shut down.")
        }
        (
            _,
            Seen::Pod {
                progress: Progress::Failed(complaint, _),
                ..
            },
        ) => Note::warning(
            "Stopped",
            format!("The VirtualMachineInstance crashed: {}.", complaint.message),
        ),
        _ => Note::warning("Stopped", "The VirtualMachineInstance crashed."),
    }
}
