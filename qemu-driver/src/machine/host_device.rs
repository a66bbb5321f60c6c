//! A PCI device of the node that the guest drives itself (VFIO).

use std::fmt;
use std::str::FromStr;

use super::{MachineError, Name};

/// Where a device sits on the node's PCI buses: `0000:3b:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    slot: u8,
    function: u8,
}

impl PciAddress {
    /// The slot, if it is a whole device on the first bus.
    pub fn slot_on_first_bus(self) -> Option<usize> {
        let first = self.domain == 0 && self.bus == 0 && self.function == 0;
        first.then(|| usize::from(self.slot))
    }
}

impl FromStr for PciAddress {
    type Err = MachineError;

    /// Reads an address as the kernel writes it, whole and in lower or upper case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MachineError::PciAddress(text.to_owned());
        let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
            let plain = part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let fits = plain && digits.contains(&part.len());
            fits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let read = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            Some(Self {
                domain: hex(domain, 4..=8)?,
                bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
                slot: u8::try_from(hex(slot, 2..=2)?).ok().filter(|it| *it < 32)?,
                function: u8::try_from(hex(function, 1..=1)?)
                    .ok()
                    .filter(|it| *it < 8)?,
            })
        };
        read().ok_or_else(wrong)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{slot:02x}.{function}")
    }
}

/// A device of the node, which QEMU opens by its address: `/dev/vfio/<group>` and the device's
/// directory in sysfs must be where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    pub(crate) name: Name,
    pub(crate) address: PciAddress,
}

impl HostDevice {
    /// The device at `address`, `name` in the machine.
    pub fn new(name: Name, address: PciAddress) -> Self {
        Self { name, address }
    }

    /// Where it sits on the node.
    pub fn address(&self) -> PciAddress {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_an_address_is_written_as_the_kernel_does(
            text in "\\PC*|[0-9a-gA-F]{3,9}:[0-9a-g]{1,3}:[0-9a-f]{2}[.:,][0-9]{1,2}[,/\n]?"
        ) {
            if let Ok(address) = text.parse::<PciAddress>() {
                let written = address.to_string();
                prop_assert!(written.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)));
                prop_assert_eq!(written.parse::<PciAddress>().unwrap(), address);
            }
        }
    }

    #[test]
    fn addresses_are_the_kernels() {
        for (text, expected) in [
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("0000:FF:1f.7", "0000:ff:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), expected);
        }
        for text in [
            "",
            "3b:00.0",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:00",
            "0000:3b:0.0",
            "0000:+b:00.0",
            "0000:3b:00.0/..",
            "0000:3b:00.0,x",
            "../../etc:00:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }
}
