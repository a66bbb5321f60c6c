//! Disks that fail: the log says so, and a guest that QEMU has stopped for it tries again.

use std::time::Duration;

use qemu_driver::qmp::{Event, Qmp, QmpError, RunState};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::sleep;

/// Disk errors of one machine that are logged: a guest can cause as many as it likes.
const LOGGED: u32 = 100;

/// How long a guest is stopped before it tries its disk again. Space that ran out comes back when
/// somebody has made some, a network's storage when the network does.
const AGAIN: Duration = Duration::from_secs(10);

/// What QEMU does about an error of a disk: it stops the guest.
const STOP: &str = "stop";

/// Looks after the disks of the machine behind `qmp`, whose events these are, until it ends.
pub(super) async fn watch(qmp: Qmp, mut events: broadcast::Receiver<Event>) {
    let mut errors = 0_u32;
    loop {
        let stopped = match events.recv().await {
            Ok(Event::DiskError {
                node,
                operation,
                action,
                no_space,
            }) => {
                errors = errors.saturating_add(1);
                if errors < LOGGED {
                    tracing::warn!(node, operation, action, no_space, "a disk failed");
                } else if errors == LOGGED {
                    tracing::warn!("further errors of disks are not logged");
                }
                action == STOP
            }
            Ok(_) => false,
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
        if stopped {
            sleep(AGAIN).await;
            // What came in between is about the same stop.
            events = events.resubscribe();
            while let Err(error) = try_again(&qmp).await {
                tracing::debug!(%error, "the guest did not try its disk again");
                if let QmpError::Closed { .. } = error {
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Lets a guest go on that QEMU has stopped for a disk; not one that somebody has paused.
async fn try_again(qmp: &Qmp) -> Result<(), QmpError> {
    if qmp.state().await? == RunState::io_error {
        tracing::debug!("the guest tries its disk again");
        qmp.cont().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::monitor::monitor;

    fn error(action: &str) -> Event {
        Event::DiskError {
            node: None,
            operation: "write".into(),
            action: action.into(),
            no_space: true,
        }
    }

    /// How often a guest in this state is let go on that QEMU has stopped once.
    async fn goes_on(state: &'static str) -> u32 {
        let times = Arc::new(AtomicU32::new(0));
        let counted = times.clone();
        let answer = move |line: &str| {
            if line.contains("\"cont\"") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            line.contains("query-status")
                .then(|| format!(r#""return": {{"running": false, "status": "{state}"}}"#))
        };
        let qmp = monitor(AGAIN, answer).await;
        let (sender, events) = broadcast::channel(8);
        let watching = tokio::spawn(watch(qmp, events));
        sender.send(error(STOP)).unwrap();
        sender.send(error(STOP)).unwrap();
        sleep(5 * AGAIN).await;
        drop(sender);
        watching.await.unwrap();
        times.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_waits_for_its_disk_tries_again() {
        assert_eq!(goes_on("io-error").await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_somebody_paused_stays_so() {
        assert_eq!(goes_on("paused").await, 0);
    }

    #[tokio::test]
    async fn a_guest_cannot_fill_the_log_with_disk_errors() {
        let mut log = tempfile::tempfile().unwrap();
        let warnings = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(log.try_clone().unwrap());
        let _guard = tracing::subscriber::set_default(warnings.finish());
        // Where there is but one subscriber, whether a warning is heard is decided by the thread that
        // makes it first, which may be another test's.
        let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let qmp = monitor(AGAIN, |_| None).await;
        let (sender, events) = broadcast::channel(256);
        for _ in 0..2 * LOGGED {
            sender.send(error("report")).unwrap();
        }
        drop(sender);
        watch(qmp, events).await;
        let mut lines = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut lines).unwrap();
        assert_eq!(lines.lines().count(), LOGGED as usize);
    }
}
