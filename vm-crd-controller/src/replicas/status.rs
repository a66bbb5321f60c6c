//! The status of what keeps so many of something: how many there are, whether it is paused, and what
//! keeps it from having as many as it wants.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vm_api::v1::{Condition, VirtualMachineInstanceReplicaSetStatus as Status};

use crate::conditions::{condition, find, kind, with_times};
use crate::events::Note;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How many there are.
    pub(crate) replicas: usize,
    /// How many of them are ready.
    pub(crate) ready: usize,
}

/// Why there are not as many as there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In one word.
    pub(crate) reason: &'static str,
    /// In one sentence.
    pub(crate) message: String,
}

impl Failure {
    /// Why, in one word and one sentence.
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// KubeVirt's words for a pause; they differ between the two kinds.
pub(crate) struct Words {
    /// Reason of the condition.
    pub(crate) paused: &'static str,
    /// Its message.
    pub(crate) message: &'static str,
    /// Reason and message of the event that it was resumed.
    pub(crate) resumed: (&'static str, &'static str),
}

/// Reason of the event that something was paused.
const SUCCESSFUL_PAUSED: &str = "SuccessfulPaused";

/// The status now.
pub(crate) fn of(
    old: &Status,
    counts: Counts,
    selector: Option<String>,
    paused: Option<&Words>,
    failure: Option<&Failure>,
    now: &Time,
) -> Status {
    let mut conditions = Vec::new();
    if let Some(words) = paused {
        conditions.push(condition(
            kind::REPLICA_PAUSED,
            true,
            Some(words.paused),
            Some(words.message),
        ));
    }
    if let Some(failure) = failure {
        conditions.push(condition(
            kind::REPLICA_FAILURE,
            true,
            Some(failure.reason),
            Some(&failure.message),
        ));
    }
    let count = |count| Some(i32::try_from(count).unwrap_or(i32::MAX));
    Status {
        replicas: count(counts.replicas),
        ready_replicas: count(counts.ready),
        conditions: with_times(conditions, &old.conditions, now),
        label_selector: selector.or_else(|| old.label_selector.clone()),
    }
}

/// What to tell when the status changes from `old` to `new`.
pub(crate) fn notes(old: &Status, new: &Status, words: &Words) -> Vec<Note> {
    let mut notes = Vec::new();
    let paused = |status: &Status| find(&status.conditions, kind::REPLICA_PAUSED).is_some();
    match (paused(old), paused(new)) {
        (false, true) => notes.push(Note::normal(SUCCESSFUL_PAUSED, words.message)),
        (true, false) => notes.push(Note::normal(words.resumed.0, words.resumed.1)),
        _ => {}
    }
    let said = |condition: &Condition| (condition.reason.clone(), condition.message.clone());
    let before = find(&old.conditions, kind::REPLICA_FAILURE).map(said);
    let failure = find(&new.conditions, kind::REPLICA_FAILURE).map(said);
    if let Some((reason, message)) = failure.filter(|now| before.as_ref() != Some(now)) {
        notes.push(Note::warning(
            reason.unwrap_or_default(),
            message.unwrap_or_default(),
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const WORDS: Words = Words {
        paused: "Paused",
        message: "it is paused",
        resumed: ("Resumed", "it goes on"),
    };

    #[test]
    fn a_change_is_told_once() {
        let now = clock::now();
        let counts = Counts {
            replicas: 3,
            ready: 1,
        };
        let failure = Failure::new("FailedCreate", "exceeded quota");
        let selector = Some("a=b".to_owned());
        let first = of(
            &Status::default(),
            counts,
            selector,
            Some(&WORDS),
            Some(&failure),
            &now,
        );
        assert_eq!((first.replicas, first.ready_replicas), (Some(3), Some(1)));
        let told = notes(&Status::default(), &first, &WORDS);
        let reasons: Vec<_> = told.iter().map(|note| note.reason.as_ref()).collect();
        assert_eq!(reasons, ["SuccessfulPaused", "FailedCreate"]);
        assert!(notes(&first, &first, &WORDS).is_empty());
        let later = of(&first, counts, None, None, None, &now);
        assert_eq!(later.label_selector.as_deref(), Some("a=b"), "it stays");
        assert!(later.conditions.is_empty());
        assert_eq!(notes(&first, &later, &WORDS)[0].reason, "Resumed");
    }
}
