//! The claim for what a machine keeps over its restarts beside its disks: UEFI variables and its TPM.
//!
//! It belongs to whoever lasts, the machine or else the lone instance, and goes with it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Volume,
    VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use vm_api::FieldError;
use vm_api::contract::STATE_DIRECTORY;
use vm_api::machine::keeps_state;
use vm_api::v1::VirtualMachineInstance;

use super::metadata;

/// What the claim's name begins with; KubeVirt's.
const PREFIX: &str = "persistent-state-for-";

/// Label with the machine's name; KubeVirt's.
const LABEL: &str = "persistent-state-for";

/// What the claim asks for; KubeVirt's. Variables have 528 KiB, a TPM some ten.
const SIZE: &str = "10Mi";

/// The pod's name for it.
const VOLUME: &str = "vm-state";

/// The claim that `instance` needs, if it needs one.
pub fn claim(
    instance: &VirtualMachineInstance,
) -> Result<Option<PersistentVolumeClaim>, FieldError> {
    if !keeps_state(&instance.spec)? {
        return Ok(None);
    }
    let name = instance.name_any();
    let labels = BTreeMap::from([(LABEL.to_owned(), metadata::label_value(&name))]);
    Ok(Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(metadata::object_name(PREFIX, &name)),
            namespace: instance.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owner(instance)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(SIZE.to_owned()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }))
}

/// Whoever made the instance, or else the instance itself.
fn owner(instance: &VirtualMachineInstance) -> OwnerReference {
    let mut owners = instance.owner_references().iter();
    let maker = owners.find(|owner| owner.controller == Some(true)).cloned();
    OwnerReference {
        controller: None,
        // Its end does not wait for the claim's.
        block_owner_deletion: None,
        ..maker.unwrap_or_else(|| metadata::owner(instance))
    }
}

/// The claim in the pod, and where the machine container has it.
pub(super) fn render(
    instance: &VirtualMachineInstance,
) -> Result<Option<(Volume, VolumeMount)>, FieldError> {
    let Some(claim) = claim(instance)? else {
        return Ok(None);
    };
    let volume = Volume {
        name: VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.name_any(),
            read_only: None,
        }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: STATE_DIRECTORY.to_owned(),
        ..VolumeMount::default()
    };
    Ok(Some((volume, mount)))
}
