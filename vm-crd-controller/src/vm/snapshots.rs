//! Which of a machine's volumes can be snapshotted: none, and why.

use vm_api::v1::{VirtualMachine, VolumeSnapshotStatus};

/// One entry a volume, as in KubeVirt, whose sentence the one about volumes without a claim is.
pub(super) fn of(vm: &VirtualMachine) -> Vec<VolumeSnapshotStatus> {
    let spec = vm.spec.template.spec.as_ref();
    let volumes = spec.map(|spec| spec.volumes.as_slice()).unwrap_or_default();
    let status = |volume: &vm_api::v1::Volume| {
        let claim = volume.persistent_volume_claim.is_some() || volume.data_volume.is_some();
        let why = if claim {
            "Snapshots of machines are not supported by this version"
        } else {
            "Snapshot is not supported for this volumeSource type"
        };
        VolumeSnapshotStatus {
            name: volume.name.clone(),
            enabled: false,
            reason: Some(format!("{why} [{}]", volume.name)),
        }
    };
    volumes.iter().map(status).collect()
}
