//! What the status of an instance says about volumes, read from its pod: no claim is looked up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use vm_api::Quantity;
use vm_api::contract::VOLUME_SIZES_ANNOTATION;
use vm_api::v1::{PersistentVolumeClaimInfo, VirtualMachineInstanceSpec, VolumeStatus};

/// The volumes of a machine, with the claims that its pod has.
pub(super) fn status(spec: &VirtualMachineInstanceSpec, pod: &Pod) -> Vec<VolumeStatus> {
    let sizes: BTreeMap<String, Quantity> = pod
        .annotations()
        .get(VOLUME_SIZES_ANNOTATION)
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    spec.volumes
        .iter()
        .map(|volume| VolumeStatus {
            name: volume.name.clone(),
            persistent_volume_claim_info: claim(pod, &volume.name, sizes.get(&volume.name)),
            ..VolumeStatus::default()
        })
        .collect()
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
        capacity: size
            .map(|size| ("storage".to_owned(), size.clone()))
            .into_iter()
            .collect(),
        ..PersistentVolumeClaimInfo::default()
    })
}
