//! What a spec means where it says nothing, written out.
//!
//! The values are those of KubeVirt's admission, but for one: a machine without interfaces is bound
//! to the pod network by masquerade, where KubeVirt would choose bridge.

use crate::machine::{DEFAULT_NETWORK, DiskBus, WatchdogAction, topology};
use crate::v1::{
    ContainerDiskSource, Disk, DiskTarget, Empty, Interface, Network, PodNetwork,
    VirtualMachineInstanceSpec,
};

/// Architecture of guests.
pub const ARCHITECTURE: &str = "amd64";

/// Machine type.
pub const MACHINE_TYPE: &str = "q35";

/// Model of the processor.
pub const CPU_MODEL: &str = "host-model";

/// Writes the defaults into an instance; doing it again changes nothing.
pub fn instance(spec: &mut VirtualMachineInstanceSpec) {
    fill(&mut spec.architecture, ARCHITECTURE);
    fill(&mut spec.eviction_strategy, "None");
    processors(spec);
    fill(
        &mut spec.domain.machine.get_or_insert_default().r#type,
        MACHINE_TYPE,
    );
    let acpi = spec
        .domain
        .features
        .get_or_insert_default()
        .acpi
        .get_or_insert_default();
    acpi.enabled.get_or_insert(true);
    spec.domain.devices.disks.iter_mut().for_each(disk);
    for volume in &mut spec.volumes {
        if let Some(source) = &mut volume.container_disk {
            pull_policy(source);
        }
    }
    watchdog(spec);
    network(spec);
}

fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

fn processors(spec: &mut VirtualMachineInstanceSpec) {
    let topology = topology(spec, None);
    let cpu = spec.domain.cpu.get_or_insert_default();
    fill(&mut cpu.model, CPU_MODEL);
    // A limit that cannot be read is refused by the validation.
    if let Ok(topology) = topology {
        cpu.sockets = Some(topology.sockets);
        cpu.cores = Some(topology.cores);
        cpu.threads = Some(topology.threads);
    }
}

fn disk(disk: &mut Disk) {
    if let Some(cdrom) = &mut disk.cdrom {
        fill(&mut cdrom.bus, DiskBus::Sata.as_str());
        fill(&mut cdrom.tray, "closed");
        cdrom.readonly.get_or_insert(true);
    } else if let Some(lun) = &mut disk.lun {
        fill(&mut lun.bus, DiskBus::Scsi.as_str());
    } else {
        let target: &mut DiskTarget = disk.disk.get_or_insert_default();
        fill(&mut target.bus, DiskBus::Sata.as_str());
    }
}

/// Pulled each time where the image's tag can move, else when it is not there.
fn pull_policy(source: &mut ContainerDiskSource) {
    if source.image_pull_policy.is_some() {
        return;
    }
    let name = source.image.rsplit('/').next().unwrap_or_default();
    let fixed = name.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    source.image_pull_policy = Some(if fixed { "IfNotPresent" } else { "Always" }.to_owned());
}

fn network(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    for interface in &mut devices.interfaces {
        if !is_bound(interface) {
            interface.masquerade = Some(Empty {});
        }
    }
    let none = devices.interfaces.is_empty() && spec.networks.is_empty();
    if none && devices.autoattach_pod_interface != Some(false) {
        devices.interfaces.push(Interface {
            name: DEFAULT_NETWORK.to_owned(),
            masquerade: Some(Empty {}),
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
        fill(&mut timer.action, WatchdogAction::Reset.as_str());
    }
}

fn is_bound(interface: &Interface) -> bool {
    interface.masquerade.is_some()
        || interface.bridge.is_some()
        || interface.sriov.is_some()
        || interface.binding.is_some()
        || interface.passt_binding.is_some()
        || interface.macvtap.is_some()
        || interface.passt.is_some()
        || interface.slirp.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{support, validate};

    #[test]
    fn defaults_make_a_whole_machine_that_works() {
        let given = json!({
            "domain": { "memory": { "guest": "64Mi" }, "devices": { "disks": [{ "name": "root" }, { "name": "cd", "cdrom": {} }] } },
            "volumes": [
                { "name": "root", "containerDisk": { "image": "localhost:5000/a" } },
                { "name": "cd", "containerDisk": { "image": "localhost:5000/a:1" } },
            ],
        });
        let mut spec: VirtualMachineInstanceSpec = serde_json::from_value(given).unwrap();
        instance(&mut spec);
        assert_eq!(
            serde_json::to_value(&spec).unwrap(),
            json!({
                "architecture": "amd64",
                "evictionStrategy": "None",
                "domain": {
                    "cpu": { "sockets": 1, "cores": 1, "threads": 1, "model": "host-model" },
                    "memory": { "guest": "64Mi" },
                    "machine": { "type": "q35" },
                    "features": { "acpi": { "enabled": true } },
                    "devices": {
                        "disks": [
                            { "name": "root", "disk": { "bus": "sata" } },
                            { "name": "cd", "cdrom": { "bus": "sata", "readonly": true, "tray": "closed" } },
                        ],
                        "interfaces": [{ "name": "default", "masquerade": {} }],
                    },
                },
                "networks": [{ "name": "default", "pod": {} }],
                "volumes": [
                    { "name": "root", "containerDisk": { "image": "localhost:5000/a", "imagePullPolicy": "Always" } },
                    { "name": "cd", "containerDisk": { "image": "localhost:5000/a:1", "imagePullPolicy": "IfNotPresent" } },
                ],
            })
        );
        assert_eq!(validate::instance(&spec), []);
        assert_eq!(support::instance(&spec), []);
        let once = spec.clone();
        instance(&mut spec);
        assert_eq!(spec, once);
    }

    #[test]
    fn a_machine_without_a_network_stays_without() {
        let given = json!({ "domain": { "devices": { "autoattachPodInterface": false } } });
        let mut spec: VirtualMachineInstanceSpec = serde_json::from_value(given).unwrap();
        instance(&mut spec);
        assert!(spec.networks.is_empty() && spec.domain.devices.interfaces.is_empty());
    }

    #[test]
    fn a_watchdog_resets() {
        let given = json!({ "domain": { "devices": { "watchdog": { "name": "w" } } } });
        let mut spec: VirtualMachineInstanceSpec = serde_json::from_value(given).unwrap();
        instance(&mut spec);
        let timer = spec.domain.devices.watchdog.unwrap().i6300esb.unwrap();
        assert_eq!(timer.action.as_deref(), Some("reset"));
    }

    #[test]
    fn a_limit_of_processors_becomes_sockets() {
        let given = json!({ "domain": { "resources": { "limits": { "cpu": "2500m" } } } });
        let mut spec: VirtualMachineInstanceSpec = serde_json::from_value(given).unwrap();
        instance(&mut spec);
        assert_eq!(spec.domain.cpu.unwrap().sockets, Some(3));
    }
}
