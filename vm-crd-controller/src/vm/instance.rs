//! The instance of a machine: its template, settled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use crate::api::PAUSED_KEY;
use crate::machine;
use crate::vmi::FINALIZER;

/// Annotation: the machine's generation when the instance was made; KubeVirt's name.
pub(super) const GENERATION_ANNOTATION: &str = "kubevirt.io/vm-generation";

/// The start strategy of an instance whose guest waits.
const PAUSED: &str = "Paused";

/// The instance to be made for `vm`.
pub(super) fn of(vm: &VirtualMachine) -> VirtualMachineInstance {
    let template = vm.spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let generation = vm.metadata.generation.unwrap_or_default();
    annotations.insert(GENERATION_ANNOTATION.to_owned(), generation.to_string());
    let name = vm.name_any();
    let mut spec = template.spec.unwrap_or_default();
    if starts_paused(vm) {
        spec.start_strategy = Some(PAUSED.to_owned());
    }
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

/// Whether the start that is asked for is one that waits for its user: only the oldest request counts.
fn starts_paused(vm: &VirtualMachine) -> bool {
    let status = vm.status.as_ref();
    let requests = status.map_or(&[][..], |status| &status.state_change_requests);
    // A stop of the instance before has been followed when the next one is made.
    let start = requests.iter().find(|request| request.action == "Start");
    start.is_some_and(|start| {
        start
            .data
            .get(PAUSED_KEY)
            .is_some_and(|word| word == "true")
    })
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
    if generation(instance) == vm.metadata.generation {
        return false;
    }
    let mut wanted = of(vm).spec;
    // One start may have asked for it, which says nothing about the template.
    wanted
        .start_strategy
        .clone_from(&instance.spec.start_strategy);
    wanted != instance.spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(requests: serde_json::Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "generation": 2 },
            "spec": { "runStrategy": "Always", "template": {} },
            "status": { "stateChangeRequests": requests },
        }))
        .unwrap()
    }

    #[test]
    fn a_start_may_ask_for_a_guest_that_waits() {
        let strategy = |requests| of(&vm(requests)).spec.start_strategy;
        let paused = json!({ "action": "Start", "data": { "paused": "true" } });
        assert_eq!(strategy(json!([paused])), Some("Paused".to_owned()));
        let stop = json!({ "action": "Stop", "uid": "old" });
        assert_eq!(strategy(json!([stop, paused])), Some("Paused".to_owned()));
        assert_eq!(strategy(json!([{ "action": "Start" }])), None);
        assert_eq!(strategy(json!([])), None);
    }

    #[test]
    fn a_guest_that_waited_needs_no_restart_for_it() {
        let paused = json!([{ "action": "Start", "data": { "paused": "true" } }]);
        let mut instance = of(&vm(paused));
        let annotations = instance.metadata.annotations.as_mut().unwrap();
        annotations.insert(GENERATION_ANNOTATION.to_owned(), "1".to_owned());
        assert!(!is_outdated(&instance, &vm(json!([]))));
        instance.spec.hostname = Some("other".to_owned());
        assert!(is_outdated(&instance, &vm(json!([]))));
    }
}
