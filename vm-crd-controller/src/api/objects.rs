//! The objects that a subresource is about, read anew for each request, and their machine.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt};
use vm_api::v1::{Phase, VirtualMachine, VirtualMachineInstance};

use super::failure::{Failure, INSTANCE, Kind, MACHINE};
use crate::cluster::Namespaced;
use crate::verbs::Machine;
use crate::{owner, render};

/// The machine `namespace`/`name`.
pub(super) async fn machine(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<VirtualMachine, Failure> {
    let found = read(client, namespace, name).await?;
    found.ok_or_else(|| Failure::not_found(MACHINE, name))
}

/// The instance `namespace`/`name`.
pub(super) async fn instance(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<VirtualMachineInstance, Failure> {
    let found = read(client, namespace, name).await?;
    found.ok_or_else(|| Failure::not_found(INSTANCE, name))
}

/// The instance of the machine `namespace`/`name`.
pub(super) async fn instance_of_machine(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<VirtualMachineInstance, Failure> {
    let vm = machine(client, namespace, name).await?;
    let found = instance_of(client, &vm).await?;
    found.ok_or_else(|| Failure::conflict(MACHINE, name, "VMI is not started"))
}

/// The instance of `vm`; not another's that has its name.
pub(super) async fn instance_of(
    client: &Client,
    vm: &VirtualMachine,
) -> Result<Option<VirtualMachineInstance>, Failure> {
    let namespace = vm.namespace().unwrap_or_default();
    let found: Option<VirtualMachineInstance> = read(client, &namespace, &vm.name_any()).await?;
    Ok(found.filter(|instance| owner::is_of(instance, vm.metadata.uid.as_deref())))
}

/// The object `namespace`/`name`, if it is there.
pub(super) async fn read<K: Namespaced>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<K>, Failure> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.get_opt(name)
        .await
        .map_err(|error| Failure::internal(format!("cannot read {name}: {error}")))
}

/// The phase of `instance`.
pub(super) fn phase(instance: &VirtualMachineInstance) -> Phase {
    let status = instance.status.as_ref();
    status
        .and_then(|status| status.phase)
        .unwrap_or(Phase::Pending)
}

/// `instance` if it runs; else a conflict which says that `kind` does not.
pub(super) fn running(instance: &VirtualMachineInstance, word: &str) -> Result<(), Failure> {
    if phase(instance) == Phase::Running {
        return Ok(());
    }
    let name = instance.name_any();
    Err(Failure::conflict(
        INSTANCE,
        &name,
        format!("{word} is not running"),
    ))
}

/// The pod of `instance`.
pub(super) async fn pod(
    client: &Client,
    instance: &VirtualMachineInstance,
) -> Result<Option<Pod>, Failure> {
    let namespace = instance.namespace().unwrap_or_default();
    let found: Option<Pod> = read(client, &namespace, &render::pod_name(instance)).await?;
    Ok(found.filter(|pod| owner::is_of(pod, instance.metadata.uid.as_deref())))
}

/// The machine of an instance that runs.
pub(super) async fn running_machine(
    client: &Client,
    instance: &VirtualMachineInstance,
) -> Result<Machine, Failure> {
    let pod = pod(client, instance).await?;
    let gone = || gone(INSTANCE, instance);
    Ok(Machine::of(&pod.ok_or_else(gone)?))
}

fn gone(kind: Kind, instance: &VirtualMachineInstance) -> Failure {
    Failure::conflict(kind, &instance.name_any(), "its pod is gone")
}
