//! The phases of an instance: a transition function over what its pod does.
//!
//! Promises that a final phase stays, and that an instance whose pod vanished never gets another.

use vm_api::v1::Phase;

use super::pod::Progress;

/// The pod of an instance, as far as its phase depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// There is none.
    NoPod,
    /// There is one.
    Pod {
        /// How far it is.
        progress: Progress,
        /// It is being deleted.
        terminating: bool,
    },
}

/// The phase that follows `phase` when `seen` is observed; `deleting`: the instance is being
/// deleted.
pub(super) fn next(phase: Phase, seen: &Seen, deleting: bool) -> Phase {
    use Phase::{Failed, Pending, Running, Scheduled, Scheduling, Succeeded, Unknown};
    if phase.is_final() {
        return phase;
    }
    match seen {
        Seen::NoPod if deleting => Failed,
        Seen::NoPod => match phase {
            Pending | Unknown => Pending,
            _ => Failed,
        },
        Seen::Pod {
            progress,
            terminating,
        } => match progress {
            Progress::PoweredOff(_) => Succeeded,
            Progress::Failed(..) => Failed,
            Progress::Running(_) => Running,
            // It ran: until its end is known, it is taken to run.
            _ if phase == Running => Running,
            _ if *terminating => Failed,
            Progress::Prepared => Scheduled,
            Progress::Unschedulable(_) | Progress::Starting | Progress::Stuck(_) => {
                if phase == Scheduled {
                    Scheduled
                } else {
                    Scheduling
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use Phase::{Failed, Pending, Running, Scheduled, Scheduling, Succeeded, Unknown};

    use super::super::pod::Complaint;
    use super::*;

    #[test]
    fn phases_follow_the_pod() {
        let pod = |progress| Seen::Pod {
            progress,
            terminating: false,
        };
        let dying = |progress| Seen::Pod {
            progress,
            terminating: true,
        };
        let stuck = Progress::Stuck(Complaint::default());
        let failed = Progress::Failed(Complaint::default(), None);
        let table = [
            (Pending, Seen::NoPod, false, Pending),
            (Unknown, Seen::NoPod, false, Pending),
            (Pending, Seen::NoPod, true, Failed),
            (Pending, pod(Progress::Starting), false, Scheduling),
            (
                Pending,
                pod(Progress::Unschedulable(String::new())),
                false,
                Scheduling,
            ),
            (Pending, pod(stuck.clone()), false, Scheduling),
            (Scheduling, pod(Progress::Prepared), false, Scheduled),
            (Scheduled, pod(Progress::Starting), false, Scheduled),
            (Pending, pod(Progress::Running(None)), false, Running),
            (Scheduled, pod(Progress::Running(None)), false, Running),
            (Running, dying(Progress::Running(None)), true, Running),
            (Running, pod(Progress::Starting), false, Running),
            (Running, pod(Progress::PoweredOff(None)), false, Succeeded),
            (Running, pod(failed.clone()), false, Failed),
            (Running, Seen::NoPod, false, Failed),
            (Running, Seen::NoPod, true, Failed),
            (Scheduling, Seen::NoPod, false, Failed),
            (Scheduling, dying(Progress::Starting), true, Failed),
            (Scheduling, dying(stuck), false, Failed),
            (Scheduling, pod(failed), false, Failed),
            (Succeeded, Seen::NoPod, false, Succeeded),
            (Succeeded, pod(Progress::Running(None)), false, Succeeded),
            (Failed, pod(Progress::PoweredOff(None)), true, Failed),
        ];
        for (phase, seen, deleting, expected) in table {
            assert_eq!(
                next(phase, &seen, deleting),
                expected,
                "{phase} {seen:?} {deleting}"
            );
        }
    }
}
