//! The instance of a machine: its template, settled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use crate::vmi::{FINALIZER, START_PAUSED};
use crate::{machine, owner};

/// Annotation: the machine's generation when the instance was made; KubeVirt's name.
pub(super) const GENERATION_ANNOTATION: &str = "kubevirt.io/vm-generation";

/// The instance to be made for `vm`, whose template is expanded; `paused`: whoever asked for its start
/// wants to let it run later.
pub(super) fn of(vm: &VirtualMachine, paused: bool) -> VirtualMachineInstance {
    let template = vm.spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let generation = vm.metadata.generation.unwrap_or_default();
    annotations.insert(GENERATION_ANNOTATION.to_owned(), generation.to_string());
    let name = vm.name_any();
    let mut spec = template.spec.unwrap_or_default();
    let namespace = vm.namespace().unwrap_or_default();
    if paused {
        spec.start_strategy = Some(START_PAUSED.to_owned());
    }
    machine::settle(&mut spec, &vm.uid().unwrap_or_default(), &namespace, &name);
    machine::give_room(&mut spec);
    let mut instance = VirtualMachineInstance::new(&name, spec);
    instance.metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        labels: metadata.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner::reference(vm)]),
        finalizers: Some(vec![FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    instance
}

/// Whether `instance` was made by `vm`.
pub(super) fn is_of(instance: &VirtualMachineInstance, vm: &VirtualMachine) -> bool {
    owner::is_of(instance, vm.metadata.uid.as_deref())
}

/// The generation of the machine that `instance` was made from.
pub(super) fn generation(instance: &VirtualMachineInstance) -> Option<i64> {
    instance
        .annotations()
        .get(GENERATION_ANNOTATION)?
        .parse()
        .ok()
}

/// Whether `instance` was made before the machine was changed last.
pub(super) fn is_older(instance: &VirtualMachineInstance, vm: &VirtualMachine) -> bool {
    generation(instance) != vm.metadata.generation
}

/// The instance that would be made for `vm`, whose template is expanded, now if its start were asked for as that of `instance` was.
///
/// Room to grow that the template does not speak of is that of `instance`: it was settled when that
/// was made.
pub(super) fn like(
    vm: &VirtualMachine,
    instance: &VirtualMachineInstance,
) -> VirtualMachineInstance {
    let paused = instance.spec.start_strategy.as_deref() == Some(START_PAUSED);
    let mut alike = of(vm, paused);
    let template = vm.spec.template.spec.as_ref().map(|spec| &spec.domain);
    let (domain, made) = (&mut alike.spec.domain, &instance.spec.domain);
    let sockets = template.and_then(|domain| domain.cpu.as_ref()?.max_sockets);
    if let Some(cpu) = domain.cpu.as_mut().filter(|_| sockets.is_none()) {
        cpu.max_sockets = made.cpu.as_ref().and_then(|cpu| cpu.max_sockets);
    }
    let guest = template.and_then(|domain| domain.memory.as_ref()?.max_guest.as_ref());
    if let Some(memory) = domain.memory.as_mut().filter(|_| guest.is_none()) {
        let made = made.memory.as_ref();
        memory.max_guest = made.and_then(|memory| memory.max_guest.clone());
    }
    alike
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_instance_is_called_as_its_machine_and_labelled_as_its_template() {
        let vm: VirtualMachine = serde_json::from_value(json!({
            "metadata": { "name": "tl", "namespace": "default", "uid": "u", "generation": 3 },
            "spec": { "runStrategy": "Always", "template": {
                "metadata": {
                    "name": "other", "namespace": "elsewhere",
                    "labels": { "a": "b" }, "annotations": { "c": "d" },
                },
                "spec": { "domain": { "memory": { "guest": "64Mi" } } },
            } },
        }))
        .unwrap();
        let instance = of(&vm, false);
        assert_eq!(instance.name_any(), "tl");
        assert_eq!(instance.namespace().as_deref(), Some("default"));
        assert_eq!(instance.labels()["a"], "b");
        assert_eq!(instance.annotations()["c"], "d");
        assert_eq!(instance.annotations()[GENERATION_ANNOTATION], "3");
    }
}
