//! What the status of an instance says about volumes, read from its spec and its pod: no claim is looked
//! up, so access modes and requests of claims are not there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use vm_api::Quantity;
use vm_api::contract::{FILESYSTEM_OVERHEAD_PERMILLE, VOLUME_SIZES_ANNOTATION};
use vm_api::machine::{DiskBus, MachineDisk, disks};
use vm_api::v1::{PersistentVolumeClaimInfo, VirtualMachineInstanceSpec, VolumeStatus};

/// The volumes of a machine, with the claims that its pod has.
pub(super) fn status(spec: &VirtualMachineInstanceSpec, pod: &Pod) -> Vec<VolumeStatus> {
    let sizes: BTreeMap<String, Quantity> = pod
        .annotations()
        .get(VOLUME_SIZES_ANNOTATION)
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let targets = targets(spec);
    spec.volumes
        .iter()
        .map(|volume| VolumeStatus {
            name: volume.name.clone(),
            target: targets.get(&volume.name).cloned().unwrap_or_default(),
            persistent_volume_claim_info: claim(pod, &volume.name, sizes.get(&volume.name)),
            ..VolumeStatus::default()
        })
        .collect()
}

/// The name of each disk in the guest, as KubeVirt guesses it: by the bus and the order in the spec.
fn targets(spec: &VirtualMachineInstanceSpec) -> BTreeMap<String, String> {
    let mut counts = BTreeMap::new();
    let disks = disks(spec).unwrap_or_default();
    let target = |disk: MachineDisk<'_>| {
        let prefix = match disk.bus {
            DiskBus::Virtio => "vd",
            DiskBus::Sata | DiskBus::Scsi | DiskBus::Usb => "sd",
        };
        let count: &mut u32 = counts.entry(prefix).or_default();
        let name = format!("{prefix}{}", letters(*count));
        *count += 1;
        (disk.name.to_owned(), name)
    };
    disks.into_iter().map(target).collect()
}

/// a to z, then aa, ab, …
fn letters(number: u32) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
    match number / 26 {
        0 => letter.to_string(),
        more => format!("{}{letter}", letters(more - 1)),
    }
}

fn claim(pod: &Pod, volume: &str, size: Option<&Quantity>) -> Option<PersistentVolumeClaimInfo> {
    let spec = pod.spec.as_ref()?;
    let source = spec
        .volumes
        .as_ref()?
        .iter()
        .find(|candidate| candidate.name == volume)?;
    let name = &source.persistent_volume_claim.as_ref()?.claim_name;
    let block = spec.containers.iter().any(|container| {
        container
            .volume_devices
            .iter()
            .flatten()
            .any(|device| device.name == volume)
    });
    Some(PersistentVolumeClaimInfo {
        claim_name: Some(name.clone()),
        volume_mode: Some(if block { "Block" } else { "Filesystem" }.to_owned()),
        filesystem_overhead: (!block).then(overhead),
        capacity: size
            .map(|size| ("storage".to_owned(), size.clone()))
            .into_iter()
            .collect(),
        ..PersistentVolumeClaimInfo::default()
    })
}

/// The part of a claim that its file system keeps for itself.
fn overhead() -> String {
    format!("0.{FILESYSTEM_OVERHEAD_PERMILLE:03}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disks_are_named_by_bus_and_order() {
        let disk = |name: &str, bus: &str| json!({ "name": name, "disk": { "bus": bus } });
        let volume = |name: &str| json!({ "name": name, "containerDisk": { "image": "a" } });
        let volumes = ["seed", "data", "b", "a", "root"].map(volume);
        let spec = json!({
            "domain": { "devices": { "disks": [
                disk("root", "virtio"), disk("a", "sata"), disk("b", "scsi"), disk("data", "virtio"),
            ] } },
            "volumes": volumes,
        });
        let targets = targets(&serde_json::from_value(spec).unwrap());
        let named = |name: &str| targets[name].as_str();
        assert_eq!(
            ["root", "data", "a", "b"].map(named),
            ["vda", "vdb", "sda", "sdb"]
        );
        assert_eq!(named("seed"), "sdc", "a volume without a disk is on sata");
        assert_eq!(letters(0), "a");
        assert_eq!(letters(25), "z");
        assert_eq!(letters(26), "aa");
        assert_eq!(letters(701), "zz");
        assert_eq!(overhead(), "0.055");
    }
}
