//! What a spec means where it says nothing, written out.
//!
//! The values are those of KubeVirt's admission, but for one: a machine without interfaces is bound
//! to the pod network by masquerade, where KubeVirt would choose bridge.

mod devices;
mod features;
mod growth;
mod machine;

pub(crate) use devices::{is_bound, pod_interface};
pub use machine::{Identity, machine};

use crate::machine::topology;
use crate::v1::{ContainerDiskSource, Efi, VirtualMachineInstanceSpec};

/// Architecture of guests.
pub const ARCHITECTURE: &str = "amd64";

/// Machine type.
pub const MACHINE_TYPE: &str = "q35";

/// Model of the processor.
pub const CPU_MODEL: &str = "host-model";

/// Writes the defaults into an instance; doing it again changes nothing.
pub fn instance(spec: &mut VirtualMachineInstanceSpec) {
    board(spec);
    spec.domain.resources.get_or_insert_default();
    // An empty one is refused.
    spec.eviction_strategy
        .get_or_insert_with(|| "None".to_owned());
    bootloader(spec);
    processors(spec);
    growth::fill(spec);
    features::fill(spec);
    devices::fill(spec);
    for volume in &mut spec.volumes {
        if let Some(source) = &mut volume.container_disk {
            pull_policy(source);
        }
    }
}

fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Architecture, and the board of it.
fn board(spec: &mut VirtualMachineInstanceSpec) {
    fill(&mut spec.architecture, ARCHITECTURE);
    let board = match spec.architecture.as_deref() {
        Some("arm64") => "virt",
        Some("s390x") => "s390-ccw-virtio",
        _ => MACHINE_TYPE,
    };
    fill(
        &mut spec.domain.machine.get_or_insert_default().r#type,
        board,
    );
}

/// What boots an architecture that has no BIOS.
fn bootloader(spec: &mut VirtualMachineInstanceSpec) {
    if spec.architecture.as_deref() != Some("arm64") {
        return;
    }
    let firmware = spec.domain.firmware.get_or_insert_default();
    let bootloader = firmware.bootloader.get_or_insert_default();
    if bootloader.bios.is_none() && bootloader.efi.is_none() {
        bootloader.efi = Some(Efi {
            secure_boot: Some(false),
            ..Efi::default()
        });
    }
}

fn processors(spec: &mut VirtualMachineInstanceSpec) {
    let topology = topology(spec, None);
    let model = match spec.architecture.as_deref() {
        Some("arm64") => "host-passthrough",
        _ => CPU_MODEL,
    };
    let cpu = spec.domain.cpu.get_or_insert_default();
    fill(&mut cpu.model, model);
    let given = [cpu.sockets, cpu.cores, cpu.threads];
    let given = given.iter().any(|part| part.unwrap_or_default() > 0);
    // A part that is given leaves the others at one, unwritten. A limit that cannot be read is
    // refused by the validation.
    if let (false, Ok(topology)) = (given, topology) {
        cpu.sockets = Some(topology.sockets);
        cpu.cores = Some(topology.cores);
        cpu.threads = Some(topology.threads);
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
                    "cpu": { "sockets": 1, "cores": 1, "threads": 1, "maxSockets": 4, "model": "host-model" },
                    "memory": { "guest": "64Mi" },
                    "resources": {},
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
