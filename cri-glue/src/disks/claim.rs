//! A claim of volume mode Filesystem: its `disk.img`, made when the claim is empty.
//!
//! Opened with the rights of the pod's user, and locked as long as any descriptor of it is open,
//! so that two machines of a node never write to one disk by mistake.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use qemu_driver::image;
use qemu_driver::machine::{Cache, DiskFile, DiskImage, Format, Io};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, flock, fstatvfs,
    linkat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use vm_api::contract::{DISK_IMAGE_FILE, FILESYSTEM_OVERHEAD_PERMILLE};
use vm_api::machine::MachineDisk;

use super::{DiskError, Opened, Sources};
use crate::beneath::{Directory, Links, RegularError};

/// What a disk is called while it is made.
const UNFINISHED: &str = ".disk.img.unfinished";

/// The unit of the size of disks that are made.
const MIB: u64 = 1 << 20;

/// Opens the disk in the claim that is mounted from `source` on the node.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    source: &Path,
    read_only: bool,
    sources: &Sources<'_>,
) -> Result<Opened, DiskError> {
    let claim = Claim {
        name: disk.name,
        uid: sources.identity.uid,
        read_only: disk.read_only || read_only,
        shareable: disk.shareable,
        capacity: sources.capacities.get(disk.name).copied(),
        own_file_system: is_own_file_system(source),
        directory: Directory::open(source).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => DiskError::NotADirectory {
                name: disk.name.to_owned(),
            },
            _ => DiskError::OpenClaim {
                name: disk.name.to_owned(),
                uid: 0,
                source: error,
            },
        })?,
    };
    let opened = sources.identity.run(|| claim.open());
    opened.unwrap_or_else(|source| Err(claim.unopened(source)))
}

/// Whether something is mounted at `path`.
fn is_own_file_system(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
    matches!((device(path), device(&path.join(".."))), (Ok(own), Ok(above)) if own != above)
}

struct Claim<'a> {
    name: &'a str,
    uid: u32,
    read_only: bool,
    shareable: bool,
    capacity: Option<u64>,
    own_file_system: bool,
    directory: Directory,
}

