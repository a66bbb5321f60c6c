//! Wrong input: one sentence where the user looks, and recovery as soon as it is mended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{LimitRange, PersistentVolumeClaim, Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use vm_api::v1::VirtualMachineInstance;
use vm_crd_controller::render;

use crate::bench::Bench;
use crate::space::{NAME, Space, template, until};

pub(crate) async fn unschedulable(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space
        .machine("Always", json!({ "nodeSelector": { "no": "node" } }))
        .await?;
    let pod = space.pod().await?;
    let selector = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_selector.clone());
    ensure!(
        selector.is_some_and(|selector| selector.contains_key("no")),
        "the pod's selector"
    );
    let message = "0/2 nodes are available: 2 node(s) didn't match";
    space.node.no_node_for(&pod, message).await?;
    let vm = space.status("ErrorUnschedulable").await?;
    let scheduled = space
        .condition("PodScheduled", "False", "Unschedulable")
        .await?;
    ensure!(
        scheduled.message.as_deref() == Some(message),
        "{scheduled:?}"
    );
    let conditions = vm.status.context("a status")?.conditions;
    ensure!(
        conditions
            .iter()
            .any(|c| c.message.as_deref() == Some(message)),
        "{conditions:?}"
    );
    // Mended: no one has to delete anything.
    space
        .patch(json!({ "template": { "spec": { "nodeSelector": null } } }))
        .await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn claim_missing(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let claims = json!([
        { "name": "root", "persistentVolumeClaim": { "claimName": "files" } },
        { "name": "data", "persistentVolumeClaim": { "claimName": "blocks" } },
    ]);
    space
        .machine("Always", json!({ "volumes": claims }))
        .await?;
    space.status("ErrorPvcNotFound").await?;
    let missing = space
        .condition("Synchronized", "False", "FailedPvcNotFound")
        .await?;
    ensure!(
        missing
            .message
            .as_deref()
            .is_some_and(|text| text.contains("files")),
        "{missing:?}"
    );
    space.condition("Ready", "False", "PodNotExists").await?;
    space
        .event("VirtualMachineInstance", "FailedPvcNotFound")
        .await?;
    ensure!(space.live_pods().await?.is_empty());
    for (claim, mode) in [("files", "Filesystem"), ("blocks", "Block")] {
        let _: PersistentVolumeClaim = space
            .create(json!({ "metadata": { "name": claim }, "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
                "resources": { "requests": { "storage": "1Gi" } },
            } }))
            .await?;
    }
    let pod = space.pod().await?;
    let compute = &pod.spec.as_ref().context("a spec")?.containers[0];
    let mount = &compute.volume_mounts.as_ref().context("mounts")?[0];
    ensure!(mount.mount_path == "/volumes/root", "{mount:?}");
    let device = &compute.volume_devices.as_ref().context("devices")?[0];
    ensure!(device.device_path == "/volumes/data", "{device:?}");
    let sizes = pod
        .annotations()
        .get("kubevirt.io/volume-sizes")
        .context("sizes")?;
    ensure!(sizes == r#"{"root":"1Gi"}"#, "{sizes}");
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn image_missing(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.bind(&pod).await?;
    space.node.wait(&pod, "ErrImagePull", "not found").await?;
    space.status("ErrImagePull").await?;
    space
        .node
        .wait(&pod, "ImagePullBackOff", "Back-off pulling image")
        .await?;
    space.status("ImagePullBackOff").await?;
    space
        .condition("Synchronized", "False", "ImagePullBackOff")
        .await?;
    let image = json!([{ "name": "root", "containerDisk": { "image": "example.com/disk:2" } }]);
    space
        .patch(json!({ "template": { "spec": { "volumes": image } } }))
        .await?;
    space.terminating(&pod).await?;
    space.node.remove(&pod).await?;
    // What was replaced did not fail: there is no pause.
    let next = space.another_pod(&pod).await?;
    ensure!(
        space
            .vm()
            .await?
            .status
            .unwrap_or_default()
            .start_failure
            .is_none()
    );
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn unsupported_field(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let devices = json!({ "domain": { "devices": { "useVirtioTransitional": true } } });
    space.machine("Always", devices).await?;
    let said = space
        .condition("Synchronized", "False", "UnsupportedField")
        .await?;
    let path = "spec.domain.devices.useVirtioTransitional";
    ensure!(
        said.message
            .as_deref()
            .is_some_and(|text| text.contains(path)),
        "{said:?}"
    );
    let told = space.event("VirtualMachine", "UnsupportedField").await?;
    ensure!(told.contains(path), "{told}");
    ensure!(space.live_pods().await?.is_empty(), "no pod is made");
    let mended = json!({ "domain": { "devices": { "useVirtioTransitional": null } } });
    space
        .patch(json!({ "template": { "spec": mended } }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    let conditions = vm.status.context("a status")?.conditions;
    ensure!(
        conditions.iter().all(|c| c.r#type != "Synchronized"),
        "{conditions:?}"
    );
    // Wrong in the machine itself: there is no instance to say so.
    space
        .patch(json!({ "updateVolumesStrategy": "Migration" }))
        .await?;
    until("the machine says what is not supported", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        let failure = status.conditions.iter().find(|c| c.r#type == "Failure");
        let failure = failure.with_context(|| format!("{status:?}"))?;
        ensure!(
            failure.reason.as_deref() == Some("UnsupportedField"),
            "{failure:?}"
        );
        Ok(())
    })
    .await?;
    space.delete().await
}

/// The API server has them switched off unless it was told otherwise, and drops them in silence: further
/// images are sidecars then, in a pod that Pod Security's level *restricted* admits and a quota counts.
pub(crate) async fn no_image_volumes(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let _: ResourceQuota = space
        .create(
            json!({ "metadata": { "name": "memory" }, "spec": { "hard": {
            "requests.memory": "1Gi", "limits.memory": "1Gi",
        } } }),
        )
        .await?;
    let image =
        |name: &str| json!({ "name": name, "containerDisk": { "image": "example.com/a:1" } });
    let two = json!({ "volumes": [image("root"), image("second")] });
    space.machine("Always", two).await?;
    let pod = space.pod().await?;
    let annotations = pod.annotations();
    let named = annotations.get("kubevirt.io/image-containers");
    ensure!(
        named.is_some_and(|named| named == "second=image-second"),
        "{annotations:?}"
    );
    let spec = pod.spec.clone().unwrap_or_default();
    let sidecars = spec.init_containers.unwrap_or_default();
    ensure!(sidecars.len() == 1, "{sidecars:?}");
    ensure!(
        sidecars[0].name == "image-second"
            && sidecars[0].restart_policy.as_deref() == Some("Always")
    );
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn refused_by_the_api_server(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let _: LimitRange = space
        .create(
            json!({ "metadata": { "name": "small" }, "spec": { "limits": [
            { "type": "Container", "max": { "memory": "64Mi" } },
        ] } }),
        )
        .await?;
    space.machine("Always", json!({})).await?;
    let said = space
        .condition("Synchronized", "False", "FailedCreate")
        .await?;
    ensure!(
        said.message
            .as_deref()
            .is_some_and(|text| text.contains("64Mi")),
        "{said:?}"
    );
    space
        .event("VirtualMachineInstance", "FailedCreate")
        .await?;
    let ranges: Api<LimitRange> = Api::namespaced(space.client.clone(), &space.namespace);
    ranges.delete("small", &DeleteParams::default()).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn name_taken(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let lone: VirtualMachineInstance = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": NAME }, "spec": template(json!({})),
        }))
        .await?;
    let first = space.pod().await?;
    space.machine("Always", json!({})).await?;
    let told = space.event("VirtualMachine", "FailedCreate").await?;
    ensure!(told.contains("did not make"), "{told}");
    ensure!(
        space.vmi().await?.uid() == lone.uid(),
        "the lone instance is left alone"
    );
    space.vmis.delete(NAME, &DeleteParams::default()).await?;
    let pod = space.another_pod(&first).await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

/// A pod that has the name of the machine's, as anybody may make one while the machine waits, is
/// neither taken for it nor touched.
pub(crate) async fn pod_name_taken(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let claim = json!({ "volumes": [
        { "name": "root", "persistentVolumeClaim": { "claimName": "late" } },
    ] });
    space.machine("Always", claim).await?;
    space
        .condition("Synchronized", "False", "FailedPvcNotFound")
        .await?;
    let foreign: Pod = space
        .create(json!({
            "metadata": {
                "name": render::pod_name(&space.vmi().await?),
                "labels": { "kubevirt.io": "virt-launcher" },
            },
            "spec": {
                "securityContext": { "runAsNonRoot": true, "runAsUser": 1000,
                    "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{ "name": "compute", "image": "example.com/other:1",
                    "securityContext": { "allowPrivilegeEscalation": false,
                        "capabilities": { "drop": ["ALL"] } } }],
            },
        }))
        .await?;
    let _: PersistentVolumeClaim = space
        .create(json!({ "metadata": { "name": "late" }, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } },
        } }))
        .await?;
    let said = space
        .condition("Synchronized", "False", "FailedCreate")
        .await?;
    let said = said.message.unwrap_or_default();
    ensure!(said.contains("not this machine's"), "{said}");
    let left = space.pods.get(&foreign.name_any()).await?;
    ensure!(left.metadata.deletion_timestamp.is_none(), "it was touched");
    let gone = DeleteParams::default().grace_period(0);
    space.pods.delete(&foreign.name_any(), &gone).await?;
    let pod = until("the machine has its own pod", || async {
        let pod = space.pods.get(&foreign.name_any()).await?;
        ensure!(pod.uid() != foreign.uid(), "it is the other");
        Ok(pod)
    })
    .await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

/// The claim with an earlier machine's secrets goes with that one: its successor waits for it.
pub(crate) async fn state_of_a_predecessor(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(space.client.clone(), &space.namespace);
    let owner = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": NAME,
        "uid": "00000000-0000-0000-0000-000000000001" });
    let old: PersistentVolumeClaim = space
        .create(json!({
            "metadata": { "name": "persistent-state-for-tl", "ownerReferences": [owner] },
            "spec": { "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "10Mi" } } },
        }))
        .await?;
    let tpm = json!({ "domain": { "devices": { "tpm": { "persistent": true } } } });
    space.machine("Always", tpm).await?;
    let said = space
        .condition("Synchronized", "False", "FailedCreate")
        .await?;
    let said = said.message.unwrap_or_default();
    ensure!(said.contains("earlier machine"), "{said}");
    claims
        .delete(&old.name_any(), &DeleteParams::default())
        .await?;
    // What else the claim's protection waits for does not run here.
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    claims
        .patch(&old.name_any(), &PatchParams::default(), &free)
        .await?;
    let pod = space.pod().await?;
    let new = claims.get(&old.name_any()).await?;
    ensure!(new.uid() != old.uid(), "the old one");
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await
}

/// Only an event says why a pod's containers are not made, for instance that a Secret is missing.
pub(crate) async fn complaint_of_kubelet(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.bind(&pod).await?;
    space.node.wait(&pod, "ContainerCreating", "").await?;
    let message = "MountVolume.SetUp failed for volume \"seed\" : secret \"seed\" not found";
    let regarding = json!({ "kind": "Pod", "namespace": space.namespace, "name": pod.name_any(),
        "uid": pod.uid(), "apiVersion": "v1" });
    let _: Event = space
        .create(json!({
            "metadata": { "name": "complaint" }, "regarding": regarding, "type": "Warning",
            "reason": "FailedMount", "note": message, "action": "Mounting",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "kubelet", "reportingInstance": "no-such-node",
        }))
        .await?;
    let said = space
        .condition("Synchronized", "False", "FailedMount")
        .await?;
    ensure!(said.message.as_deref() == Some(message), "{said:?}");
    space.node.run(&space.pod().await?).await?;
    let vm = space.status("Running").await?;
    let conditions = vm.status.context("a status")?.conditions;
    ensure!(
        conditions.iter().all(|c| c.r#type != "Synchronized"),
        "{conditions:?}"
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    space.delete().await
}
