//! A claim of volume mode Filesystem: its `disk.img`, made when the claim is empty.
//!
//! Opened with the rights of the pod's user, and locked as long as any descriptor of it is open,
//! so that two machines of a node never write to one disk by mistake.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use qemu_driver::image;
use qemu_driver::machine::{Cache, DiskFile, DiskImage, Format, Io};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, flock, fstat,
    fstatvfs, linkat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use vm_api::contract::{DISK_IMAGE_FILE, FILESYSTEM_OVERHEAD_PERMILLE};
use vm_api::machine::MachineDisk;

use super::{DiskError, Opened, Sources};
use crate::beneath::{Directory, Links, RegularError};

/// What a disk is called while it is made.
const UNFINISHED: &str = ".disk.img.unfinished";

/// How often a claim is looked at in which somebody else makes the disk, and the pause in between:
/// that is a matter of milliseconds.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// The unit of the size of disks that are made.
const MIB: u64 = 1 << 20;

/// Opens the disk in the claim that is mounted from `source` on the node.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    source: &Path,
    read_only: bool,
    sources: &Sources<'_>,
) -> Result<Opened, DiskError> {
    let read_only = disk.read_only || read_only;
    let directory = if read_only {
        Directory::open_read_only(source)
    } else {
        Directory::open(source)
    };
    let claim = Claim {
        name: disk.name,
        uid: sources.identity.uid,
        read_only,
        shareable: disk.shareable,
        capacity: sources.capacities.get(disk.name).copied(),
        own_file_system: is_own_file_system(source),
        directory: directory.map_err(|error| match error.kind() {
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
            if self.read_only {
                return Err(DiskError::EmptyReadOnly {
                    name: self.name.to_owned(),
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
        let Some(file) = self.open_file(DISK_IMAGE_FILE, access)? else {
            return Ok(None);
        };
        if self.try_lock(&file, self.operation())? {
            Ok(Some(file))
        } else {
            Err(self.in_use())
        }
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

    /// Makes the disk: whole under another name, then under its own unless one appeared there;
    /// `None` if somebody else is at it. Whether the disk will be shared or not, the lock is nobody
    /// else's while it is made, since making it would empty another's.
    fn make(&self) -> Result<Option<File>, DiskError> {
        if !self.is_empty()? {
            return Ok(None);
        }
        let size = self.size()?;
        if !self.remove_unfinished()? {
            return Ok(None);
        }
        let Some(file) = self.create_unfinished()? else {
            return Ok(None);
        };
        if !self.is_locked(&file, UNFINISHED, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(None);
        }
        image::create_raw(&file, size).map_err(DiskError::image(self.name))?;
        file.sync_all().map_err(|error| self.unopened(error))?;
        // From here on for those it is shared with; the kernel lets go of the first lock before it
        // takes the second, so that the name is looked at again.
        if !self.is_locked(&file, UNFINISHED, self.operation())? {
            return Ok(None);
        }
        match self.publish() {
            // Where there are no locks, somebody else's may have got the name.
            Ok(()) => Ok(self.is_at(&file, DISK_IMAGE_FILE)?.then_some(file)),
            Err(Errno::EXIST) => self.remove(UNFINISHED).map(|()| None),
            Err(error) => Err(self.unopened(error.into())),
        }
    }

    /// A new file; `None` if somebody else made one.
    fn create_unfinished(&self) -> Result<Option<File>, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        match self.directory.open_at(Path::new(UNFINISHED), flags, mode) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(self.unopened(error)),
        }
    }

    /// Removes what somebody left who died while making the disk; `false` if he is still at it.
    fn remove_unfinished(&self) -> Result<bool, DiskError> {
        let Some(file) = self.open_file(UNFINISHED, OFlags::RDWR)? else {
            return Ok(true);
        };
        if !self.is_locked(&file, UNFINISHED, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(false);
        }
        self.remove(UNFINISHED).map(|()| true)
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

    /// Whether `name` in the claim leads to `file`.
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

    /// Whether there is no disk; refuses a claim whose files may be one under another name.
    fn is_empty(&self) -> Result<bool, DiskError> {
        let unopened = |error| self.unopened(error);
        let mut foreign = None;
        for name in self.directory.entries().map_err(unopened)? {
            let name = name.map_err(unopened)?;
            if name == DISK_IMAGE_FILE {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(directory: &Path, shareable: bool) -> Claim<'static> {
        Claim {
            name: "data",
            uid: 0,
            read_only: false,
            shareable,
            capacity: Some(16 * MIB),
            own_file_system: false,
            directory: Directory::open(directory).unwrap(),
        }
    }

    fn inode(file: &File) -> u64 {
        file.metadata().unwrap().ino()
    }

    #[test]
    fn machines_that_share_an_empty_claim_get_one_disk() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(4);
            let made = || {
                let claim = claim(directory.path(), true);
                start.wait();
                let file = claim.open_or_make().unwrap();
                assert!(file.metadata().unwrap().len() > 8 * MIB);
                file
            };
            let files: Vec<File> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(made)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(files.iter().all(|file| inode(file) == inode(&files[0])));
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    /// As if the other were between opening the unfinished disk and locking it.
    #[test]
    fn who_is_late_does_not_empty_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        let claim = claim(directory.path(), true);
        let unfinished = directory.path().join(UNFINISHED);
        std::fs::write(&unfinished, "stale").unwrap();
        let late = File::options().write(true).open(&unfinished).unwrap();
        let file = claim.open_or_make().unwrap();
        assert_ne!(inode(&late), inode(&file));
        assert!(
            !claim
                .is_locked(&late, UNFINISHED, FlockOperation::NonBlockingLockExclusive)
                .unwrap()
        );
        let shared = claim.open_or_make().unwrap();
        assert_eq!(inode(&shared), inode(&file));
        drop((file, shared));
        let alone = self::claim(directory.path(), false);
        let _disk = alone.open_or_make().unwrap();
        assert!(matches!(claim.open_or_make(), Err(DiskError::InUse { .. })));
    }

    #[test]
    fn who_may_only_read_cannot_open_the_disk_anew() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join(DISK_IMAGE_FILE);
        std::fs::write(&disk, "guest").unwrap();
        let claim = Claim {
            read_only: true,
            directory: Directory::open_read_only(directory.path()).unwrap(),
            ..claim(directory.path(), false)
        };
        let file = claim.open_or_make().unwrap();
        let again = |file: &File| {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            File::options().write(true).open(path)
        };
        let error = again(&file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(again(&File::open(&disk).unwrap()).is_ok(), "others can");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = directory.path().to_str().unwrap();
        assert!(!mounts.contains(path), "the mount is nobody else's");
        assert_eq!(std::io::read_to_string(file).unwrap(), "guest");
    }

    #[test]
    fn an_unfinished_disk_that_somebody_makes_is_left_to_him() {
        let directory = tempfile::tempdir().unwrap();
        let unfinished = directory.path().join(UNFINISHED);
        std::fs::write(&unfinished, "his").unwrap();
        let his = File::options().write(true).open(&unfinished).unwrap();
        flock(&his, FlockOperation::LockExclusive).unwrap();
        let claim = claim(directory.path(), true);
        assert!(claim.make().unwrap().is_none());
        assert_eq!(std::fs::read_to_string(&unfinished).unwrap(), "his");
        std::fs::remove_file(&unfinished).unwrap();
        std::fs::create_dir(&unfinished).unwrap();
        let error = claim.make().unwrap_err().to_string();
        assert!(
            error.contains("unfinished in its claim is a directory"),
            "{error}"
        );
    }
}
