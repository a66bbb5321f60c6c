//! What the spec says about a disk, added to its images.

use qemu_driver::machine::{
    BlockSizes, Cache, Disk, DiskBus, DiskDevice, ErrorPolicy, Io, Name, PciAddress,
};
use vm_api::machine::{self, BlockSize, DiskKind, MachineDisk};

use super::block_size::of_image;
use super::{DiskError, Opened};

/// The disk of the machine that `disk` describes, over the images that were opened for it.
pub(super) fn describe(disk: &MachineDisk<'_>, opened: Opened) -> Result<Disk, DiskError> {
    let device = match disk.kind {
        DiskKind::Disk => DiskDevice::Disk,
        DiskKind::Cdrom => DiskDevice::Cdrom,
        DiskKind::Lun => DiskDevice::Lun,
    };
    let bus = match disk.bus {
        machine::DiskBus::Virtio => DiskBus::Virtio,
        machine::DiskBus::Sata => DiskBus::Sata,
        machine::DiskBus::Scsi => DiskBus::Scsi,
        machine::DiskBus::Usb => DiskBus::Usb,
    };
    let sizes = match disk.block_size {
        Some(BlockSize::OfVolume) => Some(of_image(disk.name, &opened.image)?),
        Some(BlockSize::Custom {
            logical,
            physical,
            discard_granularity,
        }) => Some(BlockSizes::new(logical, physical, discard_granularity)?),
        None => None,
    };
    let (cache, io) = caching(disk, &opened)?;
    let mut made = Disk::new(Name::new("disk", disk.name)?, device, bus, opened.image)?
        .with_cache(cache, io)?;
    if disk.read_only && !made.read_only() {
        made = made.with_read_only()?;
    }
    if disk.shareable && !made.is_empty() {
        made = made.with_shareable()?;
    }
    if let Some(index) = disk.boot_order {
        made = made.with_boot_index(index);
    }
    if let Some(policy) = disk.error_policy {
        made = made.with_error_policy(error_policy(policy));
    }
    if let Some(sizes) = sizes {
        made = made.with_block_sizes(sizes)?;
    }
    if let Some(address) = disk.pci_address {
        let address: PciAddress = address.parse()?;
        made = made.with_slot(address.slot_on_first_bus().unwrap_or_default())?;
    }
    if disk.tray_open {
        made = made.with_open_tray()?;
    }
    match disk.serial {
        Some(serial) => Ok(made.with_serial(serial)?),
        None => Ok(made),
    }
}

/// What the spec says, or else what suits the images.
fn caching(disk: &MachineDisk<'_>, opened: &Opened) -> Result<(Cache, Io), DiskError> {
    let cache = match (disk.cache, disk.io) {
        // The kernel's own asynchronous interface is one only past the page cache.
        (None, Some(machine::Io::Native)) => Cache::None,
        (None, _) => opened.cache,
        (Some(machine::Cache::None), _) => Cache::None,
        (Some(machine::Cache::WriteThrough), _) => Cache::WriteThrough,
        (Some(machine::Cache::WriteBack), _) => Cache::WriteBack,
    };
    let io = match disk.io {
        None if cache == opened.cache => opened.io,
        None | Some(machine::Io::Threads) => Io::Threads,
        Some(machine::Io::Native) => Io::Native,
        Some(machine::Io::IoUring) => {
            return Err(DiskError::IoUring {
                name: disk.name.to_owned(),
            });
        }
    };
    Ok((cache, io))
}

fn error_policy(policy: machine::ErrorPolicy) -> ErrorPolicy {
    match policy {
        machine::ErrorPolicy::Stop => ErrorPolicy::Stop,
        machine::ErrorPolicy::Report => ErrorPolicy::Report,
        machine::ErrorPolicy::Ignore => ErrorPolicy::Ignore,
        machine::ErrorPolicy::Enospace => ErrorPolicy::Enospace,
    }
}
