//! Disks, input devices, the watchdog and the network of a machine that does not describe them.

use super::fill as text;
use crate::machine::{DEFAULT_NETWORK, DiskBus, WatchdogAction};
use crate::machine::{InputBus, InputType};
use crate::v1::{
    Disk, DiskTarget, Empty, Input, Interface, Network, PodNetwork, VirtualMachineInstanceSpec,
};

pub(super) fn fill(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    devices.disks.iter_mut().for_each(disk);
    devices.inputs.iter_mut().for_each(input);
    watchdog(spec);
    network(spec);
}

fn disk(disk: &mut Disk) {
    if let Some(cdrom) = &mut disk.cdrom {
        text(&mut cdrom.bus, DiskBus::Sata.as_str());
        text(&mut cdrom.tray, "closed");
        cdrom.readonly.get_or_insert(true);
    } else if let Some(lun) = &mut disk.lun {
        text(&mut lun.bus, DiskBus::Scsi.as_str());
    } else {
        let target: &mut DiskTarget = disk.disk.get_or_insert_default();
        text(&mut target.bus, DiskBus::Sata.as_str());
    }
}

fn input(input: &mut Input) {
    text(&mut input.bus, InputBus::Usb.as_str());
    if input.r#type.is_empty() {
        input.r#type = InputType::Tablet.as_str().to_owned();
    }
}

fn network(spec: &mut VirtualMachineInstanceSpec) {
    pod_interface(spec);
    for interface in &mut spec.domain.devices.interfaces {
        if !is_bound(interface) {
            interface.masquerade = Some(Empty {});
        }
    }
}

/// Connects a machine without interfaces to the pod network, unless it is to have none.
pub(crate) fn pod_interface(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    let none = devices.interfaces.is_empty() && spec.networks.is_empty();
    if none && devices.autoattach_pod_interface != Some(false) {
        devices.interfaces.push(Interface {
            name: DEFAULT_NETWORK.to_owned(),
            ..Interface::default()
        });
        spec.networks.push(Network {
            name: DEFAULT_NETWORK.to_owned(),
            pod: Some(PodNetwork::default()),
            ..Network::default()
        });
    }
}

fn watchdog(spec: &mut VirtualMachineInstanceSpec) {
    let watchdog = spec.domain.devices.watchdog.as_mut();
    if let Some(watchdog) = watchdog.filter(|watchdog| watchdog.diag288.is_none()) {
        let timer = watchdog.i6300esb.get_or_insert_default();
        text(&mut timer.action, WatchdogAction::Reset.as_str());
    }
}

/// Whether an interface says how it is bound.
pub(crate) fn is_bound(interface: &Interface) -> bool {
    interface.masquerade.is_some()
        || interface.bridge.is_some()
        || interface.sriov.is_some()
        || interface.binding.is_some()
        || interface.passt_binding.is_some()
        || interface.macvtap.is_some()
        || interface.passt.is_some()
        || interface.slirp.is_some()
}
