//! Whether a container of a pod is its machine, an image of the machine's disks or an ordinary container.

use std::io;
use std::path::{Path, PathBuf};

use vm_api::contract::{DISK_DIRECTORY, IMAGE_CONTAINERS_ANNOTATION, MACHINE_CONTAINER_ANNOTATION};

use crate::beneath::Directory;
use crate::bundle::Bundle;
use crate::images::{ImageContainers, ImagesError};

/// What a container is to the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It becomes a guest.
    Machine,
    /// It is its image, mounted.
    Image,
    /// It is run by the node's ordinary shim.
    Ordinary,
}

/// Why a container has no role.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum RoleError {
    #[error("cannot look into the container's root {}: {source}", rootfs.display())]
    Rootfs { rootfs: PathBuf, source: io::Error },
    #[error(
        "containers {first:?} and {second:?} both have an image with {DISK_DIRECTORY}, but a pod \
         is one machine: name its container in the pod's annotation \
         {MACHINE_CONTAINER_ANNOTATION}"
    )]
    TwoMachines { first: String, second: String },
    #[error(
        "container {0:?} cannot be both the machine and an image of its disks: leave it out of the \
         pod's annotation {IMAGE_CONTAINERS_ANNOTATION}"
    )]
    MachineAndImage(String),
    #[error(transparent)]
    Images(#[from] ImagesError),
}

/// The role of the container of `bundle` as far as the pod's annotations tell it. `machine` is the
/// container that is the pod's machine already.
pub fn named(bundle: &Bundle, machine: Option<&str>) -> Result<Option<Role>, RoleError> {
    let name = bundle.container_name().unwrap_or_default();
    let annotation = bundle.annotation(MACHINE_CONTAINER_ANNOTATION);
    if ImageContainers::of(bundle)?.contains(name) {
        if annotation.or(machine) == Some(name) {
            return Err(RoleError::MachineAndImage(name.to_owned()));
        }
        return Ok(Some(Role::Image));
    }
    Ok(annotation.map(|named| {
        if named == name {
            Role::Machine
        } else {
            Role::Ordinary
        }
    }))
}

/// Whether the container whose root is mounted at `rootfs`, and whose role no annotation tells, is the
/// pod's machine. `machine` is the container that is that already; a restart of it has the same name.
///
/// Whatever is at `/disk`, a link included, makes the image a machine's: that it is no directory
/// is then an error of the machine, not a puzzle about a missing program.
pub fn is_machine(
    bundle: &Bundle,
    rootfs: &Path,
    machine: Option<&str>,
) -> Result<bool, RoleError> {
    let name = bundle.container_name().unwrap_or_default();
    let kind = Directory::open(rootfs)
        .and_then(|root| root.kind(Path::new(DISK_DIRECTORY)))
        .map_err(|source| RoleError::Rootfs {
            rootfs: rootfs.to_owned(),
            source,
        })?;
    match (kind, machine) {
        (None, _) => Ok(false),
        (Some(_), Some(first)) if first != name => Err(RoleError::TwoMachines {
            first: first.to_owned(),
            second: name.to_owned(),
        }),
        (Some(_), _) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn of(bundle: &Bundle, rootfs: &Path, machine: Option<&str>) -> Result<Role, RoleError> {
        Ok(match named(bundle, machine)? {
            Some(role) => role,
            None if is_machine(bundle, rootfs, machine)? => Role::Machine,
            None => Role::Ordinary,
        })
    }

    #[test]
    fn the_image_or_the_annotation_decides() {
        let (plain, disk, link) = (tempdir(), tempdir(), tempdir());
        std::fs::create_dir(disk.path().join("disk")).unwrap();
        std::os::unix::fs::symlink("/etc", link.path().join("disk")).unwrap();
        let mut annotated = spec();
        let ours = bundle(spec());
        assert_eq!(of(&ours, plain.path(), None).unwrap(), Role::Ordinary);
        assert_eq!(of(&ours, disk.path(), None).unwrap(), Role::Machine);
        assert_eq!(of(&ours, link.path(), None).unwrap(), Role::Machine);
        assert_eq!(of(&ours, disk.path(), Some("vm")).unwrap(), Role::Machine);
        assert_eq!(
            of(&ours, plain.path(), Some("other")).unwrap(),
            Role::Ordinary
        );
        let error = of(&ours, disk.path(), Some("other"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("kubevirt.io/machine-container"), "{error}");
        annotated["annotations"][MACHINE_CONTAINER_ANNOTATION] = "vm".into();
        assert_eq!(
            of(&bundle(annotated.clone()), plain.path(), None).unwrap(),
            Role::Machine
        );
        annotated["annotations"][MACHINE_CONTAINER_ANNOTATION] = "x".into();
        assert_eq!(
            of(&bundle(annotated), disk.path(), Some("x")).unwrap(),
            Role::Ordinary
        );
    }

    #[test]
    fn images_are_named_and_are_no_machines() {
        let root = tempdir();
        std::fs::create_dir(root.path().join("disk")).unwrap();
        let role = |machine: Option<&str>, images: &str, known| {
            let mut spec = spec();
            spec["annotations"][IMAGE_CONTAINERS_ANNOTATION] = images.into();
            if let Some(machine) = machine {
                spec["annotations"][MACHINE_CONTAINER_ANNOTATION] = machine.into();
            }
            of(&bundle(spec), root.path(), known)
        };
        let (image, other) = ("data=vm", "data=other");
        assert_eq!(role(None, image, None).unwrap(), Role::Image);
        assert_eq!(role(Some("x"), image, Some("x")).unwrap(), Role::Image);
        assert_eq!(role(None, other, None).unwrap(), Role::Machine);
        assert_eq!(role(Some("x"), other, None).unwrap(), Role::Ordinary);
        for (machine, known) in [(Some("vm"), None), (None, Some("vm"))] {
            let error = role(machine, image, known).unwrap_err();
            assert!(matches!(error, RoleError::MachineAndImage(_)), "{error}");
        }
        assert!(matches!(role(None, "x", None), Err(RoleError::Images(_))));
    }

    fn tempdir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }
}
