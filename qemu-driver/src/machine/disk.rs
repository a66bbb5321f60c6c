//! A disk of the machine: what the guest sees of it, and the images behind it.

use std::num::NonZeroU32;

use super::{DiskFile, MachineError, Name, name::is_word_byte};

/// A disk of the machine. Its QEMU device id is `disk-<name>`.
#[derive(Debug)]
pub struct Disk {
    name: Name,
    device: DiskDevice,
    bus: DiskBus,
    image: DiskImage,
    read_only: bool,
    /// See [`Disk::with_boot_index`].
    boot_index: Option<NonZeroU32>,
    serial: Option<String>,
    cache: Cache,
    io: Io,
    shareable: bool,
}

/// What kind of device the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// A CD-ROM drive with its medium; read-only. On SATA or SCSI.
    Cdrom,
    /// A SCSI device of the node whose commands pass through to the guest. On SCSI, and its image
    /// is a block device.
    Lun,
}

/// How the guest reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk: one PCI function for each disk.
    Virtio,
    /// The AHCI controller of q35: at most [`MAX_SATA_DISKS`].
    Sata,
    /// virtio-scsi: one controller for all disks.
    Scsi,
}

/// Ports of q35's AHCI controller.
pub const MAX_SATA_DISKS: usize = 6;

/// The format of an image. Decided by the caller (see [`image`](crate::image)), never by QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk themselves.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// The images behind a disk.
#[derive(Debug)]
pub enum DiskImage {
    /// One file in the given format; the guest writes into it unless it was opened read-only.
    File {
        /// The file.
        file: DiskFile,
        /// Its format.
        format: Format,
    },
    /// A read-only base below a qcow2 overlay that takes the guest's writes. The overlay's header
    /// names no backing file: the base is given to QEMU explicitly.
    Overlay {
        /// The base, opened read-only.
        base: DiskFile,
        /// The base's format.
        base_format: Format,
        /// The overlay, opened read-write.
        overlay: DiskFile,
    },
    /// A block device of the node.
    BlockDevice(DiskFile),
}

impl DiskImage {
    fn files(&self) -> [Option<&DiskFile>; 2] {
        match self {
            Self::File { file, .. } | Self::BlockDevice(file) => [Some(file), None],
            Self::Overlay { base, overlay, .. } => [Some(base), Some(overlay)],
        }
    }

    fn is_writable(&self) -> bool {
        match self {
            Self::File { file, .. } | Self::BlockDevice(file) => file.is_writable(),
            Self::Overlay { .. } => true,
        }
    }
}

/// How the host caches the disk (words of `virsh` and KubeVirt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// By the host's page cache; the guest's flushes reach the medium.
    #[default]
    WriteBack,
    /// By the host's page cache for reads; every write reaches the medium.
    WriteThrough,
    /// Not at all (`O_DIRECT`); the file system must be able to.
    None,
}

/// How QEMU does the disk's input and output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// A pool of threads.
    #[default]
    Threads,
    /// Linux's asynchronous input and output; needs [`Cache::None`].
    Native,
}

impl Disk {
    /// A disk, read-only if its image was opened so or if it is a CD-ROM.
    pub fn new(
        name: Name,
        device: DiskDevice,
        bus: DiskBus,
        image: DiskImage,
    ) -> Result<Self, MachineError> {
        let refuse = |why| {
            Err(MachineError::Disk {
                name: name.clone(),
                why,
            })
        };
        match (&device, &bus, &image) {
            (DiskDevice::Cdrom, DiskBus::Virtio, _) => {
                return refuse("a CD-ROM is on bus sata or scsi, not virtio");
            }
            (DiskDevice::Lun, DiskBus::Scsi, DiskImage::BlockDevice(_)) => {}
            (DiskDevice::Lun, _, _) => {
                return refuse("a LUN is on bus scsi and backed by a block device");
            }
            _ => {}
        }
        match &image {
            DiskImage::BlockDevice(file) if !file.is_block_device() => {
                return refuse("its image was announced as a block device, which it is not");
            }
            DiskImage::File { file, .. } if file.is_block_device() => {
                return refuse("its image was announced as a file, but is a block device");
            }
            DiskImage::Overlay { base, .. } if base.is_writable() => {
                return refuse("the base below an overlay must be opened read-only");
            }
            DiskImage::Overlay { overlay, .. } if !overlay.is_writable() => {
                return refuse("its overlay must be opened read-write");
            }
            _ => {}
        }
        let read_only = device == DiskDevice::Cdrom || !image.is_writable();
        if read_only && bus == DiskBus::Sata && device == DiskDevice::Disk {
            return refuse(READ_ONLY_SATA);
        }
        Ok(Self {
            name,
            device,
            bus,
            image,
            read_only,
            boot_index: None,
            serial: None,
            cache: Cache::default(),
            io: Io::default(),
            shareable: false,
        })
    }

