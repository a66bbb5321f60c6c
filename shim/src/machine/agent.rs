//! Whether the guest's agent is there, and what else QEMU reports of a running machine.

use std::sync::Arc;
use std::time::Duration;

use qemu_driver::agent::Agent;
use qemu_driver::qmp::{Event, Qmp, QmpError};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long a guest may take from its start until its agent is there. Whoever can wait for it waits
/// no longer than until then.
const BOOT: Duration = Duration::from_secs(300);

/// Time between two questions to a QEMU that does not tell which ports are open.
const AGAIN: Duration = Duration::from_secs(2);

/// QEMU's name of the guest agent's port.
const AGENT_PORT: &str = "agent";

/// The guest's agent, there or not.
pub(crate) struct GuestAgent {
    agent: Agent,
    qmp: Qmp,
    there: watch::Sender<bool>,
    /// When the guest began to run.
    started: watch::Sender<Option<Instant>>,
}

impl GuestAgent {
    /// The agent of the machine behind `qmp`, whose events these are, from the first on.
    pub(super) fn new(agent: Agent, qmp: Qmp, events: broadcast::Receiver<Event>) -> Arc<Self> {
        let guest = Arc::new(Self {
            agent,
            qmp,
            there: watch::Sender::new(false),
            started: watch::Sender::new(None),
        });
        tokio::spawn(guest.clone().listen(events));
        guest
    }

    /// The guest begins to run, now.
    pub(super) fn guest_starts(&self) {
        self.started.send_replace(Some(Instant::now()));
    }

    /// Whether the guest has ever run.
    pub(super) fn has_started(&self) -> bool {
        self.started.borrow().is_some()
    }

    /// The agent, if it is there.
    pub(crate) fn now(&self) -> Option<&Agent> {
        self.there.borrow().then_some(&self.agent)
    }

    /// The agent, waited for while the guest may still be on its way up.
    pub(crate) async fn soon(&self) -> Option<&Agent> {
        let started = self.started.borrow().unwrap_or_else(Instant::now);
        let mut there = self.there.subscribe();
        let there = there.wait_for(|there| *there);
        // The sender is `self`, which outlives this borrow.
        let _ = tokio::time::timeout_at(started + BOOT, there).await;
        self.now()
    }

    /// Waits for the agent, as long as it takes.
    pub(super) async fn wait(&self) {
        let mut there = self.there.subscribe();
        // The sender is `self`, which outlives this borrow.
        drop(there.wait_for(|there| *there).await);
    }

    async fn listen(self: Arc<Self>, mut events: broadcast::Receiver<Event>) {
        loop {
            match events.recv().await {
                Ok(Event::Port { id, open }) if id == AGENT_PORT => {
                    self.there.send_replace(open);
                    tracing::debug!(open, "the guest agent's port");
                }
                // QEMU reports it once a second at most.
                Ok(Event::Watchdog(action)) => {
                    let action = action.as_str();
                    tracing::warn!(action, "the guest did not reset its watchdog in time");
                }
                // Of a machine that was started paused.
                Ok(Event::Resumed) if !self.has_started() => self.guest_starts(),
                Ok(_) => {}
                // What was missed may be the agent's coming or going. What is told from here on is
                // newer than what was missed, and ends with what is true.
                Err(RecvError::Lagged(_)) => self.look().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Asks QEMU whether the agent is there.
    async fn look(&self) {
        loop {
            match self.qmp.open_ports().await {
                Ok(open) => {
                    self.there.send_replace(open.contains(AGENT_PORT));
                    return;
                }
                Err(QmpError::Closed { .. }) => return,
                Err(error) => tracing::debug!(%error, "whether an agent is there is unknown"),
            }
            sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::monitor::monitor;

    /// The agent of a QEMU that says of its port whether it is `open`.
    async fn guest(open: Arc<AtomicBool>) -> (Arc<GuestAgent>, broadcast::Sender<Event>) {
        let (agent, _) = UnixStream::pair().unwrap();
        let agent = Agent::new(agent, Duration::from_secs(1)).unwrap();
        let (sender, events) = broadcast::channel(256);
        let answer = move |line: &str| {
            let open = open.load(Ordering::Relaxed);
            line.contains("query-chardev").then(|| {
                format!(
                    r#""return": [{{"label": "{AGENT_PORT}", "filename": "", "frontend-open": {open}}}]"#
                )
            })
        };
        let qmp = monitor(BOOT, answer).await;
        (GuestAgent::new(agent, qmp, events), sender)
    }

    #[tokio::test]
    async fn what_was_missed_is_asked_for() {
        let open = Arc::new(AtomicBool::new(true));
        let (guest, sender) = guest(open.clone()).await;
        for there in [true, false] {
            open.store(there, Ordering::Relaxed);
            let mut seen = guest.there.subscribe();
            // The listener gets none of them before all are sent: the first are lost to it.
            let id = AGENT_PORT.to_owned();
            sender.send(Event::Port { id, open: there }).unwrap();
            for _ in 0..1000 {
                sender.send(Event::Resumed).unwrap();
            }
            let changed = seen.wait_for(|seen| *seen == there);
            tokio::time::timeout(Duration::from_secs(20), changed)
                .await
                .expect("it is known")
                .unwrap();
            assert_eq!(guest.now().is_some(), there);
        }
    }

    #[tokio::test]
    async fn a_guest_that_was_started_paused_starts_when_it_is_resumed() {
        let (guest, sender) = guest(Arc::default()).await;
        assert!(!guest.has_started());
        let mut started = guest.started.subscribe();
        sender.send(Event::Resumed).unwrap();
        let first = *started.wait_for(Option::is_some).await.unwrap();
        sender.send(Event::Stopped).unwrap();
        sender.send(Event::Resumed).unwrap();
        let id = AGENT_PORT.to_owned();
        sender.send(Event::Port { id, open: true }).unwrap();
        guest.there.subscribe().wait_for(|it| *it).await.unwrap();
        assert_eq!(*guest.started.borrow(), first, "it starts once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_guest_is_given_time() {
        let (guest, sender) = guest(Arc::default()).await;
        assert!(guest.now().is_none());
        guest.guest_starts();
        let opens = async {
            tokio::time::sleep(BOOT / 2).await;
            let id = AGENT_PORT.to_owned();
            sender.send(Event::Port { id, open: true }).unwrap();
        };
        let (agent, ()) = tokio::join!(guest.soon(), opens);
        assert!(agent.is_some());
        let id = AGENT_PORT.to_owned();
        sender.send(Event::Port { id, open: false }).unwrap();
        tokio::time::sleep(BOOT).await;
        let asked = Instant::now();
        assert!(guest.soon().await.is_none());
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }
}
