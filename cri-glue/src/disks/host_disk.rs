//! A file of the node, in a directory that the pod mounts: whoever may not mount it has no such disk.

use vm_api::machine::{HostDiskFile, MachineDisk};

use super::claim::open_mount;
use super::raw_file::{Making, Place, RawFile};
use super::{DiskError, Opened, Sources};
use crate::mounts::Volume;

/// Opens the file, or makes it. Of what `wish` says, only the name of the file counts here: the
/// directory is the pod's mount, wherever that is.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    wish: HostDiskFile<'_>,
    sources: &Sources<'_>,
) -> Result<Opened, DiskError> {
    let Volume::Mount {
        source, read_only, ..
    } = sources.mounts.volume(disk.name)?
    else {
        return Err(DiskError::NotADirectory {
            name: disk.name.to_owned(),
        });
    };
    let read_only = disk.read_only || *read_only;
    let file = RawFile {
        name: disk.name,
        place: Place::Node,
        directory: open_mount(disk.name, Place::Node, source, read_only)?,
        file: wish.file,
        uid: sources.identity.uid,
        read_only,
        shareable: disk.shareable,
        making: wish.create.map_or(Making::Never, Making::Bytes),
    };
    let opened = sources.identity.run(|| file.open());
    opened.unwrap_or_else(|source| Err(file.unopened(source)))
}
