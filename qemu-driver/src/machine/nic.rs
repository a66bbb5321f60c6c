//! A network interface of the machine, attached to a tap that the caller made.

use std::fmt;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use super::{MachineError, Name};

/// A network interface of the machine. Its QEMU device id is `nic-<name>`.
#[derive(Debug)]
pub struct Nic {
    name: Name,
    queues: Vec<OwnedFd>,
    vhost: Vec<OwnedFd>,
    mac: MacAddress,
    model: NicModel,
    mtu: Option<u16>,
    boot_index: Option<NonZeroU32>,
    acpi_index: Option<u16>,
}

/// What the guest sees as its network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NicModel {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82574L, PCI Express.
    E1000e,
    /// Intel 82540EM, conventional PCI.
    E1000,
    /// Realtek 8139, conventional PCI.
    Rtl8139,
    /// AMD Am79C970A, conventional PCI.
    Pcnet,
    /// NE2000, conventional PCI.
    Ne2kPci,
}

/// The greatest index of a device that ACPI tells (QEMU, hw/acpi/pcihp.c).
pub const MAX_ACPI_INDEX: u16 = 16_383;

/// The most queues of one interface.
pub const MAX_QUEUES: usize = 64;

impl Nic {
    /// An interface on `queues`: the descriptors of a tap, one for each queue (one, unless the
    /// tap is multi-queue and the model virtio). A virtio interface wants a tap made with
    /// `IFF_VNET_HDR`.
    pub fn new(
        name: Name,
        queues: Vec<OwnedFd>,
        mac: MacAddress,
        model: NicModel,
    ) -> Result<Self, MachineError> {
        let most = if model == NicModel::Virtio {
            MAX_QUEUES
        } else {
            1
        };
        if !(1..=most).contains(&queues.len()) {
            return Err(MachineError::NicQueues {
                name,
                queues: queues.len(),
                most,
            });
        }
        let (vhost, mtu, boot_index, acpi_index) = (Vec::new(), None, None, None);
        Ok(Self {
            name,
            queues,
            vhost,
            mac,
            model,
            mtu,
            boot_index,
            acpi_index,
        })
    }

    /// The kernel moves the packets: `vhost` holds a descriptor of `/dev/vhost-net` for each
    /// queue. Only for virtio.
    pub fn with_vhost(mut self, vhost: Vec<OwnedFd>) -> Result<Self, MachineError> {
        if self.model != NicModel::Virtio || vhost.len() != self.queues.len() {
            let why = "vhost is for model virtio, with one descriptor for each queue";
            return Err(MachineError::Nic {
                name: self.name,
                why,
            });
        }
        self.vhost = vhost;
        Ok(self)
    }

    /// The MTU that the guest's driver is told, 68 to 65535 bytes. Only virtio can carry it: other
    /// models get it by DHCP alone.
    pub fn with_mtu(mut self, mtu: u16) -> Result<Self, MachineError> {
        if self.model != NicModel::Virtio || mtu < 68 {
            let why = "an MTU can be told to model virtio only, and is at least 68";
            return Err(MachineError::Nic {
                name: self.name,
                why,
            });
        }
        self.mtu = Some(mtu);
        Ok(self)
    }

    /// The interface's place in the order of booting, from 1, unique in the machine.
    pub fn with_boot_index(mut self, index: NonZeroU32) -> Self {
        self.boot_index = Some(index);
        self
    }

    /// The index by which guests name the interface (`eno<index>`), from 1 to [`MAX_ACPI_INDEX`].
    /// QEMU wants it unique in the machine.
    pub fn with_acpi_index(mut self, index: u16) -> Result<Self, MachineError> {
        if !(1..=MAX_ACPI_INDEX).contains(&index) {
            return Err(MachineError::AcpiIndex { name: self.name });
        }
        self.acpi_index = Some(index);
        Ok(self)
    }

    /// The interface's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The guest's address on the link.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// What the guest sees.
    pub fn model(&self) -> NicModel {
        self.model
    }

    /// The MTU that the guest's driver is told.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The place in the order of booting.
    pub fn boot_index(&self) -> Option<NonZeroU32> {
        self.boot_index
    }

    /// The index by which guests name it.
    pub fn acpi_index(&self) -> Option<u16> {
        self.acpi_index
    }

    pub(crate) fn into_descriptors(self) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        (self.queues, self.vhost)
    }
}

/// An Ethernet address of one interface (not a group's, not all zero).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Checks that `bytes` can be the address of an interface.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MachineError> {
        let address = Self(bytes);
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MachineError::Mac(address.to_string()));
        }
        Ok(address)
    }

    /// The six bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = MachineError;

    /// Six pairs of hexadecimal digits separated by colons (or all by hyphens).
    fn from_str(text: &str) -> Result<Self, MachineError> {
        let refuse = || MachineError::Mac(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(refuse)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        if parts.next().is_some() {
            return Err(refuse());
        }
        Self::new(bytes).map_err(|_| refuse())
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let mac: MacAddress = "52-54-00-Ab-cd-0f".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:01",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "52:54:00:ab:cd:+f",
            "52:54:00:ab:cd:0f,id=x",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn queues_follow_the_model() {
        let fds = |n: usize| (0..n).map(|_| std::fs::File::open("/dev/null").unwrap().into());
        let mac = "52:54:00:00:00:01".parse().unwrap();
        let nic = |n, model| Nic::new(Name::new("nic", "a").unwrap(), fds(n).collect(), mac, model);
        assert!(nic(0, NicModel::Virtio).is_err());
        assert!(nic(2, NicModel::E1000e).is_err());
        assert!(nic(1, NicModel::E1000).unwrap().with_mtu(1400).is_err());
        let nic = nic(2, NicModel::Virtio).unwrap().with_mtu(1400).unwrap();
        assert!(nic.with_vhost(fds(1).collect()).is_err());
    }
}
