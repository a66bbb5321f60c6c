//! How long a guest takes to its first line: a phase of its own, `first-line`, from the machine's start
//! to the end of the first line on its console.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::Span;
use tracing::field::Empty;

/// The phase, while it lasts; a clone is of the same machine.
#[derive(Clone, Default)]
pub(crate) struct FirstLine(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// The guest does not run yet.
    #[default]
    Before,
    Awaited(Span),
    Over,
}

impl FirstLine {
    /// The guest begins to run.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        if matches!(*state, State::Before) {
            // No part of the call that starts the machine, which is over long before.
            *state =
                State::Awaited(tracing::info_span!(parent: None, "first-line", outcome = Empty));
        }
    }

    /// The guest printed this.
    pub(super) fn saw(&self, bytes: &[u8]) {
        if bytes.contains(&b'\n') {
            self.end(None);
        }
    }

    /// The guest is gone.
    pub(super) fn never_came(&self) {
        self.end(Some("the machine ended before"));
    }

    fn end(&self, outcome: Option<&str>) {
        let ended = std::mem::replace(&mut *self.state(), State::Over);
        if let State::Awaited(span) = ended
            && let Some(outcome) = outcome
        {
            span.record("outcome", outcome);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(line: &FirstLine) -> bool {
        matches!(*line.state(), State::Over)
    }

    #[test]
    fn the_phase_ends_with_the_first_line_and_no_word_before() {
        let line = FirstLine::default();
        line.begin();
        line.saw(b"SeaBIOS");
        assert!(!is_over(&line));
        line.saw(b" (version)\r\n");
        assert!(is_over(&line));
        line.begin();
        assert!(is_over(&line), "a machine has one first line");
    }

    #[test]
    fn a_machine_that_says_nothing_ends_it_too() {
        let line = FirstLine::default();
        line.begin();
        line.never_came();
        assert!(is_over(&line));
    }
}
