//! Replica sets: so many instances, whatever happens to them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

use crate::bench::Bench;
use crate::space::{Space, template, until};

type Sets = Api<VirtualMachineInstanceReplicaSet>;

fn sets(space: &Space) -> Sets {
    Api::namespaced(space.client.clone(), &space.namespace)
}

/// Creates the replica set `web`; `more` is merged into its template's spec.
async fn set(space: &Space, replicas: usize, more: Value) -> Result<()> {
    let _: VirtualMachineInstanceReplicaSet = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceReplicaSet",
            "metadata": { "name": "web" },
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": template(more) },
            },
        }))
        .await?;
    Ok(())
}

async fn change(space: &Space, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    sets(space)
        .patch("web", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn scale(space: &Space, replicas: usize) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    sets(space)
        .patch_scale("web", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Instances that are not being deleted.
async fn instances(space: &Space) -> Result<Vec<VirtualMachineInstance>> {
    let mut list = space.vmis.list(&ListParams::default()).await?.items;
    list.retain(|instance| instance.metadata.deletion_timestamp.is_none());
    Ok(list)
}

/// Plays the node until there are `count` instances of `web` that are ready, and the set says so.
async fn ready(space: &Space, count: usize) -> Result<Vec<VirtualMachineInstance>> {
    until(&format!("there are {count}"), || async {
        play(space).await?;
        let status = sets(space).get("web").await?.status.unwrap_or_default();
        let told = [status.replicas, status.ready_replicas];
        let wanted = i32::try_from(count).ok();
        ensure!(told == [wanted, wanted], "the set says {status:?}");
        let list = instances(space).await?;
        ensure!(list.len() == count, "there are {}", list.len());
        Ok(list)
    })
    .await
}

/// Runs pods that wait and removes those that are deleted.
async fn play(space: &Space) -> Result<()> {
    for pod in space.pods.list(&ListParams::default()).await?.items {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() {
            space.node.remove(&pod).await?;
        } else if phase == Some("Pending") {
            space.node.run(&pod).await?;
        }
    }
    Ok(())
}

async fn failure(space: &Space, reason: &str) -> Result<String> {
    until(&format!("the set fails by {reason}"), || async {
        let status = sets(space).get("web").await?.status.unwrap_or_default();
        let failure = status
            .conditions
            .iter()
            .find(|it| it.r#type == "ReplicaFailure");
        let failure = failure.with_context(|| format!("{status:?}"))?;
        ensure!(failure.reason.as_deref() == Some(reason), "{failure:?}");
        Ok(failure.message.clone().unwrap_or_default())
    })
    .await
}

pub(crate) async fn scaled_up_and_down(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    set(&space, 2, json!({})).await?;
    let two = ready(&space, 2).await?;
    for instance in &two {
        ensure!(
            instance.name_any().starts_with("web-"),
            "{}",
            instance.name_any()
        );
        let owner = &instance.owner_references()[0];
        ensure!(
            owner.kind == "VirtualMachineInstanceReplicaSet"
                && owner.controller == Some(true)
                && owner.block_owner_deletion == Some(true),
            "its end is the set's: {owner:?}"
        );
    }
    let uuids: Vec<_> = space
        .live_pods()
        .await?
        .iter()
        .filter_map(|pod: &Pod| pod.annotations().get("kubevirt.io/vmi-spec").cloned())
        .filter_map(|text| serde_json::from_str::<Value>(&text).ok())
        .map(|spec| spec["domain"]["firmware"]["uuid"].to_string())
        .collect();
    ensure!(uuids.len() == 2 && uuids[0] != uuids[1], "{uuids:?}");
    let selector = sets(&space).get_scale("web").await?.status;
    let selector = selector.and_then(|status| status.selector);
    ensure!(selector.as_deref() == Some("app=web"), "{selector:?}");

    scale(&space, 5).await?;
    let five = ready(&space, 5).await?;
    let names = |list: &[VirtualMachineInstance]| -> Vec<String> {
        list.iter().map(ResourceExt::name_any).collect()
    };
    ensure!(two.iter().all(|it| names(&five).contains(&it.name_any())));
    scale(&space, 1).await?;
    let one = ready(&space, 1).await?;
    ensure!(names(&five).contains(&one[0].name_any()), "none is new");
    space
        .event("VirtualMachineInstanceReplicaSet", "SuccessfulCreate")
        .await?;
    space
        .event("VirtualMachineInstanceReplicaSet", "SuccessfulDelete")
        .await?;

    // What is deleted by hand is replaced.
    let name = one[0].name_any();
    space.vmis.delete(&name, &DeleteParams::default()).await?;
    until("there is another one", || async {
        play(&space).await?;
        let list = instances(&space).await?;
        ensure!(list.len() == 1 && list[0].uid() != one[0].uid(), "{list:?}");
        Ok(())
    })
    .await?;
    ready(&space, 1).await?;
    scale(&space, 0).await?;
    ready(&space, 0).await?;
    sets(&space).delete("web", &DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn paused(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    set(&space, 1, json!({})).await?;
    ready(&space, 1).await?;
    change(&space, json!({ "paused": true, "replicas": 3 })).await?;
    let told = space
        .event("VirtualMachineInstanceReplicaSet", "SuccessfulPaused")
        .await?;
    ensure!(told == "Controller got paused", "{told}");
    let status = sets(&space).get("web").await?.status.unwrap_or_default();
    ensure!(
        status
            .conditions
            .iter()
            .any(|it| it.r#type == "ReplicaPaused"),
        "{status:?}"
    );
    ensure!(instances(&space).await?.len() == 1, "nothing is made");
    change(&space, json!({ "paused": false })).await?;
    ready(&space, 3).await?;
    space
        .event("VirtualMachineInstanceReplicaSet", "SuccessfulResumed")
        .await?;
    let status = sets(&space).get("web").await?.status.unwrap_or_default();
    ensure!(status.conditions.is_empty(), "{status:?}");
    Ok(())
}

pub(crate) async fn adopts_and_releases(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let lone: VirtualMachineInstance = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": "lone", "labels": { "app": "web" } },
            "spec": template(json!({})),
        }))
        .await?;
    // The controller has seen it: a set that comes first would make two of its own.
    space.pod().await?;
    set(&space, 2, json!({})).await?;
    let two = ready(&space, 2).await?;
    ensure!(
        two.iter().any(|instance| instance.uid() == lone.uid()),
        "it is one of them"
    );
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "app": "other" } } }));
    space
        .vmis
        .patch("lone", &PatchParams::default(), &patch)
        .await?;
    until("it is released and replaced", || async {
        play(&space).await?;
        let lone = space.vmis.get("lone").await?;
        ensure!(lone.owner_references().is_empty(), "{lone:?}");
        ensure!(instances(&space).await?.len() == 3);
        Ok(())
    })
    .await
}

