//! Pools: so many machines, and how a change reaches them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use vm_api::pool::VirtualMachinePool;
use vm_api::v1::VirtualMachine;

use crate::bench::Bench;
use crate::space::{Space, template, until};

fn pools(space: &Space) -> Api<VirtualMachinePool> {
    Api::namespaced(space.client.clone(), &space.namespace)
}

/// Creates the pool `desk`; `more` is merged into its spec.
async fn pool(space: &Space, replicas: usize, more: Value) -> Result<()> {
    let labels = json!({ "labels": { "app": "desk" } });
    let mut spec = json!({
        "replicas": replicas, "selector": { "matchLabels": { "app": "desk" } },
        "virtualMachineTemplate": { "metadata": labels, "spec": {
            "runStrategy": "Always", "template": { "metadata": labels, "spec": template(json!({})) },
        } },
    });
    for (key, value) in more.as_object().context("an object")? {
        spec[key] = value.clone();
    }
    let _: VirtualMachinePool = space
        .create(json!({
            "apiVersion": "pool.kubevirt.io/v1beta1", "kind": "VirtualMachinePool",
            "metadata": { "name": "desk" }, "spec": spec,
        }))
        .await?;
    Ok(())
}

async fn change(space: &Space, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    pools(space)
        .patch("desk", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// A template in which `more` is merged into the instance's spec.
fn changed(more: Value) -> Value {
    json!({ "virtualMachineTemplate": { "spec": { "template": { "spec": more } } } })
}

async fn scale(space: &Space, replicas: usize) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    pools(space)
        .patch_scale("desk", &PatchParams::default(), &patch)
        .await?;
    Ok(())
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

async fn machines(space: &Space) -> Result<Vec<VirtualMachine>> {
    Ok(space.vms.list(&ListParams::default()).await?.items)
}

/// Plays the node until the pool says that it has `names`, all ready.
async fn ready(space: &Space, names: &[&str]) -> Result<Vec<VirtualMachine>> {
    until(&format!("there are {names:?}"), || async {
        play(space).await?;
        let list = machines(space).await?;
        let there: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        ensure!(there == names, "there are {there:?}");
        let status = pools(space).get("desk").await?.status.unwrap_or_default();
        let wanted = i32::try_from(names.len()).ok();
        ensure!(
            [status.replicas, status.ready_replicas] == [wanted, wanted],
            "the pool says {status:?}"
        );
        Ok(list)
    })
    .await
}

pub(crate) async fn scaled_up_and_down(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let last_first =
        json!({ "proactive": { "selectionPolicy": { "sortPolicy": "DescendingOrder" } } });
    pool(&space, 2, json!({ "scaleInStrategy": last_first })).await?;
    let two = ready(&space, &["desk-0", "desk-1"]).await?;
    let owner = &two[0].owner_references()[0];
    ensure!(
        owner.kind == "VirtualMachinePool" && owner.controller == Some(true),
        "{owner:?}"
    );
    scale(&space, 4).await?;
    ready(&space, &["desk-0", "desk-1", "desk-2", "desk-3"]).await?;
    scale(&space, 1).await?;
    let one = ready(&space, &["desk-0"]).await?;
    ensure!(one[0].uid() == two[0].uid(), "the first is never touched");
    let scaled = pools(&space).get_scale("desk").await?;
    let selector = scaled.status.and_then(|status| status.selector);
    ensure!(selector.as_deref() == Some("app=desk"), "{selector:?}");
    let made = space
        .event("VirtualMachinePool", "SuccessfulCreate")
        .await?;
    ensure!(made.starts_with("Created VM "), "{made}");
    space
        .event("VirtualMachinePool", "SuccessfulDelete")
        .await?;
    // What is deleted by hand is replaced, by the same number.
    space.vms.delete("desk-0", &DeleteParams::default()).await?;
    until("there is another one", || async {
        play(&space).await?;
        let vm = space.vms.get("desk-0").await?;
        ensure!(vm.uid() != one[0].uid(), "{vm:?}");
        Ok(())
    })
    .await?;
    ready(&space, &["desk-0"]).await?;
    Ok(())
}

/// One machine after the other takes a new template.
pub(crate) async fn updated_one_by_one(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let first_first =
        json!({ "proactive": { "selectionPolicy": { "sortPolicy": "AscendingOrder" } } });
    pool(
        &space,
        2,
        json!({ "maxUnavailable": 1, "updateStrategy": first_first }),
    )
    .await?;
    ready(&space, &["desk-0", "desk-1"]).await?;
    let uid = |name: &'static str| {
        let vmis = space.vmis.clone();
        async move { anyhow::Ok(vmis.get(name).await?.uid()) }
    };
    let before = [uid("desk-0").await?, uid("desk-1").await?];
    change(
        &space,
        changed(json!({ "domain": { "memory": { "guest": "192Mi" } } })),
    )
    .await?;
    // The first guest is to go; the second runs on as long as the first is away.
    until("the first guest is deleted", || async {
        let first = space.vmis.get("desk-0").await?;
        ensure!(first.metadata.deletion_timestamp.is_some(), "{first:?}");
        Ok(())
    })
    .await?;
    for vm in machines(&space).await? {
        let memory = vm.spec.template.spec.context("a spec")?.domain.memory;
        let guest = memory.and_then(|memory| memory.guest);
        ensure!(guest == Some("192Mi".into()), "all machines are changed");
    }
    let second = space.vmis.get("desk-1").await?;
    ensure!(
        second.metadata.deletion_timestamp.is_none() && second.uid() == before[1],
        "{second:?}"
    );
    until("both guests are new", || async {
        play(&space).await?;
        for (name, before) in ["desk-0", "desk-1"].into_iter().zip(&before) {
            let vmi = space.vmis.get(name).await?;
            ensure!(vmi.uid() != *before, "{name} is the old one");
            let memory = vmi.spec.domain.memory.and_then(|memory| memory.guest);
            ensure!(memory == Some("192Mi".into()), "{memory:?}");
        }
        Ok(())
    })
    .await?;
    ready(&space, &["desk-0", "desk-1"]).await?;
    space
        .event("VirtualMachinePool", "SuccessfulUpdate")
        .await?;
    Ok(())
}

/// Machines take a new template at once, their guests when they restart.
pub(crate) async fn updated_when_it_restarts(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    pool(
        &space,
        1,
        json!({ "updateStrategy": { "opportunistic": {} } }),
    )
    .await?;
    ready(&space, &["desk-0"]).await?;
    let before = space.vmis.get("desk-0").await?;
    change(
        &space,
        changed(json!({ "domain": { "memory": { "guest": "192Mi" } } })),
    )
    .await?;
    until("the machine wants a restart", || async {
        let vm = space.vms.get("desk-0").await?;
        let status = vm.status.unwrap_or_default();
        let wants = status
            .conditions
            .iter()
            .any(|it| it.r#type == "RestartRequired");
        ensure!(wants, "{status:?}");
        Ok(())
    })
    .await?;
    let now = space.vmis.get("desk-0").await?;
    ensure!(now.uid() == before.uid() && now.metadata.deletion_timestamp.is_none());
    // A machine that its user changed stays so.
    let patch = Patch::Merge(json!({ "spec": { "runStrategy": "Halted" } }));
    space
        .vms
        .patch("desk-0", &PatchParams::default(), &patch)
        .await?;
    until("the machine is halted", || async {
        play(&space).await?;
        let vm = space.vms.get("desk-0").await?;
        ensure!(vm.spec.run_strategy.as_deref() == Some("Halted"));
        ensure!(space.vmis.get_opt("desk-0").await?.is_none(), "it runs");
        Ok(())
    })
    .await
}

pub(crate) async fn numbered_references(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let volumes = json!([
        { "name": "root", "containerDisk": { "image": "example.com/disk:1" } },
        { "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": "user" } } },
    ]);
    let template = json!({ "metadata": { "labels": { "app": "desk" } }, "spec": {
        "runStrategy": "Halted", "template": { "spec": template(json!({ "volumes": volumes })) } } });
    pool(
        &space,
        2,
        json!({ "virtualMachineTemplate": template,
            "nameGeneration": { "appendIndexToSecretRefs": true } }),
    )
    .await?;
    until("each machine has a Secret of its own", || async {
        let list = machines(&space).await?;
        let secrets: Vec<_> = list
            .iter()
            .filter_map(|vm| vm.spec.template.spec.as_ref())
            .filter_map(|spec| spec.volumes[1].cloud_init_no_cloud.clone())
            .filter_map(|seed| seed.secret_ref)
            .map(|reference| reference.name)
            .collect();
        ensure!(secrets == ["user-0", "user-1"], "{secrets:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn paused_and_released(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    pool(&space, 1, json!({})).await?;
    ready(&space, &["desk-0"]).await?;
    change(&space, json!({ "paused": true, "replicas": 2 })).await?;
    space
        .event("VirtualMachinePool", "SuccessfulPaused")
        .await?;
    ensure!(machines(&space).await?.len() == 1, "nothing is made");
    change(&space, json!({ "paused": false })).await?;
    ready(&space, &["desk-0", "desk-1"]).await?;
    // Whose labels no longer match is on its own; its number stays taken.
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "app": "own" } } }));
    space
        .vms
        .patch("desk-0", &PatchParams::default(), &patch)
        .await?;
    until("it is released and replaced", || async {
        let list = machines(&space).await?;
        let names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        ensure!(names == ["desk-0", "desk-1", "desk-2"], "{names:?}");
        ensure!(list[0].owner_references().is_empty(), "{:?}", list[0]);
        Ok(())
    })
    .await
}

