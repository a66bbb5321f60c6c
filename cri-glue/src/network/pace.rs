//! Limits how many messages are served, so that a flooding guest costs next to nothing: the rest is
//! dropped by the kernel.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Time per message in the long run.
const PERIOD: Duration = Duration::from_millis(100);

/// Messages that are served at once after a pause. A guest that boots sends about four.
const BURST: u32 = 10;

/// A token bucket: each message takes [`PERIOD`] of the time that has passed, of which at most
/// [`BURST`] periods are kept.
pub(super) struct Pace {
    spent_until: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            spent_until: Instant::now(),
        }
    }

    /// Returns when the next message may be served.
    pub(super) async fn wait(&mut self) {
        self.spent_until = self.spent_until.max(Instant::now()) + PERIOD;
        sleep_until(self.spent_until - PERIOD * BURST).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, Instant, sleep};

    use super::{BURST, PERIOD, Pace};

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_a_flood_is_slowed_down() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for _ in 0..BURST {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), PERIOD * 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_allows_no_more_than_a_burst() {
        let mut pace = Pace::new();
        sleep(Duration::from_secs(86_400)).await;
        let start = Instant::now();
        for _ in 0..=BURST {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), PERIOD);
    }
}
