//! The guest's vCPUs: plugged in and taken away as far as the guest lets them go.

use qemu_driver::qmp::{QmpError, VcpuPlace};
use tokio::time::sleep;

use super::{POLL, Patience, Resize, fault};
use crate::task::Fault;

impl Resize {
    /// Gives the machine vCPUs up to `vcpus`, and brings them online; `before` is what it was last
    /// asked to have.
    pub(super) async fn plug(&self, before: u32, vcpus: u32) -> Result<(), Fault> {
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
    pub(super) async fn unplug(&self, before: u32, vcpus: u32) -> Result<(), Fault> {
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

fn usize(vcpus: u32) -> usize {
    usize::try_from(vcpus).unwrap_or(usize::MAX)
}
