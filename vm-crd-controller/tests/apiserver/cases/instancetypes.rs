//! Instance types and preferences: what a machine becomes with them, and when it does not.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use vm_api::instancetype::{
    VirtualMachineClusterInstancetype, VirtualMachineClusterPreference, VirtualMachineInstancetype,
    VirtualMachinePreference,
};
use vm_api::v1::{VirtualMachine, VirtualMachineInstanceSpec};

use crate::bench::Bench;
use crate::space::{NAME, Space, template, until};

const API: &str = "instancetype.kubevirt.io/v1beta1";

/// A template that leaves the memory open; `more` is merged into it.
fn open(more: Value) -> Value {
    let mut whole = template(more);
    let memory = &mut whole["domain"]["memory"];
    if memory["guest"] == "128Mi" {
        *memory = Value::Null;
    }
    whole
}

/// Creates a machine that runs; `more` is merged into its spec.
async fn machine(
    space: &Space,
    name: &str,
    more: Value,
    template: Value,
) -> Result<VirtualMachine> {
    let mut spec = json!({ "runStrategy": "Always", "template": { "spec": template } });
    for (key, value) in more.as_object().context("an object")? {
        spec[key] = value.clone();
    }
    space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": name }, "spec": spec,
        }))
        .await
}

/// Creates an instance type for the namespace.
async fn size(space: &Space, name: &str, guest: u32, memory: &str) -> Result<()> {
    let _: VirtualMachineInstancetype = space
        .create(json!({
            "apiVersion": API, "kind": "VirtualMachineInstancetype", "metadata": { "name": name },
            "spec": { "cpu": { "guest": guest }, "memory": { "guest": memory } },
        }))
        .await?;
    Ok(())
}

fn namespaced(name: &str) -> Value {
    json!({ "name": name, "kind": "VirtualMachineInstancetype" })
}

/// The spec that a pod's shim reads.
fn spec_of(pod: &Pod) -> Result<VirtualMachineInstanceSpec> {
    let text = pod.annotations().get("kubevirt.io/vmi-spec");
    Ok(serde_json::from_str(text.context("the spec")?)?)
}

fn size_of(pod: &Pod) -> Result<(u32, String)> {
    let domain = spec_of(pod)?.domain;
    let cpu = domain.cpu.context("cpu")?;
    let counts = [cpu.sockets, cpu.cores, cpu.threads].map(Option::unwrap_or_default);
    let guest = domain.memory.and_then(|memory| memory.guest);
    Ok((counts.iter().product(), guest.context("memory")?.0))
}

