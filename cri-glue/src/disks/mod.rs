//! The machine's disks: every volume of its spec opened, or made, as the images behind a disk.
//!
//! QEMU gets descriptors only. Images and claims are opened beneath directories that are trusted,
//! without following links out of them; what is made anew lies in the container's writable layer,
//! where the pod's limit of ephemeral storage counts it.

mod block_device;
mod claim;
mod container_disk;
mod error;
mod scratch;

use std::collections::BTreeMap;
use std::path::Path;

use qemu_driver::image;
use qemu_driver::machine::{
    Cache, Disk, DiskBus, DiskDevice, DiskFile, DiskImage, Format, Io, Name,
};
use vm_api::machine::{self, DiskKind, MachineDisk, VolumeSource};

use crate::identity::Identity;
use crate::mounts::{PodMounts, Volume};
use crate::record::Record;
use crate::seed::{self, Identification};

pub use error::DiskError;
pub(crate) use scratch::Scratch;

/// What disks are opened from.
pub struct Sources<'a> {
    /// The container's root, mounted.
    pub rootfs: &'a Path,
    /// The container's id, which names what is made in its root.
    pub container: &'a str,
    /// The pod's volumes.
    pub mounts: &'a PodMounts,
    /// Whose rights claims and Secrets are opened with.
    pub identity: &'a Identity,
    /// Who QEMU is, and owns what is made for it.
    pub owner: &'a Identity,
    /// Capacity in bytes of volumes that may still be empty.
    pub capacities: &'a BTreeMap<String, u64>,
    /// What the seed tells the guest about itself.
    pub identification: Identification<'a>,
    /// Where each step is noted.
    pub record: &'a mut Record,
}

/// An image and how it is best cached.
struct Opened {
    image: DiskImage,
    cache: Cache,
    io: Io,
}

impl Opened {
    /// An image that the node's page cache serves.
    fn cached(image: DiskImage) -> Self {
        Self {
            image,
            cache: Cache::WriteBack,
            io: Io::Threads,
        }
    }
}

/// Opens the volume of `disk` and makes it a disk of the machine.
pub fn open(disk: &MachineDisk<'_>, sources: &mut Sources<'_>) -> Result<Disk, DiskError> {
    let name = disk.name;
    let opened = match disk.source {
        VolumeSource::ContainerDisk(source) => {
            container_disk::open(disk, source.path.as_deref(), sources)?
        }
        VolumeSource::PersistentVolumeClaim(_) | VolumeSource::DataVolume(_) => {
            match sources.mounts.volume(name)? {
                Volume::Mount {
                    source, read_only, ..
                } => claim::open(disk, source, *read_only, sources)?,
                Volume::Device {
                    major,
                    minor,
                    read_only,
                } => block_device::open(disk, (*major, *minor), *read_only, sources)?,
            }
        }
        VolumeSource::EmptyDisk(source) => {
            let capacity = source
                .capacity
                .bytes()
                .map_err(|error| DiskError::Capacity {
                    name: name.to_owned(),
                    message: error.to_string(),
                })?;
            let file = sources.scratch(name, "raw")?;
            let size = capacity.next_multiple_of(image::SECTOR);
            image::create_raw(&file, size).map_err(DiskError::image(name))?;
            Opened::cached(raw(file.into())?)
        }
        VolumeSource::CloudInitNoCloud(source) => {
            let seed = seed::make(
                name,
                source,
                &sources.identification,
                sources.mounts,
                sources.identity,
            )?;
            Opened::cached(raw(seed.into())?)
        }
        other => {
            return Err(DiskError::Unsupported {
                name: name.to_owned(),
                source_name: other.name(),
            });
        }
    };
    describe(disk, opened)
}

fn raw(file: std::os::fd::OwnedFd) -> Result<DiskImage, DiskError> {
    let (file, format) = (DiskFile::new(file)?, Format::Raw);
    Ok(DiskImage::File { file, format })
}

/// Adds to the images what the spec says about the disk.
fn describe(disk: &MachineDisk<'_>, opened: Opened) -> Result<Disk, DiskError> {
    let device = match disk.kind {
        DiskKind::Disk => DiskDevice::Disk,
        DiskKind::Cdrom => DiskDevice::Cdrom,
        DiskKind::Lun => DiskDevice::Lun,
    };
    let bus = match disk.bus {
        machine::DiskBus::Virtio => DiskBus::Virtio,
        machine::DiskBus::Sata => DiskBus::Sata,
        machine::DiskBus::Scsi => DiskBus::Scsi,
        machine::DiskBus::Usb => {
            return Err(DiskError::Bus {
                name: disk.name.to_owned(),
            });
        }
    };
    let cache = match disk.cache {
        None => opened.cache,
        Some(machine::Cache::None) => Cache::None,
        Some(machine::Cache::WriteThrough) => Cache::WriteThrough,
        Some(machine::Cache::WriteBack) => Cache::WriteBack,
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
    let mut made = Disk::new(Name::new("disk", disk.name)?, device, bus, opened.image)?
        .with_cache(cache, io)?;
    if disk.read_only && !made.read_only() {
        made = made.with_read_only()?;
    }
    if disk.shareable {
        made = made.with_shareable()?;
    }
    if let Some(index) = disk.boot_order {
        made = made.with_boot_index(index);
    }
    match disk.serial {
        Some(serial) => Ok(made.with_serial(serial)?),
        None => Ok(made),
    }
}
