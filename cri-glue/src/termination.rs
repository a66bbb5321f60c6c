//! The termination message: one sentence that kubelet shows as the reason of a container's end.

use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::OFlags;
use vm_api::contract::TERMINATION_MESSAGE_LIMIT;

use crate::beneath::Regular;
use crate::bundle::Bundle;
use crate::identity::Identity;
use crate::mounts::PodMounts;

/// The file that kubelet reads the message from. It is never in the jail, so that nothing of the
/// guest's can put another file in its place. The pod may have mounted its own there: it is written
/// with the rights of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationLog {
    path: PathBuf,
    writer: Identity,
}

impl TerminationLog {
    /// The log of the container of `bundle`, if it has one that it may write.
    pub fn of(bundle: &Bundle, mounts: &PodMounts) -> Option<Self> {
        Some(Self {
            path: mounts.termination_log()?.to_owned(),
            writer: bundle.identity(),
        })
    }

    /// Writes `message` in place of what is there, cut at [`TERMINATION_MESSAGE_LIMIT`] bytes.
    pub fn write(&self, message: &str) -> io::Result<()> {
        // The directories above it are kubelet's, which no container's user may enter.
        let found = Regular::at(&self.path)?;
        let mut file = self.writer.run(|| found.open(OFlags::WRONLY))??;
        file.set_len(0)?;
        let whole = (0..=message.len().min(TERMINATION_MESSAGE_LIMIT))
            .rev()
            .find(|end| message.is_char_boundary(*end));
        file.write_all(&message.as_bytes()[..whole.unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rustix::thread::CapabilitySet;

    use super::*;

    fn log(path: &Path, uid: u32) -> TerminationLog {
        TerminationLog {
            path: path.to_owned(),
            writer: Identity {
                uid,
                gid: uid,
                groups: vec![],
                capabilities: CapabilitySet::empty(),
            },
        }
    }

    #[test]
    fn the_message_is_bounded_and_replaces() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let own = log(&path, 0);
        assert!(own.write("no such file").is_err());
        std::fs::write(&path, "before").unwrap();
        own.write("end").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end");
        own.write(&"ä".repeat(5000)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(log(&link, 0).write("x").is_err());
    }

    #[test]
    fn only_what_the_container_may_write_is_written() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o700);
        let path = dir.path().join("log");
        std::fs::write(&path, "before").unwrap();
        mode(&path, 0o644);
        assert!(log(&path, 107).write("x").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
        // As kubelet makes it.
        mode(&path, 0o666);
        log(&path, 107).write("end").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end");
    }
}
