//! `Update` of a running machine: its guest follows the container's limits as far as it can.
//!
//! What grows gets its limit first and what shrinks loses its limit last, so that the guest is never
//! killed for a limit that it had no time to follow. An update is done wholly or not at all: one that
//! fails is taken back. One update at a time; each asks for the whole again and not for a difference, so
//! that it can be repeated. Every wait is bounded, and the one for a guest ends soon after its last
//! progress: kubelet comes again.

use std::sync::Arc;
use std::time::Duration;

use cri_glue::pinning::{Cpus, Pinning};
use oci_spec::runtime::LinuxResources;
use qemu_driver::qmp::{GuestMemory, Qmp, QmpError, VcpuPlace};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::agent::GuestAgent;
use super::limits::{Limits, merge};
use super::target::{Asked, GuestSize, Start, Target};
use crate::task::{Fault, blocking};

/// Time between two looks at how far the guest has come.
const POLL: Duration = Duration::from_millis(100);

/// How long a guest may make no progress. Linux needs some ten milliseconds for a vCPU or a block of
/// memory; emulated and busy, a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a guest may take that does make progress.
const BOUND: Duration = Duration::from_secs(30);

/// Changes the size of one machine.
pub(super) struct Resize {
    qmp: Qmp,
    guest: Arc<GuestAgent>,
    limits: Limits,
    start: Start,
    emulated: bool,
    /// Held while the machine is resized.
    ordered: Mutex<Ordered>,
}

/// A machine whose vCPUs have processors of the node to themselves.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    pub(super) pinning: Pinning,
    pub(super) cpus: Cpus,
    /// QEMU.
    pub(super) pid: u32,
}

/// What the machine was last asked to be. What it is may differ for a while, after a reboot say.
#[derive(Clone, Debug)]
struct Ordered {
    /// The container's limits.
    resources: LinuxResources,
    vcpus: u32,
    /// What the balloon leaves of the memory that it started with, in bytes.
    base: u64,
    pinned: Option<Pinned>,
}

impl Resize {
    /// For the machine behind `qmp`, which was started as `start` says.
    pub(super) fn new(
        qmp: Qmp,
        guest: Arc<GuestAgent>,
        limits: Limits,
        start: Start,
        emulated: bool,
        pinned: Option<Pinned>,
    ) -> Self {
        let resources = limits.changeable();
        Self {
            qmp,
            guest,
            limits,
            start,
            emulated,
            ordered: Mutex::new(Ordered {
                resources,
                vcpus: start.size.vcpus,
                base: start.size.memory_bytes,
                pinned,
            }),
        }
    }

    /// Sets the limits of the container to `wanted`.
    pub(super) async fn update(&self, wanted: LinuxResources) -> Result<(), Fault> {
        let mut last = self.ordered.lock().await;
        let (cpu, memory) = (Asked::cpu_millis(&wanted), Asked::memory_bytes(&wanted));
        let target = self.start.target(cpu, memory);
        let target = target.map_err(|refusal| Fault::Invalid(refusal.to_string()))?;
        let vcpus = target.vcpus.unwrap_or(last.vcpus);
        let pinned = self.limits.pinned(last.pinned.clone(), &wanted, vcpus)?;
        let before = self.memory().await?;
        let changed = self.change(&last, before, target, &wanted, pinned.as_ref());
        if let Err(fault) = changed.await {
            if let Err(error) = self.restore(&last, before, target).await {
                tracing::warn!(%error, "a resize that failed was not taken back wholly");
            }
            return Err(fault);
        }
        merge(&mut last.resources, &wanted);
        last.vcpus = target.vcpus.unwrap_or(last.vcpus);
        last.base = target.memory.map_or(last.base, |size| size.base);
        last.pinned = pinned;
        Ok(())
    }

    async fn change(
        &self,
        last: &Ordered,
        before: GuestMemory,
        target: Target,
        wanted: &LinuxResources,
        pinned: Option<&Pinned>,
    ) -> Result<(), Fault> {
        if let Some(size) = target.memory {
            self.shrink(before, size).await?;
        }
        if let Some(vcpus) = target.vcpus {
            self.plug(last.vcpus, vcpus).await?;
        }
        self.limit(wanted.clone()).await?;
        if let Some(vcpus) = target.vcpus {
            self.unplug(last.vcpus, vcpus).await?;
        }
        if let Some(pinned) = pinned {
            self.pin(pinned).await?;
        }
        if let Some(size) = target.memory {
            self.grow(size).await?;
        }
        Ok(())
    }

    /// Lets the machine have what it had `before` a change to `target` that failed. Containerd forgets
    /// such a change: who takes it back changes nothing in its eyes, and the machine would not be asked
    /// again.
    async fn restore(
        &self,
        last: &Ordered,
        before: GuestMemory,
        target: Target,
    ) -> Result<(), Fault> {
        let grew = target
            .memory
            .is_some_and(|size| size.total() > before.held());
        if !grew {
            self.limit(last.resources.clone()).await?;
        }
        if target.memory.is_some() {
            self.give_back(before, last.base).await?;
        }
        if let Some(vcpus) = target.vcpus {
            self.plug(vcpus, last.vcpus).await?;
            self.unplug(vcpus, last.vcpus).await?;
        }
        if let Some(pinned) = &last.pinned {
            self.pin(pinned).await?;
        }
        if grew {
            let now = self.settle(|now| now.held() <= before.held()).await?;
            if now.held() > before.held() {
                // Its limit stays where it is: the guest would be killed for what it has.
                let kept = now.held() >> 20;
                tracing::warn!(kept, "the guest keeps memory (MiB) of a resize that failed");
                return Ok(());
            }
            self.limit(last.resources.clone()).await?;
        }
        Ok(())
    }

