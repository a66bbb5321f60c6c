//! A socket between guest and node without a network.

use std::os::fd::OwnedFd;

/// The first address of a guest: those below are the hypervisor's, the loopback's and the node's
/// (vsock(7)).
pub const FIRST_CID: u32 = 3;

/// The last one: the next is "any" (`VMADDR_CID_ANY`).
pub const LAST_CID: u32 = u32::MAX - 1;

/// A vsock whose address is set.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    device: OwnedFd,
}

impl Vsock {
    /// The open `/dev/vhost-vsock` whose guest has the address `cid`, from [`FIRST_CID`] to
    /// [`LAST_CID`].
    pub fn new(cid: u32, device: OwnedFd) -> Self {
        debug_assert!((FIRST_CID..=LAST_CID).contains(&cid));
        Self { cid, device }
    }

    /// The guest's address on its node.
    pub fn cid(&self) -> u32 {
        self.cid
    }

    pub(crate) fn into_device(self) -> OwnedFd {
        self.device
    }
}
