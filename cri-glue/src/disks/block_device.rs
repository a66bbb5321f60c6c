//! A claim of volume mode Block: the node's block device, opened for this machine alone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use qemu_driver::machine::{Cache, DiskFile, DiskImage, Io};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, makedev, minor, mknodat, openat};
use rustix::io::Errno;
use vm_api::machine::MachineDisk;

use super::{DiskError, Opened, Sources};
use crate::record::Step;

/// Where device nodes work on every node; many other directories are mounted `nodev`.
const DEVICES: &str = "/dev";

/// Opens the device with this major and minor number. That the pod lists it is the right to use
/// it, as for the device rules of an ordinary container; the pod's user needs none on the node.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    number: (u32, u32),
    read_only: bool,
    sources: &mut Sources<'_>,
) -> Result<Opened, DiskError> {
    let mut flags = if disk.read_only || read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    if !disk.shareable {
        // For a block device: nobody else has it open exclusively or mounted (open(2)).
        flags |= OFlags::EXCL;
    }
    let device = open_device(disk.name, number, flags, sources).map_err(|error| {
        let name = disk.name.to_owned();
        match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => DiskError::InUse { name },
            _ => DiskError::OpenDevice {
                name,
                major: number.0,
                minor: number.1,
                source: error,
            },
        }
    })?;
    Ok(Opened {
        image: DiskImage::BlockDevice(DiskFile::new(device)?),
        cache: Cache::None,
        io: Io::Native,
    })
}

/// Opens the device by a node of our own, which is there for that moment only.
fn open_device(
    name: &str,
    number: (u32, u32),
    flags: OFlags,
    sources: &mut Sources<'_>,
) -> io::Result<OwnedFd> {
    let path = Path::new(DEVICES).join(format!(".kubevirt-{}-{name}", sources.container));
    sources.record.note(&Step::File { path: path.clone() })?;
    let mode = Mode::RUSR | Mode::WUSR;
    let device = makedev(number.0, number.1);
    mknodat(CWD, &path, FileType::BlockDevice, mode, device)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat(CWD, &path, flags, Mode::empty());
    std::fs::remove_file(&path)?;
    let opened = opened?;
    let found = fstat(&opened)?.st_rdev;
    if (major(found), minor(found)) != number {
        return Err(io::Error::other("another device answered"));
    }
    Ok(opened)
}
