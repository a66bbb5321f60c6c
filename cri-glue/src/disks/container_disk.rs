//! The disk that a container image brings along: read-only, below an overlay of the machine's own.
//!
//! The image is the machine container's own, that of a container without a process beside it, or an image
//! volume of the pod.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use qemu_driver::image;
use qemu_driver::machine::{DiskFile, DiskImage};
use rustix::fs::OFlags;
use vm_api::contract::DISK_DIRECTORY;
use vm_api::machine::{DiskKind, MachineDisk};

use super::{DiskError, Opened, Sources};
use crate::beneath::{Directory, Links, RegularError, kind_word};
use crate::identity::Identity;
use crate::mounts::Volume;

/// Opens the disk at `path` in the image, or else the only file of [`DISK_DIRECTORY`].
pub(super) fn open(
    disk: &MachineDisk<'_>,
    path: Option<&str>,
    sources: &mut Sources<'_>,
) -> Result<Opened, DiskError> {
    let name = disk.name;
    let path = path.filter(|path| !path.is_empty()).map(Path::new);
    let base = match sources.mounts.volume(name) {
        Ok(volume) => in_volume(name, volume, path, sources.identity)?,
        // The image is the pod's as a whole, whoever of its users owns the file: it is read with the
        // node's own rights.
        Err(_) => {
            let root = sources.images.root(name).unwrap_or(sources.rootfs);
            find(name, &root_of(name, Directory::open(root))?, path)?
        }
    };
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

/// Opens the disk in an image volume, with the rights of the pod's user: a pod that is written by hand
/// can have anything mounted there.
fn in_volume(
    name: &str,
    volume: &Volume,
    path: Option<&Path>,
    identity: &Identity,
) -> Result<File, DiskError> {
    let Volume::Mount {
        source, read_only, ..
    } = volume
    else {
        return Err(DiskError::NotADirectory {
            name: name.to_owned(),
        });
    };
    if !read_only {
        return Err(DiskError::WritableImage {
            name: name.to_owned(),
        });
    }
    // The way to the mount is the node's own. That the mount is read-only there is the container's view,
    // and QEMU can own the file.
    let root = root_of(name, Directory::open_read_only(source))?;
    let found = identity.run(|| find(name, &root, path));
    found.unwrap_or_else(|source| {
        Err(DiskError::OpenImage {
            name: name.to_owned(),
            path: "/".into(),
            source,
        })
    })
}

fn root_of(name: &str, opened: io::Result<Directory>) -> Result<Directory, DiskError> {
    opened.map_err(|source| DiskError::OpenImage {
        name: name.to_owned(),
        path: "/".into(),
        source,
    })
}

fn find(name: &str, root: &Directory, path: Option<&Path>) -> Result<File, DiskError> {
    match path {
        Some(path) => open_file(name, root, path),
        None => open_file(name, root, &only_file(name, root)?),
    }
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
                source: io::Error::other(format!("it is {}, not a directory", kind_word(kind))),
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::thread::CapabilitySet;

    use super::*;

    #[test]
    fn the_disk_of_a_volume_cannot_be_opened_anew_for_writing() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir(image.path().join("disk")).unwrap();
        std::fs::write(image.path().join("disk/a.img"), "disk").unwrap();
        let volume = Volume::Mount {
            source: image.path().to_owned(),
            read_only: true,
            options: vec![],
            ids: None,
        };
        let root = Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            capabilities: CapabilitySet::empty(),
        };
        let disk = in_volume("a", &volume, None, &root).unwrap();
        let path = format!("/proc/self/fd/{}", disk.as_raw_fd());
        let error = File::options().write(true).open(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