/// Waits until the machine has the condition Failure of that reason; its message.
async fn failure(space: &Space, name: &str, reason: &str) -> Result<String> {
    until(&format!("{name} fails by {reason}"), || async {
        let status = space.vms.get(name).await?.status.unwrap_or_default();
        let failure = status.conditions.iter().find(|it| it.r#type == "Failure");
        let failure = failure.with_context(|| format!("{status:?}"))?;
        ensure!(failure.reason.as_deref() == Some(reason), "{failure:?}");
        Ok(failure.message.clone().unwrap_or_default())
    })
    .await
}

/// Waits for the pod of the instance of that name.
async fn pod_of(space: &Space, name: &str) -> Result<Pod> {
    until(&format!("{name} has a pod"), || async {
        let pods = space.live_pods().await?;
        let label = |pod: &Pod| pod.labels().get("vm.kubevirt.io/name").cloned();
        let own = pods
            .into_iter()
            .find(|pod| label(pod).as_deref() == Some(name));
        own.context("it has none")
    })
    .await
}

/// A machine has the size of its type, and keeps it when the type changes.
/// A machine that is deleted and made anew at once does not rely on what goes with its predecessor.
pub(crate) async fn a_successor_stores_its_own(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    size(&space, "small", 2, "192Mi").await?;
    let named = json!({ "instancetype": namespaced("small") });
    let revisions: Api<ControllerRevision> =
        Api::namespaced(space.client.clone(), &space.namespace);
    let revision_of = |vm: VirtualMachine| {
        let refs = vm.status.and_then(|status| status.instancetype_ref);
        let revision = refs.and_then(|refs| refs.controller_revision_ref);
        let name = revision.and_then(|revision| revision.name);
        name.context("the status names a revision")
    };
    machine(&space, NAME, named.clone(), open(json!({}))).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let first = revision_of(space.status("Running").await?)?;
    space.delete().await?;
    machine(&space, NAME, named, open(json!({}))).await?;
    // The garbage collector comes late.
    let next = space.another_pod(&pod).await?;
    revisions.delete(&first, &DeleteParams::default()).await?;
    ensure!(size_of(&next)? == (2, "192Mi".to_owned()));
    space.node.run(&next).await?;
    let second = revision_of(space.status("Running").await?)?;
    ensure!(first != second, "{first}");
    revisions.get(&second).await?;
    space.delete().await
}

pub(crate) async fn keeps_its_size(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    size(&space, "small", 2, "192Mi").await?;
    let _: VirtualMachinePreference = space
        .create(json!({
            "apiVersion": API, "kind": "VirtualMachinePreference", "metadata": { "name": "linux" },
            "spec": {
                "cpu": { "preferredCPUTopology": "cores" },
                "devices": { "preferredDiskBus": "scsi", "preferredInterfaceModel": "e1000" },
                "preferredTerminationGracePeriodSeconds": 77,
            },
        }))
        .await?;
    let preference = json!({ "name": "linux", "kind": "virtualmachinepreferences" });
    let named = json!({ "instancetype": namespaced("small"), "preference": preference });
    let seed = json!([{ "name": "seed", "cloudInitNoCloud": { "userData": "#!/bin/sh" } },
        { "name": "root", "containerDisk": { "image": "example.com/disk:1" } }]);
    machine(
        &space,
        NAME,
        named.clone(),
        open(json!({ "volumes": seed })),
    )
    .await?;
    let pod = space.pod().await?;
    ensure!(size_of(&pod)? == (2, "192Mi".to_owned()));
    let spec = spec_of(&pod)?;
    let cpu = spec.domain.cpu.clone().context("cpu")?;
    ensure!((cpu.sockets, cpu.cores) == (Some(1), Some(2)), "{cpu:?}");
    let buses: Vec<_> = spec.domain.devices.disks.iter().collect();
    ensure!(buses.len() == 2, "the seed is a disk: {buses:?}");
    for (disk, bus) in buses.iter().zip(["virtio", "scsi"]) {
        let target = disk.disk.clone().unwrap_or_default();
        ensure!(target.bus.as_deref() == Some(bus), "{disk:?}");
    }
    let model = spec.domain.devices.interfaces[0].model.as_deref();
    ensure!(model == Some("e1000"), "{model:?}");
    let grace = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds);
    ensure!(grace == Some(77), "{grace:?}");
    let vmi = space.vmi().await?;
    for (key, value) in [("instancetype", "small"), ("preference", "linux")] {
        let told = vmi.annotations().get(&format!("kubevirt.io/{key}-name"));
        ensure!(told.map(String::as_str) == Some(value), "{key}: {told:?}");
    }
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;

    // What it was made from is its own.
    let status = vm.status.clone().context("a status")?;
    let reference = status.instancetype_ref.context("a reference")?;
    ensure!(reference.kind.as_deref() == Some("VirtualMachineInstancetype"));
    let revisions: Api<ControllerRevision> =
        Api::namespaced(space.client.clone(), &space.namespace);
    for reference in [reference, status.preference_ref.context("a reference")?] {
        let name = reference.revision().context("a revision")?;
        let revision = revisions.get(name).await?;
        let owner = &revision.owner_references()[0];
        ensure!(
            Some(&owner.uid) == vm.uid().as_ref() && owner.controller == Some(true),
            "{owner:?}"
        );
        ensure!(name.starts_with("tl-"), "{name}");
    }

    // A change of the type is for others.
    let types: Api<VirtualMachineInstancetype> =
        Api::namespaced(space.client.clone(), &space.namespace);
    let larger = json!({ "spec": { "cpu": { "guest": 4 }, "memory": { "guest": "256Mi" } } });
    types
        .patch("small", &PatchParams::default(), &Patch::Merge(larger))
        .await?;
    machine(&space, "other", named, open(json!({}))).await?;
    let other = pod_of(&space, "other").await?;
    ensure!(size_of(&other)? == (4, "256Mi".to_owned()));
    space.vmis.delete(NAME, &DeleteParams::default()).await?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    let again = until("the machine has another pod", || async {
        let next = pod_of(&space, NAME).await?;
        ensure!(next.name_any() != pod.name_any());
        Ok(next)
    })
    .await?;
    ensure!(size_of(&again)? == (2, "192Mi".to_owned()));
    space.node.run(&again).await?;
    space.status("Running").await?;
    Ok(())
}

