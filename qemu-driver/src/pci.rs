//! Where every device of a machine sits on the PCI bus: one table, so that a guest finds its
//! devices at the same addresses for as long as the machine lives, whatever else it has.
//!
//! | address on `pcie.0` | device |
//! |---|---|
//! | `00.0` | host bridge (q35) |
//! | `01.0` | display |
//! | `02.0` | virtio-serial: agent and later exec ports |
//! | `03.0` | virtio-rng |
//! | `04.0` | virtio-balloon |
//! | `05.0` | virtio-scsi, where a disk is on SCSI |
//! | `06.0` | watchdog, if there is one |
//! | `07.0` | virtio-mem, where memory can grow |
//! | `08.0` | vsock, if there is one |
//! | `09.0` | USB controller, where something is on USB |
//! | `0a.0`–`0a.7` | inputs on virtio |
//! | `0b.0` | sound card, if there is one |
//! | `0c.0` | panic device on PCI, if there is one |
//! | `0d.0`–`0f.0` | reserved |
//! | `10.0`–`11.7` | 16 places for interfaces: a root port, or the card itself if it is conventional PCI |
//! | `12.0`–`15.7` | 32 root ports: virtio disks |
//! | `16.0`–`16.7` | free: nothing is plugged into a machine that runs |
//! | `17.0`–`18.7` | 16 root ports: devices of the node |
//! | `19.0`–`1a.7` | 16 root ports: shared directories |
//! | `1b.0`–`1e.0` | free: virtio disks whose address is chosen |
//! | `1f.x` | LPC, SATA, SMBus (q35) |
//!
//! Root ports exist only where a device uses them, from function 0 of each slot upwards, so a guest
//! numbers the buses of its interfaces without regard to its disks. SATA disks sit on q35's own
//! controller, `ide.0` to `ide.5` in their order; SCSI disks are targets 0 to 63 in their order; USB
//! disks are at the controller's ports 15 to 8 in their order, from the last one downwards.

use std::ops::RangeInclusive;

/// Places for interfaces.
pub(crate) const MAX_NICS: usize = 16;
/// Root ports for virtio disks.
pub(crate) const MAX_VIRTIO_DISKS: usize = 32;
/// Targets of the virtio-scsi controller; QEMU allows 256.
pub(crate) const MAX_SCSI_DISKS: usize = 64;
/// Root ports for shared directories.
pub(crate) const MAX_FILESYSTEMS: usize = 16;
/// Root ports for devices of the node.
pub(crate) const MAX_HOST_DEVICES: usize = 16;

/// Addresses on `pcie.0` of what a machine has at most once, as QEMU writes them (`slot`).
pub(crate) const DISPLAY: &str = "01.0";
pub(crate) const SERIAL_PORTS: &str = "02.0";
pub(crate) const RNG: &str = "03.0";
pub(crate) const BALLOON: &str = "04.0";
pub(crate) const SCSI: &str = "05.0";
pub(crate) const WATCHDOG: &str = "06.0";
pub(crate) const MEMORY: &str = "07.0";
pub(crate) const VSOCK: &str = "08.0";
pub(crate) const USB: &str = "09.0";
pub(crate) const SOUND: &str = "0b.0";
pub(crate) const PANIC: &str = "0c.0";

/// Ports of the USB controller of either speed, as libvirt has them.
pub(crate) const USB_PORTS: usize = 15;

/// Slots of `pcie.0` that are free for devices whose address is chosen.
pub const FREE_SLOTS: RangeInclusive<usize> = 0x1b..=0x1e;

/// Slot of the inputs on virtio, each of which is a function of it.
pub(crate) const INPUT_SLOT: &str = "0a";
/// Inputs on virtio.
pub(crate) const MAX_INPUTS: usize = 8;
/// Inputs on USB, which are at the first ports of the controller.
pub(crate) const MAX_USB_INPUTS: usize = 7;

/// A range of functions on `pcie.0` that holds root ports of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    first_slot: usize,
    places: usize,
    kind: &'static str,
}

/// Where interfaces sit.
pub(crate) const NICS: Range = Range::new(0x10, MAX_NICS, "nic");
/// Where virtio disks sit.
pub(crate) const DISKS: Range = Range::new(0x12, MAX_VIRTIO_DISKS, "disk");
/// Where shared directories sit.
pub(crate) const FILESYSTEMS: Range = Range::new(0x19, MAX_FILESYSTEMS, "fs");
/// Where devices of the node sit.
pub(crate) const HOST_DEVICES: Range = Range::new(0x17, MAX_HOST_DEVICES, "host");

/// One place of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// QEMU's id of the root port there: `port-nic-0`.
    pub(crate) port: String,
    /// The address on `pcie.0`: `10.0`.
    pub(crate) address: String,
    /// Whether it is function 0, which announces the others of its slot.
    pub(crate) multifunction: bool,
    /// The port's number in the machine, from 1, which is its chassis too: hotplug wants it unique.
    pub(crate) number: usize,
}

impl Range {
    const fn new(first_slot: usize, places: usize, kind: &'static str) -> Self {
        Self {
            first_slot,
            places,
            kind,
        }
    }

    /// The place `index` of the range; [`Machine`](crate::Machine) never has more devices than
    /// places.
    pub(crate) fn place(&self, index: usize) -> Place {
        debug_assert!(index < self.places);
        let (slot, function) = (self.first_slot + index / 8, index % 8);
        Place {
            port: format!("port-{}-{index}", self.kind),
            address: format!("{slot:02x}.{function}"),
            multifunction: function == 0,
            number: (slot - NICS.first_slot) * 8 + function + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_places_are_the_same() {
        let places: Vec<_> = [NICS, DISKS, HOST_DEVICES, FILESYSTEMS]
            .iter()
            .flat_map(|range| (0..range.places).map(|index| range.place(index)))
            .collect();
        let addresses: HashSet<_> = places.iter().map(|place| &place.address).collect();
        let numbers: HashSet<_> = places.iter().map(|place| place.number).collect();
        assert_eq!(
            (addresses.len(), numbers.len()),
            (places.len(), places.len())
        );
        assert!(numbers.iter().all(|number| (1..=255).contains(number)));
        assert!(
            addresses
                .iter()
                .all(|address| ("10.0".."1f.0").contains(&address.as_str()))
        );
    }

    #[test]
    fn the_layout_never_changes() {
        let place = |range: Range, index| {
            let place = range.place(index);
            (place.port, place.address, place.number)
        };
        assert_eq!(place(NICS, 0), ("port-nic-0".into(), "10.0".into(), 1));
        assert_eq!(place(NICS, 15), ("port-nic-15".into(), "11.7".into(), 16));
        assert_eq!(place(DISKS, 0), ("port-disk-0".into(), "12.0".into(), 17));
        assert_eq!(place(DISKS, 31), ("port-disk-31".into(), "15.7".into(), 48));
        assert_eq!(
            place(FILESYSTEMS, 15),
            ("port-fs-15".into(), "1a.7".into(), 88)
        );
        let last = place(HOST_DEVICES, 15);
        assert_eq!(last, ("port-host-15".into(), "18.7".into(), 72));
    }
}
