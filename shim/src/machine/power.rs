//! Switching a machine off politely: the ACPI power button, and the guest agent if one is there.
//!
//! A guest that has not come far enough yet loses the button without a trace, so it is pressed again
//! until the machine ends; the grace period is containerd's, which pulls the plug after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qemu_driver::agent::{Agent, GuestShutdownMode};
use qemu_driver::qmp::{Event, Qmp, QmpError};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};

use crate::task::Member;

/// Time between two presses of the button.
const AGAIN: Duration = Duration::from_secs(2);

/// Longest time that the caller waits for QEMU to take the first press.
const PRESS_BOUND: Duration = Duration::from_secs(2);

/// Disk errors of one machine that are logged: a guest can cause as many as it likes.
const LOGGED_ERRORS: u32 = 100;

/// QEMU's name of the guest agent's port.
const AGENT_PORT: &str = "agent";

/// The power button of one machine.
pub(super) struct PowerButton {
    qmp: Qmp,
    agent: Agent,
    agent_is_there: AtomicBool,
    pressed: AtomicBool,
}

impl PowerButton {
    /// The button of the machine behind `qmp`; `events` are all of its events.
    pub(super) fn new(qmp: Qmp, agent: Agent, events: broadcast::Receiver<Event>) -> Arc<Self> {
        let button = Arc::new(Self {
            qmp,
            agent,
            agent_is_there: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        });
        tokio::spawn(button.clone().look_for_agent(events));
        button
    }

    /// Presses the button, and keeps doing so until `member` ends.
    pub(super) async fn press(self: &Arc<Self>, member: &Arc<Member>) -> Result<(), QmpError> {
        match timeout(PRESS_BOUND, self.qmp.system_powerdown()).await {
            // It is ending already.
            Ok(Ok(()) | Err(QmpError::Closed { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => tracing::warn!("QEMU does not answer: trying again until it ends"),
        }
        if !self.pressed.swap(true, Ordering::Relaxed) {
            let (button, member) = (self.clone(), member.clone());
            tokio::spawn(async move {
                tokio::select! {
                    _ = member.life.ended() => {}
                    () = button.insist() => {}
                }
            });
        }
        Ok(())
    }

    async fn insist(&self) {
        let mut asked = false;
        loop {
            if !asked && self.agent_is_there.load(Ordering::Relaxed) {
                // An agent that shuts the guest down need not live long enough to say so.
                asked = self
                    .agent
                    .shutdown(GuestShutdownMode::Powerdown)
                    .await
                    .is_ok();
            }
            sleep(AGAIN).await;
            match self.qmp.system_powerdown().await {
                Err(error @ QmpError::Closed { .. }) => {
                    tracing::debug!(%error, "the power button is gone");
                    return;
                }
                Err(error) => tracing::debug!(%error, "the power button was not pressed"),
                Ok(()) => {}
            }
        }
    }

    async fn look_for_agent(self: Arc<Self>, mut events: broadcast::Receiver<Event>) {
        let mut errors = 0_u32;
        loop {
            match events.recv().await {
                Ok(Event::Port { id, open }) if id == AGENT_PORT => {
                    self.agent_is_there.store(open, Ordering::Relaxed);
                    tracing::debug!(open, "the guest agent's port");
                }
                Ok(Event::DiskError {
                    node,
                    operation,
                    action,
                    no_space,
                }) => {
                    errors = errors.saturating_add(1);
                    if errors < LOGGED_ERRORS {
                        tracing::warn!(node, operation, action, no_space, "a disk failed");
                    } else if errors == LOGGED_ERRORS {
                        tracing::warn!("further errors of disks are not logged");
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::sync::atomic::AtomicU32;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;
    use tracing::{Metadata, Subscriber, span};

    /// Counts warnings.
    struct Warnings(Arc<AtomicU32>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    /// A QEMU that refuses every press of the button, which `presses` counts.
    async fn refusing(presses: Arc<AtomicU32>) -> Qmp {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (read, mut write) = UnixStream::from_std(theirs).unwrap().into_split();
        tokio::spawn(async move {
            let version = r#"{"qemu": {"major": 8, "minor": 2, "micro": 1}, "package": ""}"#;
            let mut said =
                format!("{{\"QMP\": {{\"version\": {version}, \"capabilities\": []}}}}\n");
            let mut lines = BufReader::new(read).lines();
            for id in 0.. {
                write.write_all(said.as_bytes()).await.unwrap();
                let Ok(Some(line)) = lines.next_line().await else {
                    return;
                };
                said = if line.contains("system_powerdown") {
                    presses.fetch_add(1, Ordering::Relaxed);
                    let refusal = r#"{"class": "GenericError", "desc": "no"}"#;
                    format!("{{\"error\": {refusal}, \"id\": {id}}}\n")
                } else {
                    format!("{{\"return\": {{}}, \"id\": {id}}}\n")
                };
            }
        });
        Qmp::connect(ours, AGAIN).await.unwrap().0
    }

    async fn button(presses: &Arc<AtomicU32>) -> (Arc<PowerButton>, broadcast::Sender<Event>) {
        let (agent, _) = StdUnixStream::pair().unwrap();
        let (sender, events) = broadcast::channel(256);
        let qmp = refusing(presses.clone()).await;
        let agent = Agent::new(agent, AGAIN).unwrap();
        (PowerButton::new(qmp, agent, events), sender)
    }

    #[tokio::test]
    async fn a_guest_cannot_fill_the_log_with_disk_errors() {
        let count = Arc::default();
        let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&count)));
        let (button, sender) = button(&Arc::default()).await;
        for _ in 0..2 * LOGGED_ERRORS {
            let error = Event::DiskError {
                node: None,
                operation: "write".into(),
                action: "report".into(),
                no_space: false,
            };
            sender.send(error).unwrap();
        }
        drop(sender);
        // The button's listener lets go of it at the end of the events.
        while Arc::strong_count(&button) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count.load(Ordering::Relaxed), LOGGED_ERRORS);
    }

    #[tokio::test]
    async fn a_button_that_is_refused_is_pressed_again() {
        let presses = Arc::default();
        let (button, _sender) = button(&presses).await;
        drop(timeout(AGAIN * 5 / 2, button.insist()).await);
        assert_eq!(presses.load(Ordering::Relaxed), 2);
    }
}
