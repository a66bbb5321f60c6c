//! Programs that run beside QEMU in its jail and serve one device of the machine each.
//!
//! A helper has QEMU's user and nothing that QEMU has not, but for the groups by which the pod gets
//! at its volumes. It is connected with QEMU by a socket that nobody else can reach, and ends when
//! QEMU closes it. The jail confines all of them together: whoever has taken one over has what the
//! pod gives its machine, and no more.

mod tpm;
mod virtiofs;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::beneath::check_file;

pub use tpm::{STATE as TPM_STATE, swtpm};
pub(crate) use virtiofs::bind_options;
pub use virtiofs::{ShareError, Shared, files_of_each, share};

/// A program to be run beside QEMU.
#[derive(Debug)]
pub struct Helper {
    /// What it is, for messages: `virtiofsd of data`.
    pub name: String,
    /// The program and its arguments, as seen in the jail.
    pub arguments: Vec<String>,
    /// Its descriptors from 3 on.
    pub descriptors: Vec<OwnedFd>,
}

/// Why there is no helper.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum HelperError {
    #[error(
        "{what} needs {program}, which is not on this node: {} in {} ({source}); install it, or set \
         {key} in the node's configuration", path.display(), root.display()
    )]
    Missing {
        what: String,
        program: &'static str,
        key: &'static str,
        root: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "domain.devices.filesystems: {name} is not a directory on the node: mount a whole volume at \
         /volumes/{name}, not a file of it (subPath), and no block device"
    )]
    NotADirectory { name: String },
    #[error("cannot look at the directory {name}: {source}")]
    Directory { name: String, source: io::Error },
    #[error("cannot make the socket of {name}: {source}")]
    Socket { name: String, source: io::Error },
}

/// A program in the tree of QEMU.
struct Program<'a> {
    root: &'a Path,
    path: &'a Path,
    name: &'static str,
    /// The key of the node's configuration that names it.
    key: &'static str,
}

impl Program<'_> {
    /// The program as the first argument, if it is there; `what` needs it.
    fn argument(&self, what: impl FnOnce() -> String) -> Result<String, HelperError> {
        check_file(self.root, self.path).map_err(|source| HelperError::Missing {
            what: what(),
            program: self.name,
            key: self.key,
            root: self.root.to_owned(),
            path: self.path.to_owned(),
            source,
        })?;
        Ok(self.path.to_string_lossy().into_owned())
    }
}
