//! PCI devices of the node that a device plugin gave the machine's container.
//!
//! What the container may have is told by its device nodes alone, `/dev/vfio/<group>`: only kubelet
//! and the plugins can put one there. Which devices are meant is told by variables, which the pod's
//! writer can set too; so each address must belong to a group whose node the container has, by the
//! kernel's own word.

mod sysfs;
mod variables;

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use qemu_driver::machine::{self, MachineError, Name, PciAddress};
use vm_api::field::{self, FieldError};
use vm_api::machine::host_devices;
use vm_api::v1::VirtualMachineInstanceSpec;

use crate::bundle::Bundle;
use sysfs::{Group, Sysfs};
use variables::Pool;

/// Where the nodes are.
const DIRECTORY: &str = "/dev/vfio";

/// The node through which all groups are used: misc major and VFIO's minor
/// (Documentation/admin-guide/devices.txt).
const CONTAINER: (&str, i64, i64) = ("vfio", 10, 196);

/// A device node of the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its path, for QEMU too.
    pub path: PathBuf,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
}

/// The devices of a machine, and what QEMU needs to reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// The devices, in the machine's order.
    pub devices: Vec<machine::HostDevice>,
    /// The device nodes of their groups, and the one that they have in common.
    pub nodes: Vec<Node>,
    /// Their directories in sysfs.
    pub directories: Vec<PathBuf>,
}

/// Why a machine does not get a device of the node.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum HostDeviceError {
    #[error("{}", field::join(.0))]
    Fields(Vec<FieldError>),
    #[error(
        "{path}: the pod was given no device of {resource}, or fewer than the spec names: request it \
         in the machine container's resources.limits, from a device plugin that sets \
         PCI_RESOURCE_… or PCIDEVICE_…"
    )]
    NotGiven { path: String, resource: String },
    #[error("PCI device {address}: the kernel does not tell its IOMMU group: {source}")]
    NoGroup {
        address: PciAddress,
        source: io::Error,
    },
    #[error(
        "PCI device {address} is in IOMMU group {group}, which the container was not given: only \
         what a device plugin gave the pod can be its machine's"
    )]
    NotOfPod { address: PciAddress, group: Group },
    #[error(
        "the container's /dev/vfio/{group} is not the device of that group: only device plugins can \
         give a machine devices"
    )]
    OtherNode { group: Group },
    #[error(
        "the container has /dev/vfio/{group}, and no device of that group is {}: {}",
        if *.named { "named in the spec" } else { "told by its device plugin" },
        if *.named {
            "name it in domain.devices.hostDevices, or do not request it"
        } else {
            "only PCI devices in PCI_RESOURCE_… or PCIDEVICE_… can be a machine's"
        }
    )]
    NotNamed { group: Group, named: bool },
    #[error(
        "the container was given {}, a group without an IOMMU: its device would reach all of the node's \
         memory; switch on the node's IOMMU, in its firmware and by its kernel's arguments, or use another \
         node", path.display()
    )]
    NoIommu { path: PathBuf },
    #[error(
        "the container has a group of VFIO, but not /dev/vfio/vfio: its device plugin is wrong"
    )]
    NoContainer,
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Whether `device` is a node of VFIO. A node that a pod itself can name is a block device.
pub fn is_vfio(device: &LinuxDevice) -> bool {
    device.typ() == LinuxDeviceType::C && device.path().parent() == Some(DIRECTORY.as_ref())
}

impl HostDevices {
    /// What the machine of `spec` gets of what the container of `bundle` was given.
    pub fn of(spec: &VirtualMachineInstanceSpec, bundle: &Bundle) -> Result<Self, HostDeviceError> {
        Self::within(&Sysfs::default(), spec, bundle)
    }

    fn within(
        sysfs: &Sysfs,
        spec: &VirtualMachineInstanceSpec,
        bundle: &Bundle,
    ) -> Result<Self, HostDeviceError> {
        let wished = host_devices(spec).map_err(HostDeviceError::Fields)?;
        let given = bundle.linux().devices().iter().flatten();
        let given: Vec<_> = given.filter(|it| is_vfio(it)).map(node).collect();
        if let Some(node) = given.iter().find(|node| is_without_iommu(node)) {
            let path = node.path.clone();
            return Err(HostDeviceError::NoIommu { path });
        }
        let env = bundle.process().env().clone().unwrap_or_default();
        let mut pools = variables::pools(&env);
        let mut chosen = Vec::new();
        for device in &wished {
            let address = take(&mut pools, device.resource);
            let address = address.ok_or_else(|| HostDeviceError::NotGiven {
                path: device.path.clone(),
                resource: device.resource.to_owned(),
            })?;
            chosen.push((device.name.to_owned(), address));
        }
        if wished.is_empty() && !given.is_empty() {
            let all = pools.iter().flat_map(|pool| &pool.addresses);
            // Others may be given in another way, as network interfaces of the pod are.
            let ours = all.filter(|it| {
                let group = sysfs.group(**it);
                group.is_ok_and(|group| of_group(&given, group).is_some())
            });
            chosen = ours.map(|it| (unnamed(*it), *it)).collect();
        }

        let mut found = Self::default();
        for (name, address) in chosen {
            let group = sysfs
                .group(address)
                .map_err(|source| HostDeviceError::NoGroup { address, source })?;
            let node =
                of_group(&given, group).ok_or(HostDeviceError::NotOfPod { address, group })?;
            if sysfs.node(group).ok() != Some((node.major, node.minor)) {
                return Err(HostDeviceError::OtherNode { group });
            }
            if !found.nodes.contains(node) {
                found.nodes.push(node.clone());
            }
            found.directories.push(sysfs.device(address));
            let name = Name::new("device", name)?;
            found.devices.push(machine::HostDevice::new(name, address));
        }
        let container = given.iter().find(|it| is_container(it));
        for node in given.iter().filter(|it| !is_container(it)) {
            if !found.nodes.contains(node) {
                let group = group_of(node).unwrap_or_default();
                let named = !wished.is_empty();
                return Err(HostDeviceError::NotNamed { group, named });
            }
        }
        if !found.devices.is_empty() {
            let container = container.ok_or(HostDeviceError::NoContainer)?;
            found.nodes.push(container.clone());
        }
        Ok(found)
    }
}

fn take(pools: &mut [Pool], resource: &str) -> Option<PciAddress> {
    let pool = pools.iter_mut().find(|pool| pool.is_of(resource))?;
    (!pool.addresses.is_empty()).then(|| pool.addresses.remove(0))
}

/// The name of a device whose pod gives it none.
fn unnamed(address: PciAddress) -> String {
    format!("pci-{}", address.to_string().replace(':', "-"))
}

fn node(device: &LinuxDevice) -> Node {
    Node {
        path: device.path().clone(),
        major: device.major(),
        minor: device.minor(),
    }
}

fn is_container(node: &Node) -> bool {
    let (name, major, minor) = CONTAINER;
    node.path.ends_with(name) && (node.major, node.minor) == (major, minor)
}

/// How VFIO calls the groups of a node without IOMMU (`drivers/vfio/group.c`).
fn is_without_iommu(node: &Node) -> bool {
    let name = node.path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("noiommu-"))
}

fn group_of(node: &Node) -> Option<Group> {
    node.path.file_name()?.to_str()?.parse().ok()
}

fn of_group(given: &[Node], group: Group) -> Option<&Node> {
    given.iter().find(|node| group_of(node) == Some(group))
}

#[cfg(test)]
mod tests;
