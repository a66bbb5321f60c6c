//! A disk of the machine: what the guest sees of it, and the images behind it.

use std::num::NonZeroU32;

use super::disk_options::{BlockSizes, ErrorPolicy};
use super::{DiskFile, MachineError, Name, name::is_word_byte};
use crate::pci;

/// A disk of the machine. Its QEMU device id is `disk-<name>`.
#[derive(Debug)]
pub struct Disk {
    pub(super) name: Name,
    pub(super) device: DiskDevice,
    pub(super) bus: DiskBus,
    pub(super) image: DiskImage,
    pub(super) read_only: bool,
    /// See [`Disk::with_boot_index`].
    pub(super) boot_index: Option<NonZeroU32>,
    pub(super) serial: Option<String>,
    pub(super) cache: Cache,
    pub(super) io: Io,
    pub(super) shareable: bool,
    pub(super) error_policy: Option<ErrorPolicy>,
    pub(super) block_sizes: Option<BlockSizes>,
    /// See [`Disk::with_io_thread`].
    pub(super) io_thread: Option<usize>,
    pub(super) queues: Option<u32>,
    pub(super) slot: Option<usize>,
    pub(super) tray_open: bool,
}

/// What kind of device the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// A CD-ROM drive, with its medium or empty; read-only. On SATA, SCSI or USB.
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
    /// USB mass storage: at most [`MAX_USB_DISKS`].
    Usb,
}

/// Ports of q35's AHCI controller.
pub const MAX_SATA_DISKS: usize = 6;

/// Ports of the USB controller that are for disks.
pub const MAX_USB_DISKS: usize = 8;

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
    /// A read-only base, a file or a block device, below a qcow2 overlay that takes the guest's
    /// writes. The overlay's header names no backing file: the base is given to QEMU explicitly.
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
    /// No medium, in a CD-ROM drive.
    Empty,
}

impl DiskImage {
    fn files(&self) -> [Option<&DiskFile>; 2] {
        match self {
            Self::Empty => [None, None],
            Self::File { file, .. } | Self::BlockDevice(file) => [Some(file), None],
            Self::Overlay { base, overlay, .. } => [Some(base), Some(overlay)],
        }
    }

    fn is_writable(&self) -> bool {
        match self {
            Self::File { file, .. } | Self::BlockDevice(file) => file.is_writable(),
            Self::Overlay { .. } => true,
            Self::Empty => false,
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
                return refuse("a CD-ROM is on bus sata, scsi or usb, not virtio");
            }
            (DiskDevice::Lun, DiskBus::Scsi, DiskImage::BlockDevice(_)) => {}
            (DiskDevice::Lun, _, _) => {
                return refuse("a LUN is on bus scsi and backed by a block device");
            }
            (DiskDevice::Disk, _, DiskImage::Empty) => {
                return refuse("only a CD-ROM drive can be empty");
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
            error_policy: None,
            block_sizes: None,
            io_thread: None,
            queues: None,
            slot: None,
            tray_open: false,
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
    /// and SATA, 36 on SCSI and USB (what the protocols carry; QEMU would cut it silently).
    pub fn with_serial(mut self, serial: impl Into<String>) -> Result<Self, MachineError> {
        let serial = serial.into();
        let most = match self.bus {
            DiskBus::Virtio | DiskBus::Sata => 20,
            DiskBus::Scsi | DiskBus::Usb => 36,
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

    /// What an error of the storage does. Without it, the guest is stopped; of a read-only disk, it is
    /// told of a failed write.
    pub fn with_error_policy(mut self, policy: ErrorPolicy) -> Self {
        self.error_policy = Some(policy);
        self
    }

    /// The block sizes that the guest sees. A SATA disk has logical blocks of 512 bytes.
    pub fn with_block_sizes(mut self, sizes: BlockSizes) -> Result<Self, MachineError> {
        let why = match (self.device, self.bus) {
            (DiskDevice::Disk, DiskBus::Sata) if sizes.logical() != 512 => {
                "a SATA disk has logical blocks of 512 bytes"
            }
            (DiskDevice::Disk, _) => {
                self.block_sizes = Some(sizes);
                return Ok(self);
            }
            _ => "a CD-ROM and a LUN have block sizes of their own",
        };
        Err(MachineError::Disk {
            name: self.name,
            why,
        })
    }

    /// The machine's I/O thread that serves the disk, from 0, instead of QEMU's main loop. Only on
    /// virtio.
    pub fn with_io_thread(mut self, thread: usize) -> Result<Self, MachineError> {
        self.check_virtio("only a virtio disk can have an I/O thread")?;
        self.io_thread = Some(thread);
        Ok(self)
    }

    /// How many queues the guest finds; without it, QEMU makes one for each vCPU that the machine
    /// starts with. Only on virtio.
    pub fn with_queues(mut self, queues: u32) -> Result<Self, MachineError> {
        self.check_virtio("only a virtio disk has several queues")?;
        self.queues = Some(queues);
        Ok(self)
    }

    /// The disk's own slot on the guest's first PCI bus: one of those that nothing else is in, see
    /// [`FREE_SLOTS`](crate::machine::FREE_SLOTS). Only on virtio.
    pub fn with_slot(mut self, slot: usize) -> Result<Self, MachineError> {
        self.check_virtio("only a virtio disk has an address on the PCI bus")?;
        if !pci::FREE_SLOTS.contains(&slot) {
            return Err(MachineError::Disk {
                name: self.name,
                why: "that address on the PCI bus is not free",
            });
        }
        self.slot = Some(slot);
        Ok(self)
    }

    /// The drive's tray is to be opened before the guest starts ([`Qmp::open_tray`](crate::Qmp::open_tray)).
    pub fn with_open_tray(mut self) -> Result<Self, MachineError> {
        if self.device != DiskDevice::Cdrom {
            return Err(MachineError::Disk {
                name: self.name,
                why: "only a CD-ROM drive has a tray",
            });
        }
        self.tray_open = true;
        Ok(self)
    }

    fn check_virtio(&self, why: &'static str) -> Result<(), MachineError> {
        if self.bus == DiskBus::Virtio {
            return Ok(());
        }
        let name = self.name.clone();
        Err(MachineError::Disk { name, why })
    }

    pub(crate) fn into_image(self) -> DiskImage {
        self.image
    }
}

/// ATA has no notion of a write-protected disk.
const READ_ONLY_SATA: &str =
    "a SATA disk cannot be read-only: choose bus virtio, scsi or usb, or make it a CD-ROM";
