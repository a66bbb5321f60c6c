//! A claim of volume mode Block: the node's block device, opened for this machine alone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use qemu_driver::machine::{Cache, DiskFile, DiskImage, Io};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, major, makedev, minor, mknodat, openat};
use rustix::io::Errno;
use vm_api::machine::{DiskKind, MachineDisk};

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
    if disk.kind == DiskKind::Lun && !is_scsi(number) {
        return Err(DiskError::NotScsi {
            name: disk.name.to_owned(),
            major: number.0,
            minor: number.1,
        });
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

/// Whether the kernel knows the device as one that takes SCSI commands: a whole one, or several ways to
/// one (multipath).
fn is_scsi((major, minor): (u32, u32)) -> bool {
    let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let kind = std::fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    device.join("device/scsi_level").exists() || kind.starts_with("mpath-")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every block device of this machine, and one that there is not.
    #[test]
    fn only_what_takes_scsi_commands_is_a_scsi_device() {
        assert!(!is_scsi((0, 0)));
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let numbers = std::fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
            let (major, minor) = numbers.trim().split_once(':').unwrap();
            let number = (major.parse().unwrap(), minor.parse().unwrap());
            // Multipath is an administrator's choice, and no machine of the tests has it.
            let named_so = ["sd", "sr"].iter().any(|kind| name.starts_with(kind));
            assert_eq!(is_scsi(number), named_so, "{name}");
        }
    }
}
