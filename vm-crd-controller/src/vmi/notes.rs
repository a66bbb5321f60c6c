//! What is told, as events, when an instance's status changes.

use vm_api::v1::{Phase, VirtualMachineInstanceStatus};

use super::phase::Seen;
use super::pod::Progress;
use crate::conditions::{find, is_true, kind, reason};
use crate::events::Note;

/// The notes for a step from `before` with status `old` to `after` with status `new`. `asked`: somebody
/// asked the subresource API for something a moment ago, which told then of a pause or its end.
pub(super) fn of(
    before: Phase,
    after: Phase,
    old: &VirtualMachineInstanceStatus,
    new: &VirtualMachineInstanceStatus,
    seen: &Seen,
    asked: bool,
) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(trouble(old, new));
    if after == Phase::Running && before != Phase::Running {
        notes.push(Note::normal("Created", "VirtualMachineInstance defined."));
        notes.push(Note::normal("Started", "VirtualMachineInstance started."));
    }
    notes.extend(paused(old, new, after).filter(|_| !asked));
    let ended = after.is_final() && !before.is_final();
    let ran = new.reached(Phase::Running).is_some();
    // A guest that was quick may have ended before anything was written about its end.
    if ran && (after == Phase::Running || ended) && !is_shutting_down(old) && is_shutting_down(new)
    {
        notes.push(Note::normal("ShuttingDown", "Signaled Graceful Shutdown"));
    }
    if ended && ran {
        notes.push(Note::normal("Deleted", "Signaled Deletion"));
    }
    let failed = matches!(
        seen,
        Seen::Pod {
            progress: Progress::Failed(..),
            ..
        }
    );
    if ended && (ran || failed) {
        notes.push(stopped(after, seen));
    }
    notes
}

/// What is told when somebody paused the guest or let it go on.
fn paused(
    old: &VirtualMachineInstanceStatus,
    new: &VirtualMachineInstanceStatus,
    after: Phase,
) -> Option<Note> {
    let is_paused =
        |status: &VirtualMachineInstanceStatus| is_true(&status.conditions, kind::PAUSED);
    match (is_paused(old), is_paused(new)) {
        // Started so, it was not paused by anybody.
        (false, true) if old.phase == Some(Phase::Running) => {
            Some(Note::normal("Paused", "VirtualMachineInstance paused"))
        }
        (true, false) if after == Phase::Running => {
            Some(Note::normal("Unpaused", "VirtualMachineInstance unpaused"))
        }
        _ => None,
    }
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
    let mut note = Note::warning(reason, message.unwrap_or_default());
    // It is waited for: KubeVirt takes it for the ordinary course.
    note.warning = note.reason != reason::PVC_NOT_FOUND;
    Some(note)
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
