//! The termination message: one sentence that kubelet shows as the reason of a container's end.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vm_api::contract::TERMINATION_MESSAGE_LIMIT;

use crate::beneath::Regular;

/// The file that kubelet reads the message from. It is never in the jail, so that nothing of the
/// guest's can put another file in its place; the pod may have mounted its own there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationLog(PathBuf);

impl TerminationLog {
    /// The log at `path` on the node.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes `message` in place of what is there, cut at [`TERMINATION_MESSAGE_LIMIT`] bytes.
    pub fn write(&self, message: &str) -> io::Result<()> {
        let mut file = Regular::at(&self.0)?.open(OFlags::WRONLY)?;
        file.set_len(0)?;
        let whole = (0..=message.len().min(TERMINATION_MESSAGE_LIMIT))
            .rev()
            .find(|end| message.is_char_boundary(*end));
        file.write_all(&message.as_bytes()[..whole.unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_bounded_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = TerminationLog::new(&path);
        assert!(log.write("no such file").is_err());
        std::fs::write(&path, "before").unwrap();
        log.write("end").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end");
        log.write(&"ä".repeat(5000)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(TerminationLog::new(&link).write("x").is_err());
    }
}
