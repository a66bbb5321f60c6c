//! What the kernel says of PCI devices and their IOMMU groups.

use std::fs;
use std::io;
use std::path::PathBuf;

use qemu_driver::machine::PciAddress;

/// A group of devices that only go together, as the kernel numbers it.
pub(super) type Group = u32;

/// The kernel's tree of devices.
#[derive(Clone, Debug)]
pub(super) struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self("/sys".into())
    }
}

impl Sysfs {
    #[cfg(test)]
    pub(super) fn at(path: &std::path::Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory of the device at `address`.
    pub(super) fn device(&self, address: PciAddress) -> PathBuf {
        self.0.join("bus/pci/devices").join(address.to_string())
    }

    /// The group of the device at `address`
    /// (Documentation/ABI/testing/sysfs-kernel-iommu_groups).
    pub(super) fn group(&self, address: PciAddress) -> io::Result<Group> {
        let link = fs::read_link(self.device(address).join("iommu_group"))?;
        let name = link.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.parse().ok())
            .ok_or_else(|| io::Error::other("its IOMMU group has no number"))
    }

    /// Major and minor number of the group's device node.
    pub(super) fn node(&self, group: Group) -> io::Result<(i64, i64)> {
        let path = self
            .0
            .join("class/vfio")
            .join(group.to_string())
            .join("dev");
        let text = fs::read_to_string(path)?;
        let numbers = text.trim().split_once(':');
        numbers
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| io::Error::other(format!("{:?} is no device number", text.trim())))
    }
}