pub(crate) async fn conflict_names_the_fields(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let own = json!({ "domain": { "memory": { "guest": "1Gi" }, "cpu": { "sockets": 2 } } });
    let named = json!({ "instancetype": namespaced("small") });
    machine(&space, NAME, named, template(own)).await?;
    // Were it there, the machine would be refused when it is applied.
    size(&space, "small", 1, "192Mi").await?;
    let message = failure(&space, NAME, "FailedCreate").await?;
    for field in ["memory.guest", "cpu.sockets"] {
        let path = format!("spec.template.spec.domain.{field}: conflicts");
        ensure!(message.contains(&path), "{message}");
    }
    let told = space.event("VirtualMachine", "FailedCreate").await?;
    ensure!(told == message, "{told}");
    ensure!(space.vmis.get_opt(NAME).await?.is_none(), "nothing is made");
    let vm = space.vm().await?.status.context("a status")?;
    ensure!(vm.instancetype_ref.is_none(), "and nothing is remembered");
    let open = json!({ "memory": null, "cpu": null });
    space
        .patch(json!({ "template": { "spec": { "domain": open } } }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn missing_type_is_waited_for(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let named = json!({ "instancetype": { "name": name.replace("::", "-").replace('_', "-") } });
    let missing = named["instancetype"]["name"]
        .as_str()
        .context("a name")?
        .to_owned();
    machine(&space, NAME, named, open(json!({}))).await?;
    let message = failure(&space, NAME, "FailedFindInstancetype").await?;
    ensure!(
        message.contains(&format!("VirtualMachineClusterInstancetype {missing}")),
        "{message}"
    );
    space
        .event("VirtualMachine", "FailedFindInstancetype")
        .await?;
    space.status("Stopped").await?;
    ensure!(space.vmis.get_opt(NAME).await?.is_none());
    // It comes: no one has to touch the machine.
    let types: Api<VirtualMachineClusterInstancetype> = Api::all(space.client.clone());
    let object = serde_json::from_value(json!({
        "apiVersion": API, "kind": "VirtualMachineClusterInstancetype",
        "metadata": { "name": missing },
        "spec": { "cpu": { "guest": 1 }, "memory": { "guest": "192Mi" } },
    }))?;
    types.create(&PostParams::default(), &object).await?;
    let pod = space.pod().await?;
    ensure!(size_of(&pod)? == (1, "192Mi".to_owned()));
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    let conditions = vm.status.context("a status")?.conditions;
    ensure!(
        conditions.iter().all(|it| it.r#type != "Failure"),
        "{conditions:?}"
    );
    let vmi = space.vmi().await?;
    let told = vmi
        .annotations()
        .get("kubevirt.io/cluster-instancetype-name");
    ensure!(told == Some(&missing), "{told:?}");
    space.delete().await?;
    types.delete(&missing, &DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn inferred_from_a_claim(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    size(&space, "labelled", 3, "192Mi").await?;
    let volumes = json!([{ "name": "root", "persistentVolumeClaim": { "claimName": "disk" } }]);
    let inferred = |policy: Value| {
        json!({ "instancetype": {
        "inferFromVolume": "root", "inferFromVolumeFailurePolicy": policy } })
    };
    let whole = |more| machine(&space, NAME, more, open(json!({ "volumes": volumes })));
    whole(inferred(Value::Null)).await?;
    let message = failure(&space, NAME, "FailedFindInstancetype").await?;
    ensure!(
        message.contains("the claim disk does not exist"),
        "{message}"
    );
    let claim = |name: &str, labels: Value| {
        space.create::<PersistentVolumeClaim>(json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                "resources": { "requests": { "storage": "1Gi" } } },
        }))
    };
    let labels = json!({
        "instancetype.kubevirt.io/default-instancetype": "labelled",
        "instancetype.kubevirt.io/default-instancetype-kind": "VirtualMachineInstancetype",
    });
    claim("disk", labels).await?;
    let pod = space.pod().await?;
    ensure!(size_of(&pod)? == (3, "192Mi".to_owned()));
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    let reference = vm.status.context("a status")?.instancetype_ref;
    let reference = reference.context("a reference")?;
    ensure!(
        (
            reference.name.as_deref(),
            reference.infer_from_volume.as_deref()
        ) == (Some("labelled"), Some("root")),
        "{reference:?}"
    );
    // Without a label a machine does without, if it says so.
    claim("bare", json!({})).await?;
    let volumes = json!([{ "name": "root", "persistentVolumeClaim": { "claimName": "bare" } }]);
    let own = json!({ "volumes": volumes });
    machine(&space, "other", inferred("Ignore".into()), template(own)).await?;
    let other = pod_of(&space, "other").await?;
    ensure!(size_of(&other)? == (1, "128Mi".to_owned()));
    Ok(())
}

pub(crate) async fn another_type_wants_a_restart(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    size(&space, "small", 1, "192Mi").await?;
    size(&space, "large", 4, "512Mi").await?;
    let named = json!({ "instancetype": namespaced("small") });
    machine(&space, NAME, named, open(json!({}))).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space
        .patch(json!({ "instancetype": namespaced("large") }))
        .await?;
    until("the machine says that it wants a restart", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        let wants = status
            .conditions
            .iter()
            .any(|it| it.r#type == "RestartRequired");
        let reference = status.instancetype_ref.clone().unwrap_or_default();
        ensure!(wants, "{status:?}");
        ensure!(reference.name.as_deref() == Some("large"), "{reference:?}");
        Ok(())
    })
    .await?;
    space.vmis.delete(NAME, &DeleteParams::default()).await?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    let next = space.another_pod(&pod).await?;
    ensure!(size_of(&next)? == (4, "512Mi".to_owned()));
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await
}

/// Types in the shape of those that KubeVirt publishes: one series shares processors, one
/// overcommits memory, one has processors and huge pages of its own.
pub(crate) async fn a_published_set(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let types: Api<VirtualMachineClusterInstancetype> = Api::all(space.client.clone());
    let preferences: Api<VirtualMachineClusterPreference> = Api::all(space.client.clone());
    let described = |name: &str, class: &str| {
        json!({ "name": name,
            "labels": { "instancetype.kubevirt.io/class": class, "instancetype.kubevirt.io/version": "1" },
            "annotations": { "instancetype.kubevirt.io/displayName": class } })
    };
    let set = [
        (
            "t-shared1.small",
            json!({ "cpu": { "guest": 1 }, "memory": { "guest": "2Gi" } }),
        ),
        (
            "t-over1.small",
            json!({ "cpu": { "guest": 1 }, "memory": { "guest": "2Gi", "overcommitPercent": 50 } }),
        ),
        (
            "t-own1.medium",
            json!({
                "cpu": { "guest": 2, "dedicatedCPUPlacement": true, "isolateEmulatorThread": true,
                    "maxSockets": 2 },
                "memory": { "guest": "2Gi", "hugepages": { "pageSize": "2Mi" } },
            }),
        ),
    ];
    for (name, spec) in set.clone() {
        let object = serde_json::from_value(json!({
            "apiVersion": API, "kind": "VirtualMachineClusterInstancetype",
            "metadata": described(name, "test"), "spec": spec,
        }))?;
        types.create(&PostParams::default(), &object).await?;
    }
    let object = serde_json::from_value(json!({
        "apiVersion": API, "kind": "VirtualMachineClusterPreference",
        "metadata": described("t-linux", "linux"),
        "spec": {
            "annotations": { "vm.kubevirt.io/os": "linux" },
            "devices": { "preferredDiskBus": "virtio", "preferredInterfaceModel": "virtio",
                "preferredNetworkInterfaceMultiQueue": true, "preferredRng": {} },
            "preferredTerminationGracePeriodSeconds": 180,
            "requirements": { "cpu": { "guest": 1 }, "memory": { "guest": "512Mi" } },
        },
    }))?;
    preferences.create(&PostParams::default(), &object).await?;
    for (index, (name, _)) in set.iter().enumerate() {
        let named =
            json!({ "instancetype": { "name": name }, "preference": { "name": "t-linux" } });
        machine(&space, &format!("tl-{index}"), named, open(json!({}))).await?;
    }
    let request = |pod: &Pod, what: &str| {
        let compute = pod.spec.as_ref().map(|spec| spec.containers[0].clone());
        let resources = compute.and_then(|compute| compute.resources);
        let requests = resources.and_then(|resources| resources.requests);
        requests.and_then(|requests| requests.get(what).cloned())
    };
    let mut memory = Vec::new();
    for index in 0..set.len() {
        let pod = pod_of(&space, &format!("tl-{index}")).await?;
        ensure!(
            pod.annotations()
                .get("vm.kubevirt.io/os")
                .map(String::as_str)
                == Some("linux"),
            "the preference's annotation"
        );
        let amount = request(&pod, "memory").context("a request")?;
        memory.push(vm_api::Quantity(amount.0).bytes()?);
        if index == 2 {
            let pages = request(&pod, "hugepages-2Mi").context("huge pages")?;
            ensure!(pages.0 == "2Gi", "{pages:?}");
            let processors = request(&pod, "cpu").context("processors")?;
            ensure!(processors.0 == "3", "two and one for QEMU: {processors:?}");
        }
    }
    ensure!(
        memory[0] - memory[1] == 1 << 30,
        "half of it is not requested: {memory:?}"
    );
    for (name, _) in set {
        types.delete(name, &DeleteParams::default()).await?;
    }
    preferences
        .delete("t-linux", &DeleteParams::default())
        .await?;
    Ok(())
}

pub(crate) async fn unsupported_field_of_a_type(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let _: VirtualMachineInstancetype = space
        .create(json!({
            "apiVersion": API, "kind": "VirtualMachineInstancetype", "metadata": { "name": "rt" },
            "spec": { "cpu": { "guest": 1, "realtime": {} }, "memory": { "guest": "192Mi" } },
        }))
        .await?;
    let named = json!({ "instancetype": namespaced("rt") });
    machine(&space, NAME, named, open(json!({}))).await?;
    let said = space
        .condition("Synchronized", "False", "UnsupportedField")
        .await?;
    let message = said.message.unwrap_or_default();
    ensure!(message.contains("spec.domain.cpu.realtime"), "{message}");
    ensure!(space.live_pods().await?.is_empty(), "no pod is made");
    until("the machine is held by its finalizer", || async {
        ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await?;
    space.delete().await
}
