//! The disk that a container image brings along: read-only, below an overlay of the machine's own.

use std::fs::File;
use std::path::{Path, PathBuf};

use qemu_driver::image;
use qemu_driver::machine::{DiskFile, DiskImage};
use rustix::fs::OFlags;
use vm_api::contract::DISK_DIRECTORY;
use vm_api::machine::{DiskKind, MachineDisk};

use super::{DiskError, Opened, Sources};
use crate::beneath::{Directory, Links, RegularError, kind_word};

/// Opens the disk at `path` in the image, or else the only file of [`DISK_DIRECTORY`].
///
/// It is read with the node's own rights: the image is the pod's as a whole, whoever of its users
/// owns the file.
pub(super) fn open(
    disk: &MachineDisk<'_>,
    path: Option<&str>,
    sources: &mut Sources<'_>,
) -> Result<Opened, DiskError> {
    let name = disk.name;
    let root = Directory::open(sources.rootfs).map_err(|source| DiskError::OpenImage {
        name: name.to_owned(),
        path: "/".into(),
        source,
    })?;
    let path = match path.filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => only_file(name, &root)?,
    };
    let base = open_file(name, &root, &path)?;
    let info = image::inspect(&base).map_err(DiskError::image(name))?;
    let base = DiskFile::new(base)?;
    if disk.read_only || disk.kind == DiskKind::Cdrom {
        let (file, format) = (base, info.format);
        return Ok(Opened::cached(DiskImage::File { file, format }));
    }
    let overlay = sources.scratch(name, "qcow2")?;
    image::create_overlay(&overlay, info.virtual_size).map_err(DiskError::image(name))?;
    Ok(Opened::cached(DiskImage::Overlay {
        base,
        base_format: info.format,
        overlay: DiskFile::new(overlay)?,
    }))
}

/// The path of the only entry of [`DISK_DIRECTORY`].
fn only_file(name: &str, root: &Directory) -> Result<PathBuf, DiskError> {
    let path = Path::new(DISK_DIRECTORY);
    let fail = |source| DiskError::OpenImage {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    };
    match root.kind(path).map_err(fail)? {
        None => {
            return Err(DiskError::NoDisk {
                name: name.to_owned(),
            });
        }
        Some(kind) if !kind.is_dir() => {
            return Err(DiskError::OpenImage {
                name: name.to_owned(),
                path: path.to_owned(),
                source: std::io::Error::other(format!(
                    "it is {}, not a directory",
                    kind_word(kind)
                )),
            });
        }
        Some(_) => {}
    }
    // Two are enough to refuse the image, however many there are.
    let entries = root
        .directory(path)
        .and_then(|directory| directory.entries()?.take(2).collect::<Result<Vec<_>, _>>());
    let mut entries = entries.map_err(fail)?;
    entries.sort();
    match entries.as_slice() {
        [] => Err(DiskError::NoDisk {
            name: name.to_owned(),
        }),
        [only] => Ok(path.join(only)),
        [first, second, ..] => Err(DiskError::TwoDisks {
            name: name.to_owned(),
            first: first.to_string_lossy().into_owned(),
            second: second.to_string_lossy().into_owned(),
        }),
    }
}

fn open_file(name: &str, root: &Directory, path: &Path) -> Result<File, DiskError> {
    let name = name.to_owned();
    let opened = root.file(path, OFlags::RDONLY, Links::Refused);
    opened.map_err(|error| match error {
        RegularError::Kind(kind) => DiskError::NotAFile {
            name,
            path: path.to_owned(),
            kind,
        },
        RegularError::Io(source) => DiskError::OpenImage {
            name,
            path: path.to_owned(),
            source,
        },
    })
}
