//! The tap: the network interface in the pod whose other end is QEMU's. It is not persistent, hence
//! it ends with its last descriptor, whoever dies how.
#![allow(
    unsafe_code,
    reason = "taps are made by an ioctl that no crate in use wraps with all of the flags needed here"
)]

use std::{
    ffi::{c_int, c_short},
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    ioctl::{self, Updater, ioctl, opcode},
};

use super::NetworkError;

const TUN_DEVICE: &str = "/dev/net/tun";

/// Size of an interface's name with its final zero (`IFNAMSIZ`, linux/if.h).
const NAME_SIZE: usize = 16;

/// Frames rather than packets (`IFF_TAP`, linux/if_tun.h; so are the others).
const TAP: c_int = 0x0002;
/// No extra header before each frame (`IFF_NO_PI`).
const NO_PACKET_INFO: c_int = 0x1000;
/// A virtio header before each frame: checksums and segmentation are left to whom it suits
/// (`IFF_VNET_HDR`).
const VIRTIO_HEADER: c_int = 0x4000;
/// A descriptor for each of several queues (`IFF_MULTI_QUEUE`).
const MULTI_QUEUE: c_int = 0x0100;
/// Fail if there is such an interface, rather than to attach to it (`IFF_TUN_EXCL`).
const EXCLUSIVE: c_int = 0x8000;

/// `TUNSETIFF` (linux/if_tun.h).
const SET_INTERFACE: ioctl::Opcode = opcode::write::<c_int>(b'T', 202);

/// `struct ifreq` (linux/if.h) with the member of its union that `TUNSETIFF` reads.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    flags: c_short,
    rest: [u8; 22],
}

/// What the names of taps begin with.
const PREFIX: &str = "tap-";

/// All taps, in rules of the firewall.
pub(super) const ANY: &str = "tap-*";

/// The tap's name for the pod's interface `interface`: `tap-eth0` for `eth0`, cut to what fits.
pub(super) fn name_for(interface: &str) -> String {
    let mut name = String::from(PREFIX);
    for letter in interface.chars() {
        if name.len() + letter.len_utf8() < NAME_SIZE {
            name.push(letter);
        }
    }
    name
}

/// Makes the tap in the calling thread's network namespace, with a descriptor for each of its
/// `queues`, at least one.
pub(super) fn create(name: &str, queues: usize) -> Result<Vec<OwnedFd>, NetworkError> {
    let several = if queues > 1 { MULTI_QUEUE } else { 0 };
    let first = queue(name, several | EXCLUSIVE)?;
    let others = (1..queues).map(|_| queue(name, several));
    [Ok(first)].into_iter().chain(others).collect()
}

fn queue(name: &str, flags: c_int) -> Result<OwnedFd, NetworkError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TUN_DEVICE)
        .map_err(|source| NetworkError::NoTun { source })?;
    match set_interface(&device, name, flags) {
        Ok(()) => Ok(device.into()),
        Err(Errno::BUSY) => Err(NetworkError::TapExists {
            tap: name.to_owned(),
        }),
        Err(error) => Err(NetworkError::CreateTap {
            tap: name.to_owned(),
            source: error.into(),
        }),
    }
}

fn set_interface(device: &File, name: &str, flags: c_int) -> Result<(), Errno> {
    let mut request = InterfaceRequest {
        name: [0; NAME_SIZE],
        // The flags fill all 16 bits of a signed number.
        flags: (TAP | NO_PACKET_INFO | VIRTIO_HEADER | flags) as c_short,
        rest: [0; 22],
    };
    let name = name.as_bytes();
    if name.len() >= NAME_SIZE {
        return Err(Errno::NAMETOOLONG);
    }
    request.name[..name.len()].copy_from_slice(name);
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` at the pointer, whose size and layout
    // on Linux are those of `InterfaceRequest`.
    unsafe {
        let request = Updater::<SET_INTERFACE, InterfaceRequest>::new(&mut request);
        ioctl(device, request)
    }
}

#[cfg(test)]
mod tests {
    use super::{InterfaceRequest, name_for};

    #[test]
    fn a_request_has_the_kernels_size() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn names_fit_an_interface() {
        assert_eq!(name_for("eth0"), "tap-eth0");
        assert_eq!(name_for("a-long-one-0123"), "tap-a-long-one-");
    }
}
