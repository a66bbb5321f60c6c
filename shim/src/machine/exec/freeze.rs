//! The guest's file systems, held still for a while and let go on again.
//!
//! Whoever has them frozen may be gone when they are to be thawed, so the time is kept here, beside the
//! machine. Only the last freeze counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qemu_driver::agent::AgentError;
use tokio::time::sleep;

use crate::machine::agent::GuestAgent;

/// Time between two tries to thaw.
const AGAIN: Duration = Duration::from_secs(5);

/// What a machine remembers of freezing.
#[derive(Default)]
pub(in crate::machine) struct Frozen {
    /// Freezes and thaws so far.
    turns: AtomicU64,
}

impl Frozen {
    /// Freezes the file systems, and has them thawed after `seconds`, if some are given and the machine
    /// has not `ended` by then.
    pub(super) async fn freeze(
        self: &Arc<Self>,
        guest: &Arc<GuestAgent>,
        seconds: Option<u32>,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), AgentError> {
        let turn = self.turn();
        let agent = guest.now().ok_or(AgentError::Closed)?;
        // Before the guest is asked: whoever asks may go away meanwhile, and a guest that does not answer
        // in time may have done it nevertheless.
        if let Some(seconds) = seconds {
            let (all, guest) = (self.clone(), guest.clone());
            tokio::spawn(async move {
                let thaw = async {
                    sleep(Duration::from_secs(seconds.into())).await;
                    all.thaw_late(&guest, turn).await;
                };
                tokio::select! {
                    () = ended => {}
                    () = thaw => {}
                }
            });
        }
        agent.freeze().await.map(drop)
    }

    /// Thaws them.
    pub(super) async fn thaw(&self, guest: &GuestAgent) -> Result<(), AgentError> {
        self.turn();
        thaw(guest).await
    }

    /// Thaws what was frozen by `turn`, as often as it takes, unless something newer counts.
    async fn thaw_late(&self, guest: &GuestAgent, turn: u64) {
        while self.turns.load(Ordering::Relaxed) == turn {
            match thaw(guest).await {
                Ok(()) => {
                    tracing::info!("the guest's file systems were frozen long enough: thawed");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the guest's file systems were not thawed: trying again");
                }
            }
            sleep(AGAIN).await;
        }
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }
}

async fn thaw(guest: &GuestAgent) -> Result<(), AgentError> {
    let agent = guest.now().ok_or(AgentError::Closed)?;
    agent.thaw().await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use qemu_driver::agent::Agent;
    use qemu_driver::qmp::Event;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;
    use tokio::sync::{broadcast, mpsc};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::machine::monitor::monitor;

    /// Longer than anything here takes.
    const BOUND: Duration = Duration::from_secs(600);

    /// A guest whose agent never answers a freeze, and refuses the first thaw; what it is asked.
    async fn guest() -> (Arc<GuestAgent>, mpsc::UnboundedReceiver<String>) {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (read, mut write) = UnixStream::from_std(theirs).unwrap().into_split();
        let (asked, questions) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut read = BufReader::new(read);
            let (mut line, mut thaws) = (Vec::new(), 0);
            while read.read_until(b'\n', &mut line).await.unwrap() > 0 {
                let begin = line.iter().position(|byte| *byte == b'{').unwrap();
                let request: Value = serde_json::from_slice(&line[begin..]).unwrap();
                line.clear();
                let answer = match request["execute"].as_str().unwrap() {
                    "guest-sync-delimited" => {
                        write.write_all(&[0xff]).await.unwrap();
                        json!({"return": request["arguments"]["id"]})
                    }
                    command => {
                        asked.send(command.to_owned()).unwrap();
                        thaws += usize::from(command.ends_with("thaw"));
                        match (command, thaws) {
                            ("guest-fsfreeze-freeze", _) => continue,
                            (_, 1) => json!({"error": {"class": "GenericError", "desc": "no"}}),
                            _ => json!({"return": 1}),
                        }
                    }
                };
                let line = format!("{answer}\n");
                write.write_all(line.as_bytes()).await.unwrap();
            }
        });
        let qmp = monitor(BOUND, |_| None).await;
        let (sender, events) = broadcast::channel(1);
        let agent = Agent::new(ours, Duration::from_secs(5)).unwrap();
        let guest = GuestAgent::new(agent, qmp, events);
        let id = "agent".to_owned();
        sender.send(Event::Port { id, open: true }).unwrap();
        guest.wait().await;
        (guest, questions)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asked_may_be_gone_when_it_is_thawed() {
        let (guest, mut asked) = guest().await;
        let frozen = Arc::new(Frozen::default());
        let freezing = frozen.freeze(&guest, Some(30), pending());
        assert!(timeout(Duration::from_secs(1), freezing).await.is_err());
        let begin = Instant::now();
        for command in ["freeze", "thaw", "thaw"] {
            assert_eq!(
                asked.recv().await.unwrap(),
                format!("guest-fsfreeze-{command}")
            );
        }
        assert_eq!(begin.elapsed().as_secs(), 29 + AGAIN.as_secs());
        assert!(timeout(BOUND, asked.recv()).await.is_err(), "it is thawed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_newer_counts() {
        let (guest, mut asked) = guest().await;
        let frozen = Arc::new(Frozen::default());
        let freezing = frozen.freeze(&guest, Some(30), pending());
        drop(timeout(Duration::from_secs(1), freezing).await);
        drop(frozen.thaw(&guest).await);
        for command in ["freeze", "thaw"] {
            assert_eq!(
                asked.recv().await.unwrap(),
                format!("guest-fsfreeze-{command}")
            );
        }
        drop(frozen.freeze(&guest, Some(30), async {}).await);
        assert_eq!(asked.recv().await.unwrap(), "guest-fsfreeze-freeze");
        assert!(
            timeout(BOUND, asked.recv()).await.is_err(),
            "the machine has ended"
        );
    }
}
