//! A raw disk in a file of a directory that somebody else fills: a claim, or a directory of the node.
//!
//! Opened with the rights of the pod's user, and locked as long as any descriptor of it is open,
//! so that two machines of a node never write to one disk by mistake. A disk that is to be made is made
//! whole under another name.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use qemu_driver::image;
use qemu_driver::machine::{Cache, DiskFile, DiskImage, Format, Io};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, flock, fstat,
    fstatvfs, linkat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use vm_api::contract::FILESYSTEM_OVERHEAD_PERMILLE;

use super::{DiskError, Opened};
use crate::beneath::{Directory, Links, RegularError};

/// How often a directory is looked at in which somebody else makes the disk, and the pause in between:
/// that is a matter of milliseconds.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The unit of the size of disks that are made.
const MIB: u64 = 1 << 20;

/// A raw disk in a file.
pub(super) struct RawFile<'a> {
    /// The volume.
    pub(super) name: &'a str,
    /// What the directory is, for messages.
    pub(super) place: Place,
    pub(super) directory: Directory,
    /// The name of the file in it.
    pub(super) file: &'a str,
    pub(super) uid: u32,
    pub(super) read_only: bool,
    pub(super) shareable: bool,
    pub(super) making: Making,
}

/// What a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A claim of volume mode Filesystem.
    Claim,
    /// A directory of the node.
    Node,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Claim => "claim",
            Self::Node => "directory of the node",
        })
    }
}

/// How a disk is made that is not there.
pub(super) enum Making {
    /// As large as the claim, if nothing else is in it.
    Claim {
        /// The claim's size in bytes, if it is known.
        capacity: Option<u64>,
        /// It is a file system of its own.
        own_file_system: bool,
    },
    /// With so many bytes.
    Bytes(u64),
    /// Not at all.
    Never,
}

