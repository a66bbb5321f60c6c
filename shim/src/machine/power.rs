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
            if let Err(error) = self.qmp.system_powerdown().await {
                tracing::debug!(%error, "the power button is gone");
                return;
            }
        }
    }

    async fn look_for_agent(self: Arc<Self>, mut events: broadcast::Receiver<Event>) {
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
                    tracing::warn!(node, operation, action, no_space, "a disk failed");
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}
