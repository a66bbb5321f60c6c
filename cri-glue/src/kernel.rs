//! The kernel that is booted instead of a disk's: a file of an image, as hostile as the rest of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use qemu_driver::machine::{Kernel, MachineError};
use rustix::fs::OFlags;
use vm_api::contract::KERNEL_BOOT_VOLUME;
use vm_api::machine::KernelBoot;

use crate::beneath::{Directory, Links};
use crate::identity::Identity;
use crate::images::ImageRoots;
use crate::mounts::{PodMounts, Volume};

/// Bytes of a kernel or of an initial RAM disk at most: QEMU reads them into its own memory.
const MAX_BYTES: u64 = 1 << 30;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum KernelError {
    #[error("kernelBoot: cannot open {path:?} in the image: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "kernelBoot: {path:?} in the image cannot be read by user {uid} of the pod: make it readable for \
         everybody in the image (chmod a+r)"
    )]
    Unreadable { path: PathBuf, uid: u32 },
    #[error("kernelBoot: {path:?} in the image has {bytes} bytes: at most {} MiB are read", MAX_BYTES >> 20)]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("kernelBoot: volume {KERNEL_BOOT_VOLUME} of the pod is no image volume")]
    NoImage,
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Where a kernel comes from, and who reads it.
pub(crate) struct Sources<'a> {
    /// The container's root, mounted.
    pub(crate) rootfs: &'a Path,
    /// The pod's volumes.
    pub(crate) mounts: &'a PodMounts,
    /// Roots of images that are containers of the pod.
    pub(crate) images: &'a ImageRoots,
    /// Whose rights an image volume is opened with.
    pub(crate) identity: &'a Identity,
    /// Who QEMU is on the node: it opens the files anew.
    pub(crate) qemu: &'a Identity,
}

/// Opens the kernel, and the initial RAM disk if there is one: in the image volume or the container
/// for [`KERNEL_BOOT_VOLUME`], or else in the machine container's own image.
pub(crate) fn open(boot: &KernelBoot<'_>, sources: &Sources<'_>) -> Result<Kernel, KernelError> {
    let (root, identity) = match sources.mounts.volume(KERNEL_BOOT_VOLUME) {
        Err(_) => {
            let root = sources.images.root(KERNEL_BOOT_VOLUME);
            (Directory::open(root.unwrap_or(sources.rootfs)), None)
        }
        Ok(Volume::Mount {
            source,
            read_only: true,
            ..
        }) => (Directory::open_read_only(source), Some(sources.identity)),
        Ok(_) => return Err(KernelError::NoImage),
    };
    let failed = |source| KernelError::Open {
        path: "/".into(),
        source,
    };
    // The way to either is the node's own.
    let root = root.map_err(failed)?;
    let open = || {
        let kernel = open_file(&root, Path::new(boot.kernel), sources.qemu)?;
        let initrd = boot.initrd.map(Path::new);
        let initrd = initrd.map(|path| open_file(&root, path, sources.qemu));
        Ok::<_, KernelError>((kernel, initrd.transpose()?))
    };
    let (kernel, initrd) = match identity {
        None => open()?,
        Some(identity) => identity.run(open).map_err(failed)??,
    };
    Ok(Kernel::new(kernel, initrd, boot.arguments)?)
}

fn open_file(root: &Directory, path: &Path, qemu: &Identity) -> Result<File, KernelError> {
    let failed = |source| KernelError::Open {
        path: path.to_owned(),
        source,
    };
    let file = root.file(path, OFlags::RDONLY, Links::Refused);
    let file = file.map_err(|error| failed(error.into()))?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > MAX_BYTES {
        return Err(KernelError::TooLarge {
            path: path.to_owned(),
            bytes: metadata.len(),
        });
    }
    if !is_readable(metadata.mode(), (metadata.uid(), metadata.gid()), qemu) {
        return Err(KernelError::Unreadable {
            path: path.to_owned(),
            uid: qemu.uid,
        });
    }
    Ok(file)
}

/// Whether somebody without capabilities may read a file of this mode and these owners.
fn is_readable(mode: u32, (uid, gid): (u32, u32), who: &Identity) -> bool {
    let bit = if who.uid == uid {
        0o400
    } else if who.gid == gid || who.groups.contains(&gid) {
        0o040
    } else {
        0o004
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::*;

    fn qemu() -> Identity {
        Identity {
            uid: 107,
            gid: 107,
            groups: vec![],
            capabilities: CapabilitySet::empty(),
        }
    }

    #[test]
    fn who_may_read_is_told_by_mode_and_owner() {
        for (mode, owner, readable) in [
            (0o644, (0, 0), true),
            (0o640, (0, 0), false),
            (0o640, (0, 107), true),
            (0o400, (107, 107), true),
            (0o044, (107, 107), false),
            (0o604, (0, 107), false),
        ] {
            assert_eq!(
                is_readable(mode, owner, &qemu()),
                readable,
                "{mode:o} {owner:?}"
            );
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("kernel"), "k").unwrap();
        std::fs::write(at("secret"), "k").unwrap();
        std::fs::set_permissions(at("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        let large = File::create(at("large")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let open = |path: &str| open_file(&directory, Path::new(path), &qemu());
        assert!(open("/kernel").is_ok());
        for (path, words) in [
            ("/secret", "cannot be read by user 107"),
            ("/link", "cannot open"),
            ("/../etc/passwd", "cannot open"),
            ("/", "a directory"),
            ("/large", "at most 1024 MiB"),
        ] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