    /// Binds the threads of the vCPUs that the machine has now.
    async fn pin(&self, Pinned { pinning, cpus, pid }: &Pinned) -> Result<(), Fault> {
        let bound = pinning.apply(cpus, &self.qmp, *pid).await;
        bound.map_err(Fault::failed)
    }

    /// Sets the limits of the control group.
    async fn limit(&self, resources: LinuxResources) -> Result<(), Fault> {
        let limits = self.limits.clone();
        blocking(move || limits.update(&resources)).await
    }

    /// Lets the guest return what it has beyond `size`, all of it or nothing.
    async fn shrink(&self, before: GuestMemory, size: GuestSize) -> Result<(), Fault> {
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
    async fn give_back(&self, before: GuestMemory, base: u64) -> Result<(), Fault> {
        let now = self.memory().await?;
        if now.requested != before.requested {
            let request = self.qmp.request_memory(before.requested).await;
            request.map_err(fault)?;
        }
        self.qmp.balloon(base).await.map_err(fault)
    }

    /// What memory the guest can do without now, if it tells.
    async fn available(&self) -> Result<Option<u64>, Fault> {
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
    async fn grow(&self, size: GuestSize) -> Result<(), Fault> {
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

    async fn memory(&self) -> Result<GuestMemory, Fault> {
        self.qmp.guest_memory().await.map_err(fault)
    }

    /// Waits until the guest's memory is as `done` wants it, or does not change any more; what it is.
    async fn settle(&self, done: impl Fn(GuestMemory) -> bool) -> Result<GuestMemory, Fault> {
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

    /// Gives the machine vCPUs up to `vcpus`, and brings them online; `before` is what it was last
    /// asked to have.
    async fn plug(&self, before: u32, vcpus: u32) -> Result<(), Fault> {
        let places = self.qmp.vcpu_places().await.map_err(fault)?;
        let (there, free): (Vec<_>, Vec<_>) = places.iter().partition(|place| place.is_taken());
        let missing = usize(vcpus).saturating_sub(there.len());
        for place in free.into_iter().take(missing) {
            self.qmp.plug_vcpu(place).await.map_err(fault)?;
        }
        // Nothing new: what the guest's owner did with them stays.
        if missing > 0 || vcpus > before {
            self.set_online(usize(vcpus)).await;
        }
        Ok(())
    }

    /// Lets the guest's agent, if there is one, use so many vCPUs. Guests without bring theirs online
    /// by themselves (udev), or not.
    async fn set_online(&self, vcpus: usize) {
        let Some(agent) = self.guest.now() else {
            tracing::info!(vcpus, "no guest agent: vCPUs are the guest's own matter");
            return;
        };
        // It sees new ones some milliseconds after they came, and takes them for online at first.
        let patience = Patience::new();
        let mut settled = false;
        while patience.is_left() {
            match agent.set_online_vcpus(vcpus).await {
                Ok(online) if online == vcpus && settled => return,
                Ok(online) => {
                    settled = online == vcpus;
                    sleep(POLL).await;
                }
                Err(error) => {
                    tracing::warn!(%error, vcpus, "the guest's vCPUs are not those of its limit");
                    return;
                }
            }
        }
        tracing::warn!(vcpus, "the guest's vCPUs are not those of its limit");
    }

    /// Takes vCPUs away down to `vcpus`, as far as the guest lets them go: the limit counts anyway.
    async fn unplug(&self, before: u32, vcpus: u32) -> Result<(), Fault> {
        let keep = usize(vcpus);
        if self.emulated {
            // TCG never frees what it keeps for a vCPU and has it for the most of them at a time:
            // QEMU aborts when one is plugged in after another was unplugged.
            if vcpus < before {
                self.set_online(keep).await;
            }
            return Ok(());
        }
        let mut there = self.vcpus().await?;
        let mut patience = Patience::new();
        let mut asked = false;
        for place in there.iter().skip(keep).rev() {
            match self.qmp.unplug_vcpu(place).await {
                Ok(()) => asked = true,
                // Also while the guest has not come as far as its ACPI.
                Err(error @ QmpError::Refused { .. }) => {
                    tracing::info!(%error, "a vCPU cannot be unplugged");
                }
                Err(error) => return Err(fault(error)),
            }
        }
        while there.len() > keep && asked && patience.is_left() {
            sleep(POLL).await;
            let now = self.vcpus().await?;
            if now.len() < there.len() {
                patience.renew();
            }
            there = now;
        }
        if there.len() > keep {
            let left = there.len();
            tracing::warn!(
                left,
                keep,
                "the guest keeps vCPUs: only their time is limited"
            );
        }
        Ok(())
    }

    /// The places that have a vCPU.
    async fn vcpus(&self) -> Result<Vec<VcpuPlace>, Fault> {
        let mut places = self.qmp.vcpu_places().await.map_err(fault)?;
        places.retain(VcpuPlace::is_taken);
        Ok(places)
    }
}

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

/// How long is waited for a guest.
struct Patience {
    until: Instant,
    end: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            until: now + PATIENCE,
            end: now + BOUND,
        }
    }

    /// There was progress.
    fn renew(&mut self) {
        self.until = Instant::now() + PATIENCE;
    }

    fn is_left(&self) -> bool {
        Instant::now() < self.until.min(self.end)
    }
}

fn usize(vcpus: u32) -> usize {
    usize::try_from(vcpus).unwrap_or(usize::MAX)
}

fn fault(error: QmpError) -> Fault {
    match error {
        QmpError::Closed { .. } => {
            Fault::Precondition("the machine ended while its size was changed".into())
        }
        error => Fault::failed(format!("cannot change the machine's size: {error}")),
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