pub(crate) async fn an_ended_guest_is_replaced(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    set(&space, 1, json!({})).await?;
    let first = ready(&space, 1).await?;
    let pod = space.pod().await?;
    space.node.end(&pod, 0, "").await?;
    until("another one is there", || async {
        play(&space).await?;
        let list = instances(&space).await?;
        ensure!(
            list.len() == 1 && list[0].uid() != first[0].uid(),
            "{list:?}"
        );
        Ok(())
    })
    .await?;
    ready(&space, 1).await?;
    Ok(())
}

pub(crate) async fn refused_by_name(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let wrong = json!({ "domain": { "devices": { "useVirtioTransitional": true } } });
    set(&space, 2, wrong).await?;
    let message = failure(&space, "UnsupportedField").await?;
    let path = "spec.template.spec.domain.devices.useVirtioTransitional";
    ensure!(message.contains(path), "{message}");
    let told = space
        .event("VirtualMachineInstanceReplicaSet", "UnsupportedField")
        .await?;
    ensure!(told == message, "{told}");
    ensure!(instances(&space).await?.is_empty(), "nothing is made");
    let mended = json!({ "domain": { "devices": { "useVirtioTransitional": null } } });
    change(&space, json!({ "template": { "spec": mended } })).await?;
    ready(&space, 2).await?;
    // Where the webhooks are asked, what is wrong is not even stored.
    let other = json!({ "selector": { "matchLabels": { "app": "other" } } });
    let message = match change(&space, other).await {
        Ok(()) => failure(&space, "InvalidSpec").await?,
        Err(error) => error.to_string(),
    };
    ensure!(message.contains("spec.selector: "), "{message}");
    ensure!(instances(&space).await?.len() == 2, "nothing is deleted");
    Ok(())
}

pub(crate) async fn quota(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let quota: ResourceQuota = space
        .create(json!({ "metadata": { "name": "few" }, "spec": { "hard": {
            "count/virtualmachineinstances.kubevirt.io": "1" } } }))
        .await?;
    // No controller counts here: what is used is written by hand.
    let quotas: Api<ResourceQuota> = Api::namespaced(space.client.clone(), &space.namespace);
    let hard = quota.spec.context("a spec")?.hard;
    let used = json!({ "count/virtualmachineinstances.kubevirt.io": "0" });
    let patch = Patch::Merge(json!({ "status": { "hard": hard, "used": used } }));
    quotas
        .patch_status("few", &PatchParams::default(), &patch)
        .await?;
    set(&space, 3, json!({})).await?;
    let message = failure(&space, "FailedCreate").await?;
    ensure!(message.contains("exceeded quota"), "{message}");
    ensure!(instances(&space).await?.len() == 1, "one is there");
    quotas.delete("few", &DeleteParams::default()).await?;
    ready(&space, 3).await?;
    Ok(())
}
