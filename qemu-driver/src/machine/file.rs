//! An open file or block device that becomes (part of) a disk.
//!
//! QEMU opens it anew through `/dev/fdset`, for which it wants a descriptor of each access mode
//! that it may ask for: a read-write file therefore brings a read-only twin along.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::MachineError;

/// An open regular file or block device.
#[derive(Debug)]
pub struct DiskFile {
    access: Access,
    block_device: bool,
}

#[derive(Debug)]
pub(crate) enum Access {
    ReadOnly(OwnedFd),
    ReadWrite {
        read_write: OwnedFd,
        read_only: OwnedFd,
    },
}

impl DiskFile {
    /// Takes `fd`, a regular file or block device opened read-only or read-write: its access mode
    /// decides whether the guest can write. Of a read-write one, a read-only twin is opened
    /// through `/proc/self/fd`.
    pub fn new(fd: impl Into<OwnedFd>) -> Result<Self, MachineError> {
        let fd = fd.into();
        let unusable = |source: std::io::Error| MachineError::DiskFile { source };
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|errno| unusable(errno.into()))?;
        let file = File::from(fd);
        let kind = file.metadata().map_err(unusable)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(MachineError::DiskFileKind(kind));
        }
        let access = match OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE {
            _ if OFlag::from_bits_truncate(flags).contains(OFlag::O_PATH) => {
                return Err(MachineError::DiskFileAccess("only as a path (O_PATH)"));
            }
            OFlag::O_RDONLY => Access::ReadOnly(file.into()),
            OFlag::O_RDWR => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let twin = OpenOptions::new().read(true).open(path).map_err(unusable)?;
                Access::ReadWrite {
                    read_write: file.into(),
                    read_only: twin.into(),
                }
            }
            _ => return Err(MachineError::DiskFileAccess("write-only")),
        };
        let file = Self {
            access,
            block_device: kind.is_block_device(),
        };
        file.set_direct(false)
            .map_err(|errno| unusable(errno.into()))?;
        Ok(file)
    }

    /// Switches direct input and output (past the page cache) on or off; not every file system can.
    /// From version 9.1 QEMU takes only a descriptor on which it is as the disk wants it.
    pub(crate) fn set_direct(&self, direct: bool) -> Result<(), nix::Error> {
        match &self.access {
            Access::ReadOnly(fd) => set_direct(fd.as_fd(), direct),
            Access::ReadWrite {
                read_write,
                read_only,
            } => {
                set_direct(read_write.as_fd(), direct)?;
                set_direct(read_only.as_fd(), direct)
            }
        }
    }

    /// Whether it was opened read-write.
    pub fn is_writable(&self) -> bool {
        matches!(self.access, Access::ReadWrite { .. })
    }

    /// Whether it is a block device, not a regular file.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// A file that passes for a block device, where a test has none.
    #[cfg(test)]
    pub(crate) fn block_device_for_test(file: File) -> Self {
        Self {
            block_device: true,
            ..Self::new(file).unwrap()
        }
    }

    pub(crate) fn into_access(self) -> Access {
        self.access
    }
}

fn set_direct(fd: BorrowedFd<'_>, direct: bool) -> Result<(), nix::Error> {
    let mut flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_DIRECT, direct);
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop)
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.access {
            Access::ReadOnly(fd) | Access::ReadWrite { read_write: fd, .. } => fd.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_mode_decides() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(DiskFile::new(file.reopen().unwrap()).unwrap().is_writable());
        let read_only = File::open(file.path()).unwrap();
        assert!(!DiskFile::new(read_only).unwrap().is_writable());
        let write_only = OpenOptions::new().write(true).open(file.path()).unwrap();
        assert!(matches!(
            DiskFile::new(write_only),
            Err(MachineError::DiskFileAccess(_))
        ));
    }

    #[test]
    fn only_files_and_block_devices() {
        let directory = File::open("/").unwrap();
        assert!(matches!(
            DiskFile::new(directory),
            Err(MachineError::DiskFileKind(_))
        ));
        let character_device = File::open("/dev/null").unwrap();
        assert!(matches!(
            DiskFile::new(character_device),
            Err(MachineError::DiskFileKind(_))
        ));
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(
            DiskFile::new(socket),
            Err(MachineError::DiskFileKind(_))
        ));
    }
}
