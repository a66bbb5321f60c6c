//! The way of a machine from its creation to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::bench::{Bench, CONTROLLER_USER};
use crate::node::{ADDRESS, NODE};
use crate::space::{NAME, Space, template, until};

pub(crate) async fn launched_and_stopped(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    // Created: nothing runs.
    space.machine("Halted", json!({})).await?;
    let vm = space.status("Stopped").await?;
    let status = vm.status.context("a status")?;
    ensure!(status.created == Some(false) && status.ready == Some(false));
    ensure!(
        status.conditions[0].reason.as_deref() == Some("VMINotExists"),
        "{status:?}"
    );
    ensure!(status.run_strategy.is_none(), "it was never started");
    ensure!(space.vmis.get_opt(NAME).await?.is_none());
    // Launched.
    space.patch(json!({ "runStrategy": "Always" })).await?;
    let pod = space.pod().await?;
    ensure!(
        pod.name_any().starts_with("virt-launcher-tl-"),
        "{}",
        pod.name_any()
    );
    ensure!(
        pod.labels().get("app").map(String::as_str) == Some(NAME),
        "the template's label"
    );
    space.status("Starting").await?;
    space.node.run(&pod).await?;
    let vm = space.status("Running").await?;
    let status = vm.status.context("a status")?;
    ensure!(
        status.created == Some(true) && status.ready == Some(true),
        "{status:?}"
    );
    ensure!(status.run_strategy.as_deref() == Some("Always"));
    let vmi = space.phase("Running").await?;
    let status = vmi.status.clone().context("a status")?;
    ensure!(status.node_name.as_deref() == Some(NODE));
    ensure!(
        status.interfaces[0].ip_address.as_deref() == Some(ADDRESS),
        "{status:?}"
    );
    ensure!(status.interfaces[0].mac.is_some(), "{status:?}");
    ensure!(status.active_pods.values().eq([NODE]), "{status:?}");
    let phases: Vec<_> = status
        .phase_transition_timestamps
        .iter()
        .filter_map(|entry| entry.phase)
        .collect();
    let phases: Vec<_> = phases.iter().map(|phase| phase.as_str()).collect();
    ensure!(
        phases == ["Pending", "Scheduling", "Scheduled", "Running"],
        "{phases:?}"
    );
    until("the machine is held by its finalizer", || async {
        ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await?;
    // Stopped.
    space.patch(json!({ "runStrategy": "Halted" })).await?;
    space.terminating(&pod).await?;
    space.status("Stopping").await?;
    space.condition("Ready", "False", "PodTerminating").await?;
    space.node.end(&pod, 0, "").await?;
    space.phase("Succeeded").await?;
    space.status("Stopped").await?;
    space.node.remove(&pod).await?;
    space.gone(&space.vmis, NAME).await?;
    until("the machine knows that its instance is gone", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        ensure!(status.created == Some(false), "{status:?}");
        Ok(())
    })
    .await?;
    space.delete().await?;
    for (kind, reason) in [
        ("VirtualMachine", "SuccessfulCreate"),
        ("VirtualMachine", "SuccessfulDelete"),
        ("VirtualMachineInstance", "SuccessfulCreate"),
        ("VirtualMachineInstance", "Created"),
        ("VirtualMachineInstance", "Started"),
        ("VirtualMachineInstance", "ShuttingDown"),
        ("VirtualMachineInstance", "SuccessfulDelete"),
        ("VirtualMachineInstance", "Deleted"),
        ("VirtualMachineInstance", "Stopped"),
    ] {
        space.event(kind, reason).await?;
    }
    Ok(())
}

/// Beside creating the pod, at most three writes from create to Running, events aside.
pub(crate) async fn writes_little(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    let expected = [
        "create virtualmachineinstances",
        "create pods",
        "patch virtualmachineinstances/status",
        "patch virtualmachines/status",
    ];
    // The API server answers before it has written its log.
    until("each was written once", || async {
        let writes = bench.writes(CONTROLLER_USER, &space.namespace);
        let until_running = writes
            .iter()
            .take_while(|write| *write != "patch virtualmachines");
        ensure!(until_running.eq(expected), "{writes:?}");
        Ok(())
    })
    .await?;
    // Then it is held by its finalizer, and nothing more is written while nothing happens.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = bench.writes(CONTROLLER_USER, &space.namespace);
    ensure!(
        writes.len() == 5 && writes[4] == "patch virtualmachines",
        "{writes:?}"
    );
    // The way back: each object is told and deleted once, each finalizer taken away once.
    space.delete().await?;
    let writes = bench.writes(CONTROLLER_USER, &space.namespace);
    ensure!(writes.len() <= 5 + 7, "{writes:?}");
    Ok(())
}

/// Beside the deletions of instance and pod and the instance's finalizer, two writes until it reads
/// Stopped, where the guest is quick to end and its pod to go.
pub(crate) async fn stops_with_few_writes(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    let mut counts = Vec::new();
    for _ in 0..4 {
        space.patch(json!({ "runStrategy": "Always" })).await?;
        let pod = space.pod().await?;
        space.node.run(&pod).await?;
        space.status("Running").await?;
        until("the machine is held by its finalizer", || async {
            ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
            Ok(())
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = bench.writes(CONTROLLER_USER, &space.namespace).len();
        space.patch(json!({ "runStrategy": "Halted" })).await?;
        space.terminating(&pod).await?;
        space.node.end(&pod, 0, "").await?;
        space.phase("Succeeded").await?;
        space.node.remove(&pod).await?;
        space.gone(&space.vmis, NAME).await?;
        let vm = space.status("Stopped").await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let last = space.vm().await?;
        ensure!(last.metadata.resource_version == vm.metadata.resource_version);
        let all = bench.writes(CONTROLLER_USER, &space.namespace);
        let writes = all[before..].iter();
        let others: Vec<_> = writes
            .filter(|write| !write.starts_with("delete"))
            .filter(|write| *write != "patch virtualmachineinstances")
            .collect();
        counts.push(others.len());
        ensure!(others.len() <= 4, "{others:?}");
    }
    // The test itself may be slow on a busy computer, but not each time.
    ensure!(counts.contains(&2), "{counts:?}");
    space.delete().await
}

pub(crate) async fn slow_start_is_told(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.bind(&pod).await?;
    space.node.wait(&pod, "ContainerCreating", "").await?;
    space.phase("Scheduling").await?;
    space.condition("Ready", "False", "GuestNotRunning").await?;
    let vm = space.status("Starting").await?;
    ensure!(vm.status.context("a status")?.created == Some(true));
    space.node.run(&space.pod().await?).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn deleted_while_running(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    until("the machine is held by its finalizer", || async {
        ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await?;
    space.vms.delete(NAME, &DeleteParams::default()).await?;
    space.terminating(&pod).await?;
    space.status("Terminating").await?;
    space.node.end(&pod, 0, "").await?;
    space.phase("Succeeded").await?;
    ensure!(
        space.vms.get_opt(NAME).await?.is_some(),
        "it stays until its pod is gone"
    );
    space.node.remove(&pod).await?;
    space.gone(&space.vmis, NAME).await?;
    space.gone(&space.vms, NAME).await
}

pub(crate) async fn pod_deleted_under_a_running_machine(
    bench: Arc<Bench>,
    name: String,
) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    let uid = space.vmi().await?.uid();
    space
        .pods
        .delete(&pod.name_any(), &DeleteParams::default())
        .await?;
    space.condition("Ready", "False", "PodTerminating").await?;
    space
        .event("VirtualMachineInstance", "ShuttingDown")
        .await?;
    space.node.finish(&pod, 0).await?;
    let next = space.another_pod(&pod).await?;
    ensure!(space.vmi().await?.uid() != uid, "a new instance");
    space.node.run(&next).await?;
    space.status("Running").await?;
    space.delete().await
}

pub(crate) async fn template_changed_while_running(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let pod = space.running("Always").await?;
    let memory =
        json!({ "template": { "spec": { "domain": { "memory": { "guest": "256Mi" } } } } });
    space.patch(memory).await?;
    until("the machine says that it wants a restart", || async {
        let status = space.vm().await?.status.unwrap_or_default();
        let wanted = |condition: &vm_api::v1::Condition| condition.r#type == "RestartRequired";
        ensure!(status.conditions.iter().any(wanted), "{status:#?}");
        ensure!(
            status.observed_generation != status.desired_generation,
            "{status:#?}"
        );
        Ok(())
    })
    .await?;
    space.vmis.delete(NAME, &DeleteParams::default()).await?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    let next = space.another_pod(&pod).await?;
    let spec = next
        .annotations()
        .get("kubevirt.io/vmi-spec")
        .context("the spec")?;
    ensure!(spec.contains("256Mi"), "{spec}");
    space.node.run(&next).await?;
    let vm = space.status("Running").await?;
    let status = vm.status.context("a status")?;
    ensure!(
        status
            .conditions
            .iter()
            .all(|c| c.r#type != "RestartRequired"),
        "{status:#?}"
    );
    space.delete().await
}

/// An instance without a machine: it runs once, and its pod's log stays until it is deleted.
pub(crate) async fn lone_instance(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let _: vm_api::v1::VirtualMachineInstance = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": NAME }, "spec": template(json!({})),
        }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let vmi = space.phase("Running").await?;
    until("the instance is held by its finalizer", || async {
        ensure!(!space.vmi().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await?;
    space.node.end(&pod, 1, "the guest panicked").await?;
    let ended = space.phase("Failed").await?;
    ensure!(ended.uid() == vmi.uid(), "it is not made again");
    let status = ended.status.context("a status")?;
    let ready = status
        .conditions
        .iter()
        .find(|c| c.r#type == "Ready")
        .context("Ready")?;
    ensure!(
        ready.message.as_deref() == Some("the guest panicked"),
        "{ready:?}"
    );
    ensure!(
        space.live_pods().await?.len() == 1,
        "the pod stays for its log"
    );
    space.vmis.delete(NAME, &DeleteParams::default()).await?;
    space.terminating(&pod).await.or_else(|error| {
        // A pod that has ended is gone at once.
        if error.to_string().contains("waited") {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    space.gone(&space.vmis, NAME).await
}

pub(crate) async fn deleted_before_it_ran(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.status("Starting").await?;
    until("the machine is held by its finalizer", || async {
        ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await?;
    space.vms.delete(NAME, &DeleteParams::default()).await?;
    space.gone(&space.pods, &pod.name_any()).await?;
    space.gone(&space.vmis, NAME).await?;
    space.gone(&space.vms, NAME).await
}
