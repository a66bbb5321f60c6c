//! The guest's memory: virtio-mem gives and takes beyond what it started with, the balloon takes from
//! anywhere.

use qemu_driver::qmp::GuestMemory;
use tokio::time::sleep;

use super::{POLL, Patience, Resize, fault};
use crate::machine::target::GuestSize;
use crate::task::Fault;

/// The least that is left to a guest of what it says it could do without, in bytes: the balloon would
/// take all of it, and the guest would end its own processes for want of memory.
const RESERVE: u64 = 32 << 20;

/// The bytes that may be taken from a guest that has this `memory` and could do without `available`
/// bytes of it.
fn spare(memory: GuestMemory, available: u64) -> u64 {
    let reserve = RESERVE.max(memory.held() / 16);
    available.saturating_sub(reserve).min(memory.held())
}

fn still_held(bytes: u64, size: GuestSize) -> Fault {
    Fault::Precondition(format!(
        "the guest still holds {} MiB of memory and was asked to keep no more than {} MiB: free memory \
         in it, kubelet tries again",
        bytes.div_ceil(1 << 20),
        size.total() >> 20,
    ))
}

impl Resize {
    /// Lets the guest return what it has beyond `size`, all of it or nothing.
    pub(super) async fn shrink(&self, before: GuestMemory, size: GuestSize) -> Result<(), Fault> {
        let mut memory = before;
        let excess = before.held().saturating_sub(size.total());
        let mut tells = false;
        if excess > 0
            && let Some(available) = self.available().await?
        {
            tells = true;
            let spare = spare(before, available);
            if spare < excess {
                return Err(still_held(before.held() - spare, size));
            }
        }
        if before.requested > size.plugged {
            let request = self.qmp.request_memory(size.plugged).await;
            request.map_err(fault)?;
            memory = self.settle(|now| now.plugged <= size.plugged).await?;
        }
        // Also what could not be unplugged: the balloon takes memory from anywhere.
        let base = size.total().saturating_sub(memory.plugged);
        if memory.held() > size.total() && tells && base > 0 && !self.start.size.locked {
            self.qmp.balloon(base).await.map_err(fault)?;
            memory = self.settle(|now| now.held() <= size.total()).await?;
        }
        if memory.held() > size.total() {
            return Err(still_held(memory.held(), size));
        }
        Ok(())
    }

    /// Lets the guest have the memory that it had `before`.
    pub(super) async fn give_back(&self, before: GuestMemory, base: u64) -> Result<(), Fault> {
        let now = self.memory().await?;
        if now.requested != before.requested {
            let request = self.qmp.request_memory(before.requested).await;
            request.map_err(fault)?;
        }
        if now.base == base {
            return Ok(());
        }
        self.qmp.balloon(base).await.map_err(fault)
    }

    /// What memory the guest can do without now, if it tells.
    async fn available(&self) -> Result<Option<u64>, Fault> {
        if !self.start.size.balloon {
            return Ok(None);
        }
        let before = self.qmp.available_memory().await.map_err(fault)?;
        let asked = self.qmp.poll_available_memory(1).await;
        asked.map_err(fault)?;
        let patience = Patience::new();
        let mut told = before;
        while told.at == before.at && patience.is_left() {
            sleep(POLL).await;
            told = self.qmp.available_memory().await.map_err(fault)?;
        }
        let asked = self.qmp.poll_available_memory(0).await;
        asked.map_err(fault)?;
        Ok(told.bytes.filter(|_| told.at != before.at))
    }

    /// Gives the guest what it lacks of `size`.
    pub(super) async fn grow(&self, size: GuestSize) -> Result<(), Fault> {
        let memory = self.memory().await?;
        if memory.held() >= size.total() {
            return Ok(());
        }
        // Less than all where memory that could not be unplugged stands in for it.
        let base = size.base.min(size.total().saturating_sub(memory.plugged));
        if memory.base < base {
            self.qmp.balloon(base).await.map_err(fault)?;
        }
        if memory.requested < size.plugged {
            self.accept_memory().await;
            let request = self.qmp.request_memory(size.plugged).await;
            request.map_err(fault)?;
        }
        let memory = self.settle(|now| now.held() >= size.total()).await?;
        if memory.held() >= size.total() {
            return Ok(());
        }
        Err(Fault::Precondition(format!(
            "the guest has taken {} MiB of the {} MiB of memory that it was given: it needs the \
             drivers virtio_mem and virtio_balloon, and memory blocks that come online (with the \
             guest agent or memhp_default_state=online); kubelet tries again",
            memory.held() >> 20,
            size.total() >> 20,
        )))
    }

    async fn accept_memory(&self) {
        let Some(agent) = self.guest.now() else {
            return;
        };
        if let Err(error) = agent.accept_memory().await {
            tracing::info!(%error, "the guest decides by itself about memory that comes");
        }
    }

    /// The guest's memory as it is.
    pub(super) async fn memory(&self) -> Result<GuestMemory, Fault> {
        self.qmp.guest_memory().await.map_err(fault)
    }

    /// Waits until the guest's memory is as `done` wants it, or does not change any more; what it is.
    pub(super) async fn settle(
        &self,
        done: impl Fn(GuestMemory) -> bool,
    ) -> Result<GuestMemory, Fault> {
        let mut patience = Patience::new();
        let mut last = self.memory().await?;
        while !done(last) && patience.is_left() {
            sleep(POLL).await;
            let now = self.memory().await?;
            if now != last {
                patience.renew();
            }
            last = now;
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_keeps_a_reserve() {
        const MIB: u64 = 1 << 20;
        for (held, available, expected) in [
            (256, 200, 168),
            (256, 32, 0),
            (256, 0, 0),
            (256, u64::MAX / MIB, 256),
            (1024, 500, 436),
        ] {
            let memory = GuestMemory {
                base: held * MIB,
                ..GuestMemory::default()
            };
            assert_eq!(spare(memory, available * MIB), expected * MIB);
        }
    }
}
