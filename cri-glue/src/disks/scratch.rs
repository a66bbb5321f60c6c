//! Files that are made for the machine in the container's writable layer.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fchown};
use rustix::process::{Gid, Uid};

use super::{DiskError, Sources};
use crate::beneath::Directory;
use crate::identity::Identity;
use crate::record::{Record, Step};

/// Where files are made, and for whom.
pub(crate) struct Scratch<'a> {
    pub(crate) rootfs: &'a Path,
    pub(crate) container: &'a str,
    pub(crate) owner: &'a Identity,
}

impl Scratch<'_> {
    /// Makes an empty file for `name`, opened read-write. The container's id makes its own name
    /// one that no image can have foreseen; were it there, nothing would be opened.
    pub(crate) fn make(&self, name: &str, suffix: &str, record: &mut Record) -> io::Result<File> {
        let file = format!(".kubevirt-{}-{name}.{suffix}", self.container);
        record.note(&Step::File {
            path: self.rootfs.join(&file),
        })?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let root = Directory::open(self.rootfs)?;
        let made = root.open_at(Path::new(&file), flags, Mode::RUSR | Mode::WUSR)?;
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        fchown(&made, Some(uid), Some(gid))?;
        Ok(made.into())
    }
}

impl Sources<'_> {
    /// Makes an empty file for the volume `name`.
    pub(super) fn scratch(&mut self, name: &str, suffix: &str) -> Result<File, DiskError> {
        let scratch = Scratch {
            rootfs: self.rootfs,
            container: self.container,
            owner: self.owner,
        };
        scratch
            .make(name, suffix, self.record)
            .map_err(|source| DiskError::Make {
                name: name.to_owned(),
                path: self.rootfs.to_owned(),
                source,
            })
    }
}
