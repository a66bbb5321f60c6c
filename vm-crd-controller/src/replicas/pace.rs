//! How often a set writes its status and tries what was refused: its replicas change one by one, and
//! each change would cost a write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Failure;

/// Pause between two writes of one status that only tell how many there are.
const WRITES: Duration = Duration::from_millis(500);

/// Pause before what the API server refused is tried again.
const REFUSALS: Duration = Duration::from_secs(10);

/// What was done a moment ago, by UID; a clone knows the same.
#[derive(Clone, Default)]
pub struct Pace(Arc<Mutex<HashMap<String, Recent>>>);

#[derive(Clone, Default)]
struct Recent {
    written: Option<Instant>,
    refused: Option<(Instant, i64, Failure)>,
}

impl Pace {
    /// How long the next write has to wait.
    pub(crate) fn until_write(&self, uid: &str) -> Option<Duration> {
        let recent = self.recent(uid)?;
        WRITES.checked_sub(recent.written?.elapsed())
    }

    /// The status was written.
    pub(crate) fn wrote(&self, uid: &str) {
        self.note(uid, |recent| recent.written = Some(Instant::now()));
    }

    /// What was refused for the object in that generation a moment ago, and how long it has to wait.
    pub(crate) fn refused(&self, uid: &str, generation: i64) -> Option<(Failure, Duration)> {
        let (when, of, failure) = self.recent(uid)?.refused?;
        let left = REFUSALS.checked_sub(when.elapsed())?;
        // Who changed the object mended it, perhaps.
        (of == generation).then_some((failure, left))
    }

    /// Something was refused.
    pub(crate) fn refuse(&self, uid: &str, generation: i64, failure: Failure) -> Duration {
        self.note(uid, |recent| {
            recent.refused = Some((Instant::now(), generation, failure));
        });
        REFUSALS
    }

    fn recent(&self, uid: &str) -> Option<Recent> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(uid).cloned()
    }

    fn note(&self, uid: &str, note: impl FnOnce(&mut Recent)) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, recent| {
            let written = recent.written.is_some_and(|when| when.elapsed() < WRITES);
            let refused = recent.refused.as_ref();
            written || refused.is_some_and(|(when, ..)| when.elapsed() < REFUSALS)
        });
        note(recent.entry(uid.to_owned()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_waits_until_the_object_changes() {
        let pace = Pace::default();
        assert_eq!(pace.until_write("a"), None);
        pace.wrote("a");
        assert!(pace.until_write("a").is_some());
        assert!(pace.until_write("b").is_none());
        let failure = Failure::new("FailedCreate", "exceeded quota");
        pace.refuse("a", 1, failure.clone());
        assert_eq!(
            pace.refused("a", 1).map(|(failure, _)| failure),
            Some(failure)
        );
        assert!(pace.refused("a", 2).is_none(), "it was changed");
        assert!(pace.until_write("a").is_some(), "both are known");
    }
}
