//! Disks, interfaces and networks.

use std::collections::{HashMap, HashSet};

use super::names::{Form, wrong};
use crate::field::FieldError;
use crate::machine::{
    DiskBus, DiskKind, MachineDisk, VolumeSource, disks, host_devices, interfaces, watchdog,
};
use crate::v1::{Network, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match disks(spec) {
        Ok(disks) => errors.extend(
            disks
                .iter()
                .enumerate()
                .filter_map(|(index, disk)| medium(disk, index)),
        ),
        Err(wrong) => errors.extend(wrong),
    }
    errors.extend(interfaces(spec).err().unwrap_or_default());
    errors.extend(names(spec));
    errors.extend(boot_orders(spec));
    errors.extend(ports(spec));
    errors.extend(networks(spec));
    errors.extend(diag288(spec));
    errors.extend(node_devices(spec));
    errors
}

/// Buses that a kind of disk can be on, and volumes that it can have.
fn medium(disk: &MachineDisk<'_>, index: usize) -> Option<FieldError> {
    let path = format!("domain.devices.disks[{index}]");
    if disk.kind == DiskKind::Cdrom && disk.bus == DiskBus::Virtio {
        return Some(FieldError::new(
            format!("{path}.cdrom.bus"),
            "a CD-ROM can be on sata, scsi or usb",
        ));
    }
    let claim = matches!(
        disk.source,
        Some(VolumeSource::PersistentVolumeClaim(_) | VolumeSource::DataVolume(_))
    );
    if disk.kind == DiskKind::Lun && !claim {
        let message = format!(
            "a LUN needs a claim or a data volume, not {}",
            disk.source.map_or("nothing", |source| source.name())
        );
        return Some(FieldError::new(format!("{path}.lun"), message));
    }
    if disk.kind == DiskKind::Lun && !matches!(disk.bus, DiskBus::Scsi | DiskBus::Sata) {
        return Some(FieldError::new(
            format!("{path}.lun.bus"),
            "a LUN is on scsi",
        ));
    }
    let serial = disk.serial.unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
    (serial.len() > 256 || !serial.bytes().all(allowed)).then(|| {
        let message = "use at most 256 letters, digits, underscores, dots, pluses and hyphens";
        FieldError::new(format!("{path}.serial"), message)
    })
}

/// KubeVirt lets any action of the right timer pass; that is the concern of [`crate::support`].
fn diag288(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let other = spec.domain.devices.watchdog.as_ref()?.diag288.is_some();
    other.then(|| watchdog(spec).err())?
}

/// That a claim of one works is the concern of [`crate::support`].
fn node_devices(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let devices = &spec.domain.devices;
    let gpus = devices.gpus.iter().map(|gpu| &gpu.claim_name);
    let others = devices.host_devices.iter().map(|it| &it.claim_name);
    let mut claims = gpus.chain(others).flatten();
    if claims.any(|claim| !claim.is_empty()) {
        return Vec::new();
    }
    host_devices(spec).err().unwrap_or_default()
}

fn names(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let path = format!("domain.devices.disks[{index}].name");
        errors
            .extend(wrong(Form::Label, &disk.name).map(|message| FieldError::new(&path, message)));
        if !seen.insert(&disk.name) {
            errors.push(FieldError::new(
                path,
                format!("another disk is called `{}` too", disk.name),
            ));
        }
    }
    seen.clear();
    for (index, interface) in spec.domain.devices.interfaces.iter().enumerate() {
        let path = format!("domain.devices.interfaces[{index}].name");
        errors.extend(
            wrong(Form::Interface, &interface.name).map(|message| FieldError::new(&path, message)),
        );
        if !seen.insert(&interface.name) {
            errors.push(FieldError::new(
                path,
                format!("another interface is called `{}` too", interface.name),
            ));
        }
    }
    errors
}

fn boot_orders(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let devices = &spec.domain.devices;
    let disks = devices.disks.iter().map(|disk| disk.boot_order).enumerate();
    let interfaces = devices
        .interfaces
        .iter()
        .map(|interface| interface.boot_order)
        .enumerate();
    let orders = disks
        .map(|(index, order)| (format!("domain.devices.disks[{index}].bootOrder"), order))
        .chain(interfaces.map(|(index, order)| {
            (
                format!("domain.devices.interfaces[{index}].bootOrder"),
                order,
            )
        }));
    let mut first = HashMap::new();
    let mut errors = Vec::new();
    for (path, order) in orders.filter_map(|(path, order)| Some((path, order?))) {
        match first.get(&order) {
            Some(other) => errors.push(FieldError::new(
                path,
                format!("{order} is the place of {other} already"),
            )),
            None => {
                first.insert(order, path);
            }
        }
    }
    errors
}

fn ports(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, interface) in spec.domain.devices.interfaces.iter().enumerate() {
        let mut names = HashSet::new();
        for (number, port) in interface.ports.iter().enumerate() {
            let path = format!("domain.devices.interfaces[{index}].ports[{number}].name");
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            errors.extend(wrong(Form::Port, name).map(|message| FieldError::new(&path, message)));
            if !names.insert(name) {
                errors.push(FieldError::new(
                    path,
                    format!("another port is called `{name}` too"),
                ));
            }
        }
    }
    errors
}

fn networks(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, network) in spec.networks.iter().enumerate() {
        let path = format!("networks[{index}]");
        if network.name.is_empty() {
            errors.push(FieldError::new(
                format!("{path}.name"),
                "a network needs a name",
            ));
        } else if !seen.insert(&network.name) {
            let message = format!("another network is called `{}` too", network.name);
            errors.push(FieldError::new(format!("{path}.name"), message));
        }
        if !spec
            .domain
            .devices
            .interfaces
            .iter()
            .any(|interface| interface.name == network.name)
        {
            let message = format!(
                "no interface is called `{}`: add it to domain.devices.interfaces",
                network.name
            );
            errors.push(FieldError::new(format!("{path}.name"), message));
        }
        errors.extend(network_source(network, path));
    }
    let takes_its_place = |network: &Network| {
        let multus = network.multus.as_ref();
        multus.is_some_and(|multus| multus.default == Some(true))
    };
    let pod = spec
        .networks
        .iter()
        .filter(|network| network.pod.is_some() || takes_its_place(network))
        .count();
    if pod > 1 {
        errors.push(FieldError::new(
            "networks",
            "the pod network, or a network of Multus in its place, is there more than once",
        ));
    }
    errors
}

fn network_source(network: &Network, path: String) -> Option<FieldError> {
    let set = [
        network.pod.is_some(),
        network.multus.is_some(),
        network.resource_claim.is_some(),
    ];
    match set.iter().filter(|set| **set).count() {
        0 => Some(FieldError::new(path, "no source is set: use pod: {}")),
        1 if network
            .multus
            .as_ref()
            .is_some_and(|multus| multus.network_name.is_empty()) =>
        {
            Some(FieldError::new(
                path,
                "multus needs the name of a NetworkAttachmentDefinition",
            ))
        }
        1 => None,
        _ => Some(FieldError::new(path, "a network has one source")),
    }
}