impl RawFile<'_> {
    pub(super) fn open(&self) -> Result<Opened, DiskError> {
        let file = self.open_or_make()?;
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

    /// The disk, locked. Machines that share an empty claim wait until one of them has made it.
    fn open_or_make(&self) -> Result<File, DiskError> {
        for _ in 0..TRIES {
            if let Some(file) = self.open_existing()? {
                return Ok(file);
            }
            if let Making::Never = self.making {
                return Err(DiskError::NoFile {
                    name: self.name.to_owned(),
                    place: self.place,
                    file: self.file.to_owned(),
                });
            }
            if self.read_only {
                return Err(DiskError::EmptyReadOnly {
                    name: self.name.to_owned(),
                    place: self.place,
                    file: self.file.to_owned(),
                });
            }
            if let Some(file) = self.make()? {
                return Ok(file);
            }
            std::thread::sleep(PAUSE);
        }
        Err(self.in_use())
    }

    /// The disk, locked; `None` if there is none yet.
    fn open_existing(&self) -> Result<Option<File>, DiskError> {
        let access = if self.read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let Some(file) = self.open_file(self.file, access)? else {
            return Ok(None);
        };
        if self.try_lock(&file, self.operation())? {
            Ok(Some(file))
        } else {
            Err(self.in_use())
        }
    }

    /// The regular file `file` of the directory; `None` if there is none.
    fn open_file(&self, file: &str, access: OFlags) -> Result<Option<File>, DiskError> {
        let path = Path::new(file);
        match self.directory.file(path, access, Links::Refused) {
            Ok(file) => Ok(Some(file)),
            Err(RegularError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(RegularError::Io(error)) => Err(self.unopened(error)),
            Err(RegularError::Kind(kind)) => Err(DiskError::NotARegularFile {
                name: self.name.to_owned(),
                place: self.place,
                file: file.to_owned(),
                kind,
            }),
        }
    }

    /// Makes the disk: whole under another name, then under its own unless one appeared there;
    /// `None` if somebody else is at it. Whether the disk will be shared or not, the lock is nobody
    /// else's while it is made, since making it would empty another's.
    fn make(&self) -> Result<Option<File>, DiskError> {
        let size = match &self.making {
            Making::Claim { .. } if !self.is_empty()? => return Ok(None),
            Making::Claim {
                capacity,
                own_file_system,
            } => self.size_in_claim(*capacity, *own_file_system)?,
            Making::Bytes(bytes) => bytes.next_multiple_of(image::SECTOR),
            Making::Never => return Ok(None),
        };
        if !self.remove_unfinished()? {
            return Ok(None);
        }
        let Some(file) = self.create_unfinished()? else {
            return Ok(None);
        };
        if !self.is_locked(
            &file,
            &self.unfinished(),
            FlockOperation::NonBlockingLockExclusive,
        )? {
            return Ok(None);
        }
        image::create_raw(&file, size).map_err(DiskError::image(self.name))?;
        file.sync_all().map_err(|error| self.unopened(error))?;
        // From here on for those it is shared with; the kernel lets go of the first lock before it
        // takes the second, so that the name is looked at again.
        if !self.is_locked(&file, &self.unfinished(), self.operation())? {
            return Ok(None);
        }
        match self.publish() {
            // Where there are no locks, somebody else's may have got the name.
            Ok(()) => Ok(self.is_at(&file, self.file)?.then_some(file)),
            Err(Errno::EXIST) => self.remove(&self.unfinished()).map(|()| None),
            Err(error) => Err(self.unopened(error.into())),
        }
    }

    /// A new file; `None` if somebody else made one.
    fn create_unfinished(&self) -> Result<Option<File>, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        match self
            .directory
            .open_at(Path::new(&self.unfinished()), flags, mode)
        {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(self.unopened(error)),
        }
    }

    /// Removes what somebody left who died while making the disk; `false` if he is still at it.
    fn remove_unfinished(&self) -> Result<bool, DiskError> {
        let Some(file) = self.open_file(&self.unfinished(), OFlags::RDWR)? else {
            return Ok(true);
        };
        if !self.is_locked(
            &file,
            &self.unfinished(),
            FlockOperation::NonBlockingLockExclusive,
        )? {
            return Ok(false);
        }
        self.remove(&self.unfinished()).map(|()| true)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        unlinkat(&self.directory, name, AtFlags::empty())
            .map_err(|error| self.unopened(error.into()))
    }

    /// Locks `file`; `false` if somebody else has it, or took its name `name` away.
    fn is_locked(
        &self,
        file: &File,
        name: &str,
        operation: FlockOperation,
    ) -> Result<bool, DiskError> {
        Ok(self.try_lock(file, operation)? && self.is_at(file, name)?)
    }

    /// Whether `name` in the directory leads to `file`.
    fn is_at(&self, file: &File, name: &str) -> Result<bool, DiskError> {
        let found = match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(self.unopened(error.into())),
        };
        let own = fstat(file).map_err(|error| self.unopened(error.into()))?;
        Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
    }

    fn publish(&self) -> Result<(), Errno> {
        let directory = &self.directory;
        let (from, to) = (self.unfinished(), self.file);
        let from = from.as_str();
        match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
            // Network file systems cannot rename so, but link.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(directory, from, directory, to, AtFlags::empty())?;
                unlinkat(directory, from, AtFlags::empty())
            }
            result => result,
        }
    }

    /// Whether there is no disk; refuses a claim whose files may be one under another name.
    fn is_empty(&self) -> Result<bool, DiskError> {
        let unopened = |error| self.unopened(error);
        let mut foreign = None;
        for name in self.directory.entries().map_err(unopened)? {
            let name = name.map_err(unopened)?;
            if name == self.file {
                return Ok(false);
            }
            if name != "lost+found" && !name.as_encoded_bytes().starts_with(b".") {
                foreign = Some(name);
            }
        }
        match foreign {
            None => Ok(true),
            Some(found) => Err(DiskError::ClaimNotEmpty {
                name: self.name.to_owned(),
                found: found.to_string_lossy().into_owned(),
            }),
        }
    }

    /// Bytes of the disk to be made: the claim's capacity less what its file system keeps, and
    /// what is free where the claim is a file system of its own.
    fn size_in_claim(
        &self,
        capacity: Option<u64>,
        own_file_system: bool,
    ) -> Result<u64, DiskError> {
        let less = |bytes: u64| bytes / 1000 * (1000 - FILESYSTEM_OVERHEAD_PERMILLE);
        let free = if own_file_system {
            let stat = open_self(&self.directory)
                .and_then(|directory| Ok(fstatvfs(directory)?))
                .map_err(|error| self.unopened(error))?;
            Some(stat.f_bavail.saturating_mul(stat.f_frsize))
        } else {
            None
        };
        let size = match (capacity, free) {
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

    /// What the disk is called while it is made.
    fn unfinished(&self) -> String {
        format!(".{}.unfinished", self.file)
    }

    /// How the disk is locked against machines that did not agree to share it. The lock belongs to
    /// the open file, which QEMU inherits: it ends when the last of us closes it.
    fn operation(&self) -> FlockOperation {
        match (self.shareable, self.read_only) {
            (true, _) | (false, true) => FlockOperation::NonBlockingLockShared,
            (false, false) => FlockOperation::NonBlockingLockExclusive,
        }
    }

    /// Whether `file` could be locked so.
    fn try_lock(&self, file: &File, operation: FlockOperation) -> Result<bool, DiskError> {
        match flock(file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            // A file system without locks: QEMU's own have to do.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(true),
            Err(error) => Err(self.unopened(error.into())),
        }
    }

    fn in_use(&self) -> DiskError {
        DiskError::InUse {
            name: self.name.to_owned(),
        }
    }

    pub(super) fn unopened(&self, source: io::Error) -> DiskError {
        DiskError::OpenDirectory {
            name: self.name.to_owned(),
            place: self.place,
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

#[cfg(test)]
mod tests;
