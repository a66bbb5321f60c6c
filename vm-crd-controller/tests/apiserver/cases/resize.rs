//! A changed template of a machine that runs: taken over live, or with the next start.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use vm_api::Quantity;

use crate::bench::{Bench, CONTROLLER_TOKEN};
use crate::space::{Space, until};

fn domain(sockets: u32, memory: &str) -> Value {
    json!({ "domain": { "cpu": { "sockets": sockets }, "memory": { "guest": memory } } })
}

async fn running(space: &Space, spec: Value) -> Result<Pod> {
    space.machine("Always", spec).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    Ok(pod)
}

/// An amount of the machine container, in thousandths.
fn amount(pod: &Pod, list: &str, name: &str) -> Result<u64> {
    let spec = pod.spec.as_ref().context("a spec")?;
    let resources = spec.containers[0].resources.clone().unwrap_or_default();
    let amounts = match list {
        "limits" => resources.limits,
        _ => resources.requests,
    };
    let amount = amounts.unwrap_or_default().get(name).cloned();
    let amount = amount.with_context(|| format!("{list}[{name}]"))?;
    Ok(Quantity::from(amount.0.as_str()).millis()?)
}

pub(crate) async fn grows_live(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = running(&space, domain(1, "2Gi")).await?;
    let uid = space.vmi().await?.uid();
    space
        .patch(json!({ "template": { "spec": domain(3, "5Gi") } }))
        .await?;
    // The instance takes it over, and the pod is asked for it.
    space.condition("HotVCPUChange", "True", "").await?;
    space.condition("HotMemoryChange", "True", "").await?;
    let resized = until("the pod is resized", || async {
        let now = space.pods.get(&pod.name_any()).await?;
        ensure!(amount(&now, "limits", "cpu")? == 3000);
        Ok(now)
    })
    .await?;
    // What the guest gets more is what the limit grows by: so the shim reads it.
    let grown = |list| -> Result<u64> {
        let more = amount(&resized, list, "memory")? - amount(&pod, list, "memory")?;
        Ok(more / 1000)
    };
    ensure!(grown("limits")? == 3 << 30, "{}", grown("limits")?);
    ensure!(grown("requests")? == 3 << 30, "{}", grown("requests")?);
    ensure!(amount(&resized, "requests", "cpu")? == 300, "a tenth each");
    let status = space.vmi().await?.status.context("a status")?;
    let memory = status.memory.context("memory")?;
    let bytes = |quantity: Option<Quantity>| quantity.and_then(|it| it.bytes().ok());
    ensure!(bytes(memory.guest_requested) == Some(5 << 30));
    ensure!(bytes(memory.guest_current) == Some(2 << 30), "not yet");
    // Kubelet and the shim are done.
    space.node.resized(&resized).await?;
    let status = until("the machine has its new size", || async {
        let status = space.vmi().await?.status.context("a status")?;
        let topology = status.current_cpu_topology.clone().unwrap_or_default();
        ensure!(topology.sockets == Some(3), "{topology:?}");
        Ok(status)
    })
    .await?;
    let memory = status.memory.context("memory")?;
    ensure!(bytes(memory.guest_current) == Some(5 << 30), "it has it");
    ensure!(bytes(memory.guest_at_boot) == Some(2 << 30), "as it was");
    let hot = |kind: &str| kind.starts_with("Hot") || kind == "RestartRequired";
    ensure!(status.conditions.iter().all(|c| !hot(&c.r#type)));
    until("the machine has nothing more to say", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        ensure!(
            status.conditions.iter().all(|c| !hot(&c.r#type)),
            "{status:?}"
        );
        ensure!(status.observed_generation == status.desired_generation);
        Ok(())
    })
    .await?;
    ensure!(space.vmi().await?.uid() == uid, "it is the same instance");
    space.delete().await
}

pub(crate) async fn does_not_grow(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = running(&space, domain(1, "2Gi")).await?;
    space
        .patch(json!({ "template": { "spec": domain(1, "4Gi") } }))
        .await?;
    space.condition("HotMemoryChange", "True", "").await?;
    let message = "the guest has taken 2048 MiB of the 4096 MiB of memory that it was given";
    let pod = space.pods.get(&pod.name_any()).await?;
    space.node.resize_fails(&pod, message).await?;
    let failed = space.condition("HotMemoryChange", "False", "Error").await?;
    ensure!(failed.message.as_deref() == Some(message), "{failed:?}");
    // Back to what it has is the way out.
    space
        .patch(json!({ "template": { "spec": domain(1, "2Gi") } }))
        .await?;
    until("the machine is content", || async {
        let conditions = space.vm().await?.status.unwrap_or_default().conditions;
        let hot = conditions.iter().any(|c| c.r#type == "HotMemoryChange");
        ensure!(!hot, "{conditions:?}");
        Ok(())
    })
    .await?;
    space.delete().await
}

pub(crate) async fn refused_by_quota(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let _: ResourceQuota = space
        .create(json!({ "metadata": { "name": "small" }, "spec": { "hard": {
            "limits.memory": "3Gi" } } }))
        .await?;
    // No controller counts here: the quota is as if it had been counted.
    space.quota_is_counted("small").await?;
    running(&space, domain(1, "2Gi")).await?;
    space
        .patch(json!({ "template": { "spec": domain(1, "4Gi") } }))
        .await?;
    let refused = space
        .condition("HotMemoryChange", "False", "Refused")
        .await?;
    let why = refused.message.context("why")?;
    ensure!(why.contains("exceeded quota"), "{why}");
    space.delete().await
}

/// Where it may run is taken over; what cannot change says so, and labels are the next instance's.
pub(crate) async fn template_fields(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    running(
        &space,
        json!({ "nodeSelector": { "zone": "a", "disk": "fast" } }),
    )
    .await?;
    let moved = json!({ "nodeSelector": { "zone": "b", "disk": null },
        "tolerations": [{ "key": "old", "operator": "Exists" }] });
    space
        .patch(json!({ "template": { "spec": moved, "metadata": { "labels": { "new": "b" } } } }))
        .await?;
    let vmi = until("the instance takes it over", || async {
        let vmi = space.vmi().await?;
        let selector = &vmi.spec.node_selector;
        ensure!(
            selector.get("zone").map(String::as_str) == Some("b"),
            "{selector:?}"
        );
        Ok(vmi)
    })
    .await?;
    ensure!(
        vmi.spec.node_selector.len() == 1,
        "{:?}",
        vmi.spec.node_selector
    );
    ensure!(
        vmi.spec.tolerations.len() == 1,
        "{:?}",
        vmi.spec.tolerations
    );
    ensure!(!vmi.labels().contains_key("new"), "{:?}", vmi.labels());
    let conditions = space.vm().await?.status.unwrap_or_default().conditions;
    ensure!(
        conditions.iter().all(|c| c.r#type != "RestartRequired"),
        "{conditions:?}"
    );
    space
        .patch(json!({ "template": { "spec": { "hostname": "other" } } }))
        .await?;
    let required = space.machine_condition("RestartRequired").await?;
    ensure!(
        required.message.as_deref()
            == Some("a non-live-updatable field was changed in the template spec"),
        "{required:?}"
    );
    // As it was: nothing is required any more.
    space
        .patch(json!({ "template": { "spec": { "hostname": null } } }))
        .await?;
    until("no restart is required", || async {
        let conditions = space.vm().await?.status.unwrap_or_default().conditions;
        let required = conditions.iter().any(|c| c.r#type == "RestartRequired");
        ensure!(!required, "{conditions:?}");
        Ok(())
    })
    .await?;
    space.delete().await
}

/// Whoever has the controller's token resizes no pod that is no machine.
pub(crate) async fn only_pods_of_machines(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let resources = |cpu: &str| json!({ "requests": { "cpu": cpu, "memory": "16Mi" } });
    let pod: Pod = space
        .create(json!({ "metadata": { "name": "ordinary" }, "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1,
                "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "main", "image": "example.com/a:1",
                "resources": resources("100m"),
                "securityContext": { "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] } } }],
        } }))
        .await?;
    space.node.run(&pod).await?;
    let patch = json!({ "spec": { "containers": [
        { "name": "main", "resources": resources("200m") } ] } });
    let resize = async |client| -> kube::Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(client, &space.namespace);
        let patch = Patch::Strategic(&patch);
        let params = PatchParams::default();
        pods.patch_subresource("resize", "ordinary", &params, &patch)
            .await
    };
    let refused = resize(bench.client_of(CONTROLLER_TOKEN)).await;
    let why = refused.err().context("it is refused")?.to_string();
    ensure!(why.contains("only pods of machines"), "{why}");
    // It is not the change that is wrong.
    resize(bench.client.clone()).await?;
    Ok(())
}
