//! What a disk can be told beside its image: error policy and block sizes; and all of it read back.

use std::num::NonZeroU32;

use super::{Cache, Disk, DiskBus, DiskDevice, DiskImage, Io, MachineError, Name};

/// Bytes that a block has at most (QEMU's `MAX_BLOCK_SIZE`).
const MAX_BLOCK: u32 = 2 << 20;

/// What an error of the storage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// It stops the guest; the request is tried again when the guest goes on.
    Stop,
    /// The guest is told.
    Report,
    /// Nobody is told.
    Ignore,
    /// Want of space stops the guest, which is told of every other error.
    Enospace,
}

impl ErrorPolicy {
    /// QEMU's words for errors of writing and of reading.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Stop => ("stop", "stop"),
            Self::Report => ("report", "report"),
            Self::Ignore => ("ignore", "ignore"),
            Self::Enospace => ("enospc", "report"),
        }
    }
}

/// Block sizes that a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    logical: u32,
    physical: u32,
    discard_granularity: Option<u32>,
}

impl BlockSizes {
    /// Sizes in bytes, powers of two from 512 to 2 MiB, the logical one not above the physical one. What
    /// is discarded is a multiple of the logical one, or 0 if nothing can be.
    pub fn new(
        logical: u32,
        physical: u32,
        discard_granularity: Option<u32>,
    ) -> Result<Self, MachineError> {
        let fits = |size: u32| size.is_power_of_two() && (512..=MAX_BLOCK).contains(&size);
        let multiple =
            discard_granularity.is_none_or(|size| logical > 0 && size.is_multiple_of(logical));
        if fits(logical) && fits(physical) && logical <= physical && multiple {
            Ok(Self {
                logical,
                physical,
                discard_granularity,
            })
        } else {
            Err(MachineError::BlockSizes { logical, physical })
        }
    }

    /// The unit in which the guest addresses the disk, in bytes.
    pub fn logical(self) -> u32 {
        self.logical
    }

    /// The unit in which the medium writes, in bytes.
    pub fn physical(self) -> u32 {
        self.physical
    }

    /// The smallest piece that can be discarded, in bytes; QEMU decides where nothing is said.
    pub fn discard_granularity(self) -> Option<u32> {
        self.discard_granularity
    }
}

impl Disk {
    /// The disk's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What the guest sees.
    pub fn device(&self) -> DiskDevice {
        self.device
    }

    /// How the guest reaches it.
    pub fn bus(&self) -> DiskBus {
        self.bus
    }

    /// Whether the guest can only read.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The place in the order of booting.
    pub fn boot_index(&self) -> Option<NonZeroU32> {
        self.boot_index
    }

    /// The serial number that the guest reads.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// How the host caches.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// How QEMU transfers.
    pub fn io(&self) -> Io {
        self.io
    }

    /// Whether other machines may write to the image.
    pub fn shareable(&self) -> bool {
        self.shareable
    }

    /// What an error of the storage does, if that was decided.
    pub fn error_policy(&self) -> Option<ErrorPolicy> {
        self.error_policy
    }

    /// The block sizes that the guest sees, if they were decided.
    pub fn block_sizes(&self) -> Option<BlockSizes> {
        self.block_sizes
    }

    /// The I/O thread that serves it.
    pub fn io_thread(&self) -> Option<usize> {
        self.io_thread
    }

    /// How many queues the guest finds, if that was decided.
    pub fn queues(&self) -> Option<u32> {
        self.queues
    }

    /// Its own slot on the guest's first PCI bus.
    pub fn slot(&self) -> Option<usize> {
        self.slot
    }

    /// Whether its tray is to be opened before the guest starts.
    pub fn tray_open(&self) -> bool {
        self.tray_open
    }

    /// Whether it is a drive without a medium.
    pub fn is_empty(&self) -> bool {
        matches!(self.image, DiskImage::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_powers_of_two_that_fit_each_other() {
        for (logical, physical, discard) in [
            (512, 512, None),
            (512, 4096, Some(1536)),
            (4096, MAX_BLOCK, Some(0)),
        ] {
            assert!(BlockSizes::new(logical, physical, discard).is_ok());
        }
        for (logical, physical, discard) in [
            (0, 0, None),
            (0, 512, Some(0)),
            (256, 512, None),
            (4096, 512, None),
            (1000, 1000, None),
            (512, 2 * MAX_BLOCK, None),
            (512, 512, Some(1000)),
        ] {
            assert!(BlockSizes::new(logical, physical, discard).is_err());
        }
    }
}
