//! Waiting for what must become true. The bounds are generous: they end a hopeless wait on a slow
//! and shared machine, they assert nothing about speed.

use std::time::{Duration, Instant};

/// For what happens within a few steps of the control plane.
pub const SOON: Duration = Duration::from_secs(60);

/// For a guest that boots in emulation beside others.
pub const STARTED: Duration = Duration::from_secs(180);

/// Looks every 200 ms until `look` answers, and returns its answer.
///
/// # Panics
/// With what was last seen, when `bound` has passed.
#[track_caller]
pub fn eventually<T>(bound: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(seen) if Instant::now() > deadline => panic!("not within {bound:?}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
