//! A claim of volume mode Filesystem: its `disk.img`, made when the claim is empty.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vm_api::contract::DISK_IMAGE_FILE;
use vm_api::machine::MachineDisk;

use super::raw_file::{Making, Place, RawFile};
use super::{DiskError, Opened, Sources};
use crate::beneath::Directory;

/// Opens the disk in the claim that is mounted from `source` on the node.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    source: &Path,
    read_only: bool,
    sources: &Sources<'_>,
) -> Result<Opened, DiskError> {
    let read_only = disk.read_only || read_only;
    let claim = RawFile {
        name: disk.name,
        place: Place::Claim,
        directory: open_mount(disk.name, Place::Claim, source, read_only)?,
        file: DISK_IMAGE_FILE,
        uid: sources.identity.uid,
        read_only,
        shareable: disk.shareable,
        making: Making::Claim {
            capacity: sources.capacities.get(disk.name).copied(),
            own_file_system: is_own_file_system(source),
        },
    };
    let opened = sources.identity.run(|| claim.open());
    opened.unwrap_or_else(|source| Err(claim.unopened(source)))
}

/// Opens the directory that the pod mounts as the volume `name`.
pub(super) fn open_mount(
    name: &str,
    place: Place,
    source: &Path,
    read_only: bool,
) -> Result<Directory, DiskError> {
    let directory = if read_only {
        Directory::open_read_only(source)
    } else {
        Directory::open(source)
    };
    directory.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => DiskError::NotADirectory {
            name: name.to_owned(),
        },
        _ => DiskError::OpenDirectory {
            name: name.to_owned(),
            place,
            uid: 0,
            source: error,
        },
    })
}

/// Whether something is mounted at `path`.
fn is_own_file_system(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
    matches!((device(path), device(&path.join(".."))), (Ok(own), Ok(above)) if own != above)
}