    /// The guest cannot write to the disk, though its image could be written.
    pub fn with_read_only(mut self) -> Result<Self, MachineError> {
        if self.bus == DiskBus::Sata && self.device == DiskDevice::Disk {
            return Err(MachineError::Disk {
                name: self.name,
                why: READ_ONLY_SATA,
            });
        }
        self.read_only = true;
        Ok(self)
    }

    /// The disk's place in the order of booting, from 1. A machine's boot indices are unique; what
    /// has none is not booted from, unless nothing has one.
    pub fn with_boot_index(mut self, index: NonZeroU32) -> Self {
        self.boot_index = Some(index);
        self
    }

    /// The serial number that the guest reads: `[A-Za-z0-9._+-]`, at most 20 characters on virtio
    /// and SATA, 36 on SCSI (what the protocols carry; QEMU would cut it silently).
    pub fn with_serial(mut self, serial: impl Into<String>) -> Result<Self, MachineError> {
        let serial = serial.into();
        let most = match self.bus {
            DiskBus::Virtio | DiskBus::Sata => 20,
            DiskBus::Scsi => 36,
        };
        let alphabet = serial.bytes().all(|b| is_word_byte(b) || b == b'+');
        if serial.is_empty() || serial.len() > most || !alphabet {
            return Err(MachineError::Serial {
                name: self.name,
                serial,
                most,
            });
        }
        if self.device == DiskDevice::Lun {
            let why = "a LUN shows the serial number of the device behind it, not another";
            return Err(MachineError::Disk {
                name: self.name,
                why,
            });
        }
        self.serial = Some(serial);
        Ok(self)
    }

    /// How the host caches and transfers the disk's data. [`Cache::None`] is refused where the
    /// file system below one of the images cannot do it.
    pub fn with_cache(mut self, cache: Cache, io: Io) -> Result<Self, MachineError> {
        if io == Io::Native && cache != Cache::None {
            let why = "io: native needs cache: none";
            return Err(MachineError::Disk {
                name: self.name,
                why,
            });
        }
        let direct = cache == Cache::None;
        if self
            .image
            .files()
            .into_iter()
            .flatten()
            .any(|file| file.set_direct(direct).is_err())
        {
            let why = "its file system cannot do without the page cache: choose another cache \
                       than none";
            return Err(MachineError::Disk {
                name: self.name,
                why,
            });
        }
        (self.cache, self.io) = (cache, io);
        Ok(self)
    }

    /// Other machines may write to the same image at the same time; without this QEMU refuses to
    /// start when one does. Only for raw files and block devices.
    pub fn with_shareable(mut self) -> Result<Self, MachineError> {
        match self.image {
            DiskImage::File {
                format: Format::Raw,
                ..
            }
            | DiskImage::BlockDevice(_) => {
                self.shareable = true;
                Ok(self)
            }
            _ => {
                let why = "only a raw file or a block device can be shared by machines";
                Err(MachineError::Disk {
                    name: self.name,
                    why,
                })
            }
        }
    }

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

    pub(crate) fn into_image(self) -> DiskImage {
        self.image
    }
}

/// ATA has no notion of a write-protected disk.
const READ_ONLY_SATA: &str =
    "a SATA disk cannot be read-only: choose bus virtio or scsi, or make it a CD-ROM";
