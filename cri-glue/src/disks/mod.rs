//! The machine's disks: every volume of its spec opened, or made, as the images behind a disk.
//!
//! QEMU gets descriptors only. Images and claims are opened beneath directories that are trusted,
//! without following links out of them; what is made anew lies in the container's writable layer,
//! where the pod's limit of ephemeral storage counts it.

mod block_device;
mod block_size;
mod claim;
mod container_disk;
mod describe;
mod ephemeral;
mod error;
mod generated;
mod host_disk;
mod memory;
mod raw_file;
mod scratch;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use qemu_driver::image;
use qemu_driver::machine::{Cache, Disk, DiskFile, DiskImage, Format, Io};
use vm_api::machine::{self, MachineDisk, VolumeSource};

use crate::identity::Identity;
use crate::images::ImageRoots;
use crate::mounts::{PodMounts, Volume};
use crate::record::Record;
use crate::seed::Identification;

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
    /// Roots of images that are containers of the pod.
    pub images: &'a ImageRoots,
    /// Whose rights claims and Secrets are opened with.
    pub identity: &'a Identity,
    /// Who QEMU is, and owns what is made for it.
    pub owner: &'a Identity,
    /// Capacity in bytes of volumes that may still be empty.
    pub capacities: &'a BTreeMap<String, u64>,
    /// What the seed tells the guest about itself.
    pub identification: Identification<'a>,
    /// Bytes of the disks that were made of seeds and settings so far.
    pub generated_bytes: usize,
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
    let opened = match disk.source {
        Some(source) => open_source(disk, source, sources)?,
        None => Opened::cached(DiskImage::Empty),
    };
    describe::describe(disk, opened)
}

fn open_source(
    disk: &MachineDisk<'_>,
    source: VolumeSource<'_>,
    sources: &mut Sources<'_>,
) -> Result<Opened, DiskError> {
    let name = disk.name;
    match source {
        VolumeSource::ContainerDisk(image) => {
            container_disk::open(disk, image.path.as_deref(), sources)
        }
        VolumeSource::PersistentVolumeClaim(_) | VolumeSource::DataVolume(_) => {
            of_claim(disk, sources)
        }
        VolumeSource::Ephemeral(_) => ephemeral::open(disk, sources),
        VolumeSource::HostDisk(wish) => {
            let wish = machine::host_disk(wish, &format!("volume {name}"))?;
            host_disk::open(disk, wish, sources)
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
            Ok(Opened::cached(raw(file.into())?))
        }
        source if source.is_generated() => generated::open(disk, source, sources),
        other => Err(DiskError::Unsupported {
            name: name.to_owned(),
            source_name: other.name(),
        }),
    }
}

/// Opens the disk of a claim, of whichever volume mode it is.
fn of_claim(disk: &MachineDisk<'_>, sources: &mut Sources<'_>) -> Result<Opened, DiskError> {
    match sources.mounts.volume(disk.name)? {
        Volume::Mount {
            source, read_only, ..
        } => claim::open(disk, source, *read_only, sources),
        Volume::Device {
            major,
            minor,
            read_only,
        } => block_device::open(disk, (*major, *minor), *read_only, sources),
    }
}

fn raw(file: std::os::fd::OwnedFd) -> Result<DiskImage, DiskError> {
    let (file, format) = (DiskFile::new(file)?, Format::Raw);
    Ok(DiskImage::File { file, format })
}
