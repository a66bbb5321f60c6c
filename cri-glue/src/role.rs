//! Whether a container of a pod is its machine or an ordinary container.

use std::io;
use std::path::{Path, PathBuf};

use vm_api::contract::{DISK_DIRECTORY, MACHINE_CONTAINER_ANNOTATION};

use crate::beneath::Directory;
use crate::bundle::Bundle;

/// What a container is to the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It becomes a guest.
    Machine,
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
}

/// The role of the container whose root is mounted at `rootfs`. `machine` is the container that is
/// the pod's machine already; a restart of it has the same name.
///
/// Whatever is at `/disk`, a link included, makes the image a machine's: that it is no directory
/// is then an error of the machine, not a puzzle about a missing program.
pub fn of(bundle: &Bundle, rootfs: &Path, machine: Option<&str>) -> Result<Role, RoleError> {
    let name = bundle.container_name().unwrap_or_default();
    if let Some(named) = bundle.annotation(MACHINE_CONTAINER_ANNOTATION) {
        return Ok(if named == name {
            Role::Machine
        } else {
            Role::Ordinary
        });
    }
    let kind = Directory::open(rootfs)
        .and_then(|root| root.kind(Path::new(DISK_DIRECTORY)))
        .map_err(|source| RoleError::Rootfs {
            rootfs: rootfs.to_owned(),
            source,
        })?;
    match (kind, machine) {
        (None, _) => Ok(Role::Ordinary),
        (Some(_), Some(first)) if first != name => Err(RoleError::TwoMachines {
            first: first.to_owned(),
            second: name.to_owned(),
        }),
        (Some(_), _) => Ok(Role::Machine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{bundle, spec};

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

    fn tempdir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }
}
