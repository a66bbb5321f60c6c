//! The machine's vsock: a socket between guest and node without a network.
//!
//! The kernel is the only allocator of addresses (CIDs): it refuses one that another machine of the
//! node has, whoever runs that, and takes it back when the last descriptor is closed.
#![allow(
    unsafe_code,
    reason = "a CID is set by an ioctl that no crate in use wraps"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use qemu_driver::machine::{FIRST_CID, LAST_CID, Vsock};
use rustix::io::Errno;
use rustix::ioctl::{self, Setter, ioctl, opcode};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::config::NodeConfig;

/// The kernel's side of the device.
const DEVICE: &str = "/dev/vhost-vsock";

/// `VHOST_VSOCK_SET_GUEST_CID` (linux/vhost.h): `_IOW(0xaf, 0x60, __u64)`.
const SET_GUEST_CID: ioctl::Opcode = opcode::write::<u64>(0xaf, 0x60);

/// CIDs that are tried: a second one is needed once in four thousand million times for each machine
/// on the node.
const TRIES: u32 = 32;

/// Why the machine has no vsock.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum VsockError {
    #[error(
        "domain.devices.autoattachVSOCK: this node allows no vsock, by which a guest reaches what \
         listens on the node's own: set machine.vsock = true in the node's configuration, or leave \
         it out"
    )]
    NotAllowed,
    #[error(
        "domain.devices.autoattachVSOCK: this node has no vsock: cannot open {} ({source}); load its \
         kernel module vhost_vsock, or leave it out", path.display()
    )]
    NoDevice { path: PathBuf, source: io::Error },
    #[error("domain.devices.autoattachVSOCK: no address is free on this node after {TRIES} tries")]
    NoneFree,
    #[error("domain.devices.autoattachVSOCK: cannot set its address: {0}")]
    Set(#[source] io::Error),
}

/// A vsock with an address of its own, if the `node` allows one and has it.
pub fn open(node: &NodeConfig) -> Result<Vsock, VsockError> {
    open_at(Path::new(DEVICE), node)
}

fn open_at(path: &Path, node: &NodeConfig) -> Result<Vsock, VsockError> {
    if !node.machine.vsock {
        return Err(VsockError::NotAllowed);
    }
    let device = File::options().read(true).write(true).open(path);
    let device: OwnedFd = device
        .map_err(|source| VsockError::NoDevice {
            path: path.to_owned(),
            source,
        })?
        .into();
    let cid = claim(random, |cid| set_cid(&device, cid))?;
    Ok(Vsock::new(cid, device))
}

/// The first of some random addresses that `set` can set.
fn claim(
    mut random: impl FnMut() -> Result<u32, Errno>,
    mut set: impl FnMut(u32) -> Result<(), Errno>,
) -> Result<u32, VsockError> {
    for _ in 0..TRIES {
        let number = random().map_err(|error| VsockError::Set(error.into()))?;
        let cid = FIRST_CID + number % (LAST_CID - FIRST_CID + 1);
        match set(cid) {
            Ok(()) => return Ok(cid),
            Err(Errno::ADDRINUSE) => {}
            Err(error) => return Err(VsockError::Set(error.into())),
        }
    }
    Err(VsockError::NoneFree)
}

fn random() -> Result<u32, Errno> {
    let mut bytes = [0_u8; 4];
    // So few bytes come at once or not at all (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}

fn set_cid(device: &OwnedFd, cid: u32) -> Result<(), Errno> {
    // SAFETY: VHOST_VSOCK_SET_GUEST_CID reads one `__u64` at the pointer and writes nothing.
    unsafe { ioctl(device, Setter::<SET_GUEST_CID, u64>::new(cid.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing() -> NodeConfig {
        let mut node = NodeConfig::default();
        node.machine.vsock = true;
        node
    }

    #[test]
    fn the_ioctl_has_the_kernels_number() {
        assert_eq!(SET_GUEST_CID, 0x4008_af60);
    }

    #[test]
    fn a_node_that_does_not_allow_it_opens_nothing() {
        let error = open_at(Path::new("/dev/null"), &NodeConfig::default()).unwrap_err();
        assert!(error.to_string().contains("machine.vsock"), "{error}");
    }

    #[test]
    fn a_node_without_the_device_says_so() {
        let error = open_at(Path::new("/dev/no-such-vsock"), &allowing()).unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains("/dev/no-such-vsock") && words.contains("vhost_vsock"),
            "{words}"
        );
    }

    /// A device that knows no such ioctl stands in for a kernel that refuses.
    #[test]
    fn a_kernel_that_refuses_is_told_of() {
        let error = open_at(Path::new("/dev/null"), &allowing()).unwrap_err();
        assert!(matches!(error, VsockError::Set(_)), "{error}");
    }

    /// A closure stands in for the kernel, which no machine of ours runs without the device.
    #[test]
    fn taken_addresses_are_passed_over() {
        let mut numbers = [0, 1, u32::MAX].into_iter();
        let mut asked = Vec::new();
        let cid = claim(
            || Ok(numbers.next().unwrap()),
            |cid| {
                asked.push(cid);
                match asked.len() {
                    3 => Ok(()),
                    _ => Err(Errno::ADDRINUSE),
                }
            },
        );
        // -1 (any) is not an address, nor are 0 to 2: the hypervisor's, the loopback's, the node's.
        assert_eq!(asked, [3, 4, 3 + u32::MAX % (u32::MAX - 3)]);
        assert_eq!(cid.unwrap(), asked[2]);
        let none = claim(|| Ok(7), |_| Err(Errno::ADDRINUSE));
        assert!(matches!(none, Err(VsockError::NoneFree)));
        let first = random().unwrap();
        assert!((0..8).any(|_| random().unwrap() != first));
    }
}