impl Claim<'_> {
    fn open(&self) -> Result<Opened, DiskError> {
        let file = match self.open_existing()? {
            Some(file) => file,
            None if self.read_only => {
                return Err(DiskError::EmptyReadOnly {
                    name: self.name.to_owned(),
                });
            }
            None => self.make()?,
        };
        image::raw_size(&file).map_err(DiskError::image(self.name))?;
        let uncached = can_be_uncached(&file);
        let (file, format) = (DiskFile::new(file)?, Format::Raw);
        Ok(Opened {
            image: DiskImage::File { file, format },
            cache: if uncached {
                Cache::None
            } else {
                Cache::WriteBack
            },
            io: Io::Threads,
        })
    }

    /// The disk, locked; `None` if there is none yet.
    fn open_existing(&self) -> Result<Option<File>, DiskError> {
        let access = if self.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let Some(file) = self.open_file(DISK_IMAGE_FILE, access)? else {
            return Ok(None);
        };
        self.lock(&file)?;
        Ok(Some(file))
    }

    /// The regular file `file` of the claim; `None` if there is none.
    fn open_file(&self, file: &'static str, access: OFlags) -> Result<Option<File>, DiskError> {
        let path = Path::new(file);
        match self.directory.file(path, access, Links::Refused) {
            Ok(file) => Ok(Some(file)),
            Err(RegularError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(RegularError::Io(error)) => Err(self.unopened(error)),
            Err(RegularError::Kind(kind)) => Err(DiskError::ClaimNotAFile {
                name: self.name.to_owned(),
                file,
                kind,
            }),
        }
    }

    /// Makes the disk: whole under another name, then under its own unless one appeared there.
    fn make(&self) -> Result<File, DiskError> {
        self.check_empty()?;
        let size = self.size()?;
        let unfinished = Path::new(UNFINISHED);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        let file = self
            .directory
            .open_at(unfinished, flags, mode)
            .map(File::from)
            .map_err(|error| self.unopened(error))?;
        self.lock(&file)?;
        file.set_len(0).map_err(|error| self.unopened(error))?;
        image::create_raw(&file, size).map_err(DiskError::image(self.name))?;
        file.sync_all().map_err(|error| self.unopened(error))?;
        match self.publish() {
            Ok(()) => Ok(file),
            Err(Errno::EXIST) => Err(DiskError::InUse {
                name: self.name.to_owned(),
            }),
            Err(error) => Err(self.unopened(error.into())),
        }
    }

    fn publish(&self) -> Result<(), Errno> {
        let directory = &self.directory;
        let (from, to) = (UNFINISHED, DISK_IMAGE_FILE);
        match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
            // Network file systems cannot rename so, but link.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(directory, from, directory, to, AtFlags::empty())?;
                unlinkat(directory, from, AtFlags::empty())
            }
            result => result,
        }
    }

    /// Refuses a claim whose files may be the disk under another name.
    fn check_empty(&self) -> Result<(), DiskError> {
        let entries = self
            .directory
            .entries()
            .map_err(|error| self.unopened(error))?;
        let mut foreign = entries
            .iter()
            .filter(|name| *name != "lost+found" && !name.as_encoded_bytes().starts_with(b"."));
        match foreign.next() {
            None => Ok(()),
            Some(found) => Err(DiskError::ClaimNotEmpty {
                name: self.name.to_owned(),
                found: found.to_string_lossy().into_owned(),
            }),
        }
    }

    /// Bytes of the disk to be made: the claim's capacity less what its file system keeps, and
    /// what is free where the claim is a file system of its own.
    fn size(&self) -> Result<u64, DiskError> {
        let less = |bytes: u64| bytes / 1000 * (1000 - FILESYSTEM_OVERHEAD_PERMILLE);
        let free = if self.own_file_system {
            let stat = open_self(&self.directory)
                .and_then(|directory| Ok(fstatvfs(directory)?))
                .map_err(|error| self.unopened(error))?;
            Some(stat.f_bavail.saturating_mul(stat.f_frsize))
        } else {
            None
        };
        let size = match (self.capacity, free) {
            (Some(capacity), Some(free)) => less(capacity).min(free),
            (Some(capacity), None) => less(capacity),
            (None, Some(free)) => less(free),
            (None, None) => {
                return Err(DiskError::UnknownSize {
                    name: self.name.to_owned(),
                });
            }
        };
        match size / MIB * MIB {
            0 => Err(DiskError::TooSmall {
                name: self.name.to_owned(),
                size,
            }),
            size => Ok(size),
        }
    }

    /// Locks the disk against machines that did not agree to share it. The lock belongs to the
    /// open file, which QEMU inherits: it ends when the last of us closes it.
    fn lock(&self, file: &File) -> Result<(), DiskError> {
        let operation = match (self.shareable, self.read_only) {
            (true, _) | (false, true) => FlockOperation::NonBlockingLockShared,
            (false, false) => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(file, operation) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(DiskError::InUse {
                name: self.name.to_owned(),
            }),
            // A file system without locks: QEMU's own have to do.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
            Err(error) => Err(self.unopened(error.into())),
        }
    }

    fn unopened(&self, source: io::Error) -> DiskError {
        DiskError::OpenClaim {
            name: self.name.to_owned(),
            uid: self.uid,
            source,
        }
    }
}

/// The directory opened for reading, not only as a path.
fn open_self(directory: &Directory) -> io::Result<OwnedFd> {
    directory.open_at(
        Path::new("."),
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
}

/// Whether the file system takes `O_DIRECT`, found by trying.
fn can_be_uncached(file: &File) -> bool {
    let Ok(flags) = fcntl_getfl(file) else {
        return false;
    };
    let able = fcntl_setfl(file, flags | OFlags::DIRECT).is_ok();
    // What was never set is no harm to take away.
    let _ = fcntl_setfl(file, flags);
    able
}
