//! The devices that QEMU opens, where the pod has a user namespace: nodes of the machine's own.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount};

use crate::host_devices::Node;
use crate::identity::Identity;

/// What [`make`] calls the node in its directory.
pub(super) fn name(node: &Node) -> String {
    format!("{}-{}", node.major, node.minor)
}

/// Makes `directory` and, in a file system of its own, character devices that are `owner`'s alone.
pub(super) fn make(directory: &Path, nodes: &[Node], owner: &Identity) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = c"mode=755,size=64k";
    mount("tmpfs", directory, "tmpfs", flags, options)?;
    for node in nodes {
        let path = directory.join(name(node));
        let number = |number: i64| u32::try_from(number).map_err(io::Error::other);
        let device = makedev(number(node.major)?, number(node.minor)?);
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &path, FileType::CharacterDevice, mode, device)?;
        chown(&path, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    use rustix::mount::{UnmountFlags, unmount};

    use super::*;

    #[test]
    fn nodes_are_the_owners_alone_and_can_be_opened() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("devices");
        let zero = Node {
            path: "/dev/zero".into(),
            major: 1,
            minor: 5,
        };
        let owner = Identity {
            uid: 65536 + 107,
            gid: 65536 + 107,
            groups: vec![],
            capabilities: rustix::thread::CapabilitySet::empty(),
        };
        let made = make(&directory, std::slice::from_ref(&zero), &owner);
        let path = directory.join(name(&zero));
        let metadata = path.metadata();
        let opened = std::fs::File::open(&path);
        unmount(&directory, UnmountFlags::DETACH).unwrap();
        made.unwrap();
        let metadata = metadata.unwrap();
        assert!(metadata.file_type().is_char_device());
        assert_eq!((metadata.uid(), metadata.gid()), (owner.uid, owner.gid));
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        opened.unwrap();
    }
}
