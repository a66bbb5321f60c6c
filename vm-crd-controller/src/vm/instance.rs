//! The instance of a machine: its template, settled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use crate::machine;
use crate::vmi::FINALIZER;

/// Annotation: the machine's generation when the instance was made; KubeVirt's name.
pub(super) const GENERATION_ANNOTATION: &str = "kubevirt.io/vm-generation";

/// The instance to be made for `vm`.
pub(super) fn of(vm: &VirtualMachine) -> VirtualMachineInstance {
    let template = vm.spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let generation = vm.metadata.generation.unwrap_or_default();
    annotations.insert(GENERATION_ANNOTATION.to_owned(), generation.to_string());
    let name = vm.name_any();
    let mut spec = template.spec.unwrap_or_default();
    let namespace = vm.namespace().unwrap_or_default();
    machine::settle(&mut spec, &vm.uid().unwrap_or_default(), &namespace, &name);
    let mut instance = VirtualMachineInstance::new(&name, spec);
    instance.metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        labels: metadata.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner(vm)]),
        finalizers: Some(vec![FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    instance
}

fn owner(vm: &VirtualMachine) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: vm.name_any(),
        uid: vm.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether `instance` was made by `vm`.
pub(super) fn is_of(instance: &VirtualMachineInstance, vm: &VirtualMachine) -> bool {
    let uid = vm.uid();
    instance
        .owner_references()
        .iter()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == uid.as_ref())
}

/// The generation of the machine that `instance` was made from.
pub(super) fn generation(instance: &VirtualMachineInstance) -> Option<i64> {
    instance
        .annotations()
        .get(GENERATION_ANNOTATION)?
        .parse()
        .ok()
}

/// Whether the template asks for another machine than `instance` is.
pub(super) fn is_outdated(instance: &VirtualMachineInstance, vm: &VirtualMachine) -> bool {
    generation(instance) != vm.metadata.generation && of(vm).spec != instance.spec
}