pub(crate) async fn refused_by_name(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let kept = json!({ "proactive": { "statePreservation": "Offline" } });
    pool(&space, 1, json!({ "scaleInStrategy": kept })).await?;
    until("the pool says what is not supported", || async {
        let status = pools(&space).get("desk").await?.status.unwrap_or_default();
        let failure = status
            .conditions
            .iter()
            .find(|it| it.r#type == "ReplicaFailure");
        let failure = failure.with_context(|| format!("{status:?}"))?;
        ensure!(
            failure.reason.as_deref() == Some("UnsupportedField"),
            "{failure:?}"
        );
        let path = "spec.scaleInStrategy.proactive.statePreservation";
        let message = failure.message.clone().unwrap_or_default();
        ensure!(message.contains(path), "{message}");
        Ok(())
    })
    .await?;
    space
        .event("VirtualMachinePool", "UnsupportedField")
        .await?;
    ensure!(machines(&space).await?.is_empty(), "nothing is made");
    change(&space, json!({ "scaleInStrategy": null })).await?;
    ready(&space, &["desk-0"]).await?;
    Ok(())
}

/// A machine that cannot start for too long is made anew.
pub(crate) async fn heals(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    pool(
        &space,
        1,
        json!({ "autohealing": { "minFailingToStartDuration": "3s" } }),
    )
    .await?;
    let pod = space.pod().await?;
    let uid = space.vms.get("desk-0").await?.uid();
    space
        .node
        .no_node_for(&pod, "0/1 nodes are available")
        .await?;
    until("the machine is another one", || async {
        for pod in space.pods.list(&ListParams::default()).await?.items {
            if pod.metadata.deletion_timestamp.is_some() {
                space.node.remove(&pod).await?;
            }
        }
        let vm = space.vms.get("desk-0").await?;
        ensure!(vm.uid() != uid, "it is the same");
        Ok(())
    })
    .await?;
    ready(&space, &["desk-0"]).await?;
    Ok(())
}
