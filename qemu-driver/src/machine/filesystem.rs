//! A directory of the host that the guest mounts (virtiofs).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::{MachineError, Name};

/// Bytes of a tag at most (Virtio 1.2, 5.11.4).
const MAX_TAG: usize = 36;

/// A directory that the guest mounts by its tag. A program beside QEMU serves it (virtiofsd, by
/// vhost-user), and has all the guest's memory for that.
#[derive(Debug)]
pub struct Filesystem {
    tag: Name,
    backend: OwnedFd,
}

impl Filesystem {
    /// The directory behind `backend`, which is connected to the program that serves it. QEMU waits
    /// for that program when it starts.
    pub fn new(tag: Name, backend: UnixStream) -> Result<Self, MachineError> {
        if tag.as_str().len() > MAX_TAG {
            return Err(MachineError::LongTag { tag, most: MAX_TAG });
        }
        let backend = backend.into();
        Ok(Self { tag, backend })
    }

    /// The name by which the guest mounts it.
    pub fn tag(&self) -> &Name {
        &self.tag
    }

    pub(crate) fn into_backend(self) -> OwnedFd {
        self.backend
    }
}
