//! Switching a machine off politely: the ACPI power button, and the guest agent if one is there.
//!
//! A guest that has not come far enough yet loses the button without a trace, so it is pressed again
//! until the machine ends; the grace period is containerd's, which pulls the plug after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qemu_driver::agent::GuestShutdownMode;
use qemu_driver::qmp::{Qmp, QmpError, RunState};
use tokio::time::{sleep, timeout};

use super::agent::GuestAgent;
use crate::task::Member;

/// Time between two presses of the button.
const AGAIN: Duration = Duration::from_secs(2);

/// Longest time that the caller waits for QEMU to take the first press.
const PRESS_BOUND: Duration = Duration::from_secs(2);

/// The power button of one machine.
pub(super) struct PowerButton {
    qmp: Qmp,
    guest: Arc<GuestAgent>,
    pressed: AtomicBool,
}

impl PowerButton {
    /// The button of the machine behind `qmp`.
    pub(super) fn new(qmp: Qmp, guest: Arc<GuestAgent>) -> Arc<Self> {
        Arc::new(Self {
            qmp,
            guest,
            pressed: AtomicBool::new(false),
        })
    }

    /// Presses the button once, and asks the agent once.
    pub(super) async fn press_once(self: &Arc<Self>) -> Result<(), QmpError> {
        self.push().await?;
        let button = self.clone();
        tokio::spawn(async move {
            if let Some(agent) = button.guest.now() {
                // The button was pressed in any case.
                drop(agent.shutdown(GuestShutdownMode::Powerdown).await);
            }
        });
        Ok(())
    }

    async fn push(&self) -> Result<(), QmpError> {
        // A guest that was paused, or waits for a disk, could not follow it.
        if let RunState::paused | RunState::prelaunch | RunState::io_error =
            self.qmp.state().await?
        {
            self.qmp.cont().await?;
        }
        self.qmp.system_powerdown().await
    }

    /// Presses the button, and keeps doing so until `member` ends.
    pub(super) async fn press(self: &Arc<Self>, member: &Arc<Member>) -> Result<(), QmpError> {
        match timeout(PRESS_BOUND, self.push()).await {
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
            if let Some(agent) = self.guest.now().filter(|_| !asked) {
                // An agent that shuts the guest down need not live long enough to say so.
                asked = agent.shutdown(GuestShutdownMode::Powerdown).await.is_ok();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU32;

    use qemu_driver::agent::Agent;
    use tokio::sync::broadcast;

    use super::super::monitor::{REFUSAL, monitor};

    /// A QEMU that refuses every press of the button, which `presses` counts.
    async fn refusing(presses: Arc<AtomicU32>) -> Qmp {
        let answer = move |line: &str| {
            line.contains("system_powerdown").then(|| {
                presses.fetch_add(1, Ordering::Relaxed);
                REFUSAL.to_owned()
            })
        };
        monitor(AGAIN, answer).await
    }

    async fn button(presses: &Arc<AtomicU32>) -> Arc<PowerButton> {
        let (agent, _) = UnixStream::pair().unwrap();
        let agent = Agent::new(agent, AGAIN).unwrap();
        let (_, events) = broadcast::channel(1);
        let qmp = refusing(presses.clone()).await;
        PowerButton::new(qmp.clone(), GuestAgent::new(agent, qmp, events))
    }

    #[tokio::test]
    async fn a_guest_that_was_reset_while_paused_runs_to_follow_its_button() {
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let answer = move |line: &str| {
            said.send(line.to_owned()).unwrap();
            let state = r#"{"status": "prelaunch", "running": false, "singlestep": false}"#;
            line.contains("query-status")
                .then(|| format!("\"return\": {state}"))
        };
        let (agent, _) = UnixStream::pair().unwrap();
        let agent = Agent::new(agent, AGAIN).unwrap();
        let (_, events) = broadcast::channel(1);
        let qmp = monitor(AGAIN, answer).await;
        let button = PowerButton::new(qmp.clone(), GuestAgent::new(agent, qmp, events));
        button.push().await.unwrap();
        for command in [
            "qmp_capabilities",
            "query-status",
            "cont",
            "system_powerdown",
        ] {
            let line = heard.recv().await.unwrap();
            assert!(line.contains(&format!("\"{command}\"")), "{line}");
        }
    }

    #[tokio::test]
    async fn a_button_that_is_refused_is_pressed_again() {
        let presses = Arc::default();
        let button = button(&presses).await;
        drop(timeout(AGAIN * 5 / 2, button.insist()).await);
        assert_eq!(presses.load(Ordering::Relaxed), 2);
    }
}
