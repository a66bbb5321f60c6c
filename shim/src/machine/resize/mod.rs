//! `Update` of a running machine: its guest follows the container's limits as far as it can.
//!
//! What grows gets its limit first and what shrinks loses its limit last, so that the guest is never
//! killed for a limit that it had no time to follow. An update is done wholly or not at all: one that
//! fails is taken back. One update at a time; each asks for the whole again and not for a difference, so
//! that it can be repeated. Every wait is bounded, and the one for a guest ends soon after its last
//! progress: kubelet comes again.

mod memory;
mod vcpus;

use std::sync::Arc;
use std::time::Duration;

use cri_glue::pinning::{Cpus, Pinning};
use oci_spec::runtime::LinuxResources;
use qemu_driver::qmp::{GuestMemory, Qmp, QmpError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::agent::GuestAgent;
use super::limits::{Limits, merge, of_memory};
use super::target::{Asked, Start, Target};
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
            if let Err(error) = self.restore(&mut last, before, target, &wanted).await {
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

    /// Lets the machine have what it had `before` a change to `target` that failed, as far as it goes;
    /// the first thing that does not. Containerd forgets such a change: who takes it back changes nothing
    /// in its eyes, and the machine would not be asked again.
    async fn restore(
        &self,
        last: &mut Ordered,
        before: GuestMemory,
        target: Target,
        wanted: &LinuxResources,
    ) -> Result<(), Fault> {
        let grew = target
            .memory
            .is_some_and(|size| size.total() > before.held());
        let early = match grew {
            true => Ok(()),
            false => self.limit(last.resources.clone()).await,
        };
        let memory = match target.memory {
            Some(_) => self.give_back(before, last.base).await,
            None => Ok(()),
        };
        let vcpus = match target.vcpus {
            Some(vcpus) => self.replug(vcpus, last.vcpus).await,
            None => Ok(()),
        };
        let late = match grew {
            true => self.limit_again(last, before, wanted).await,
            false => Ok(()),
        };
        // Only processors of the control group, which has its former ones now.
        let pinned = match &last.pinned {
            Some(pinned) => self.pin(pinned).await,
            None => Ok(()),
        };
        early.and(memory).and(vcpus).and(late).and(pinned)
    }

    async fn replug(&self, before: u32, vcpus: u32) -> Result<(), Fault> {
        self.plug(before, vcpus).await?;
        self.unplug(before, vcpus).await
    }

    /// Sets the former limits once the guest has no more memory than `before`. One that keeps some keeps
    /// the limit that was `wanted` for it too, now and later: it would be killed for what it has.
    async fn limit_again(
        &self,
        last: &mut Ordered,
        before: GuestMemory,
        wanted: &LinuxResources,
    ) -> Result<(), Fault> {
        let now = self.settle(|now| now.held() <= before.held()).await;
        let returned = now.is_ok_and(|now| now.held() <= before.held());
        if !returned {
            tracing::warn!("the guest keeps memory of a resize that failed, and the limit for it");
            merge(&mut last.resources, &of_memory(wanted));
        }
        self.limit(last.resources.clone()).await
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

fn fault(error: QmpError) -> Fault {
    match error {
        QmpError::Closed { .. } => {
            Fault::Precondition("the machine ended while its size was changed".into())
        }
        error => Fault::failed(format!("cannot change the machine's size: {error}")),
    }
}
