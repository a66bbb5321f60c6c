//! The guest's file systems, held still for a while and let go on again.
//!
//! Whoever has them frozen may be gone when they are to be thawed, so the time is kept here, beside the
//! machine. Only the last freeze counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qemu_driver::agent::AgentError;

use crate::machine::agent::GuestAgent;

/// What a machine remembers of freezing.
#[derive(Default)]
pub(in crate::machine) struct Frozen {
    /// Freezes and thaws so far.
    turns: AtomicU64,
}

impl Frozen {
    /// Freezes the file systems, and has them thawed after `seconds`, if some are given.
    pub(super) async fn freeze(
        self: &Arc<Self>,
        guest: &Arc<GuestAgent>,
        seconds: Option<u32>,
    ) -> Result<(), AgentError> {
        let turn = self.turn();
        let agent = guest.now().ok_or(AgentError::Closed)?;
        let frozen = agent.freeze().await;
        // One that did not answer in time may have done it nevertheless.
        if let Some(seconds) = seconds {
            let (all, guest) = (self.clone(), guest.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds.into())).await;
                if all.turns.load(Ordering::Relaxed) == turn {
                    all.thaw_late(&guest).await;
                }
            });
        }
        frozen.map(drop)
    }

    /// Thaws them.
    pub(super) async fn thaw(&self, guest: &GuestAgent) -> Result<(), AgentError> {
        self.turn();
        let agent = guest.now().ok_or(AgentError::Closed)?;
        agent.thaw().await.map(drop)
    }

    async fn thaw_late(&self, guest: &GuestAgent) {
        match self.thaw(guest).await {
            Ok(()) => tracing::info!("the guest's file systems were frozen long enough: thawed"),
            Err(error) => tracing::warn!(%error, "the guest's file systems were not thawed"),
        }
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }
}
