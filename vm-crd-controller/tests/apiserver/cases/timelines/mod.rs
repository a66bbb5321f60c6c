//! What a real KubeVirt showed in 17 scenarios, played again: the same states, conditions and events
//! in the same order, but for the differences that [`compare`] knows. What a verb of the subresource
//! API does is done by the patch that the verb makes.

mod compare;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use vm_api::v1::VirtualMachineInstanceSpec;

use crate::bench::Bench;
use crate::recorder::Recorder;
use crate::space::{NAME, Space, until};

/// A scenario under way.
struct Scenario {
    name: &'static str,
    space: Space,
    bench: Arc<Bench>,
    recorder: Recorder,
}

impl Scenario {
    async fn start(bench: Arc<Bench>, case: &str, name: &'static str) -> Result<Self> {
        let space = Space::new(&bench.client, case).await?;
        let recorder = Recorder::start(&space).await?;
        Ok(Self {
            name,
            space,
            bench,
            recorder,
        })
    }

    /// A machine that the scheduler and kubelet bring up.
    async fn up(&self) -> Result<Pod> {
        let pod = self.space.pod().await?;
        self.space.node.run(&pod).await?;
        self.space.status("Running").await?;
        Ok(pod)
    }

    /// The next instance after that of `pod` comes up.
    async fn up_again(&self, pod: &Pod) -> Result<Pod> {
        let pod = self.space.another_pod(pod).await?;
        self.space.node.run(&pod).await?;
        self.space.status("Running").await?;
        Ok(pod)
    }

    /// The guest follows the power button, in its own time, and its pod goes after a while.
    async fn shuts_down(&self, pod: &Pod, code: i32) -> Result<()> {
        let space = &self.space;
        space.terminating(pod).await?;
        space.condition("Ready", "False", "PodTerminating").await?;
        if space.vm().await?.metadata.deletion_timestamp.is_none() {
            until("the machine knows that its guest goes", || async {
                let status = space.vm().await?.status.unwrap_or_default();
                ensure!(status.ready == Some(false), "{status:?}");
                Ok(())
            })
            .await?;
        }
        space.node.end(pod, code, "").await?;
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        space.phase(phase).await?;
        if space.vm().await?.metadata.deletion_timestamp.is_none() {
            space.status("Stopped").await?;
        }
        Ok(())
    }

    /// The machine is deleted, and its guest follows the power button.
    async fn leave(self, pod: &Pod) -> Result<()> {
        self.delete().await?;
        self.shuts_down(pod, 0).await?;
        self.space.node.remove(pod).await?;
        self.ends().await
    }

    async fn delete(&self) -> Result<()> {
        let space = &self.space;
        space.held().await?;
        space.vms.delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Everything is gone: what was seen is what KubeVirt showed.
    async fn ends(self) -> Result<()> {
        self.space.gone(&self.space.vms, NAME).await?;
        ensure!(self.space.vmis.get_opt(NAME).await?.is_none());
        // Events are written beside.
        let compared = until("it was as KubeVirt's", || async {
            compare::compare(self.name, &self.recorder.seen())
        });
        compared.await
    }

    /// The machine says that it is paused, or not; whoever did that hints at it.
    async fn paused(&self, paused: bool) -> Result<()> {
        let state = if paused { "paused" } else { "running" };
        let answer = json!({ "state": state, "guestAgent": { "connected": false } });
        self.bench.machines.answer(&self.space.namespace, answer);
        self.space.hint(state).await?;
        self.space
            .status(if paused { "Paused" } else { "Running" })
            .await?;
        Ok(())
    }

    async fn request(&self, requests: Value) -> Result<()> {
        self.space.request(requests).await
    }
}

pub(crate) async fn notices_differences(_: Arc<Bench>, _: String) -> Result<()> {
    compare::notices_differences()
}

pub(crate) async fn halted_start_pause_restart_stop(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "halted_start_pause_restart_stop").await?;
    it.space.machine("Halted", json!({})).await?;
    it.space.status("Stopped").await?;
    // virtctl start, pause, unpause.
    it.space.patch(json!({ "runStrategy": "Always" })).await?;
    let pod = it.up().await?;
    it.paused(true).await?;
    it.paused(false).await?;
    // virtctl restart.
    let uid = it.space.vmi().await?.uid();
    it.request(json!([{ "action": "Stop", "uid": uid }, { "action": "Start" }]))
        .await?;
    it.shuts_down(&pod, 0).await?;
    it.space.node.remove(&pod).await?;
    let pod = it.up_again(&pod).await?;
    // virtctl stop; the machine is deleted before the pod is gone.
    it.space.patch(json!({ "runStrategy": "Halted" })).await?;
    it.shuts_down(&pod, 0).await?;
    it.delete().await?;
    it.space.status("Terminating").await?;
    it.space.node.remove(&pod).await?;
    it.ends().await
}

pub(crate) async fn always_powered_off(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "always_powered_off").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 0, "").await?;
    let pod = it.up_again(&pod).await?;
    it.leave(&pod).await
}

pub(crate) async fn rerun_on_failure_powered_off(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "rerun_on_failure_powered_off").await?;
    it.space.machine("RerunOnFailure", json!({})).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 0, "").await?;
    it.space.gone(&it.space.vmis, NAME).await?;
    until("the machine knows that its instance is gone", || async {
        let status = it.space.vm().await?.status.unwrap_or_default();
        ensure!(status.created == Some(false), "{status:?}");
        Ok(())
    })
    .await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn once_powered_off(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "once_powered_off").await?;
    it.space.machine("Once", json!({})).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 0, "").await?;
    it.space.status("Stopped").await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn manual_powered_off(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "manual_powered_off").await?;
    it.space.machine("Manual", json!({})).await?;
    it.space.status("Stopped").await?;
    it.request(json!([{ "action": "Start" }])).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 0, "").await?;
    it.space.status("Stopped").await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn manual_wrong_verbs(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "manual_wrong_verbs").await?;
    it.space.machine("Manual", json!({})).await?;
    it.space.status("Stopped").await?;
    it.request(json!([{ "action": "Start" }])).await?;
    let pod = it.up().await?;
    let uid = it.space.vmi().await?.uid();
    it.request(json!([{ "action": "Stop", "uid": uid }]))
        .await?;
    it.shuts_down(&pod, 0).await?;
    it.delete().await?;
    it.space.status("Terminating").await?;
    it.space.node.remove(&pod).await?;
    it.ends().await
}

pub(crate) async fn halted_start_paused(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "halted_start_paused").await?;
    it.space.machine("Halted", json!({})).await?;
    it.space.status("Stopped").await?;
    it.request(json!([{ "action": "Start", "data": { "paused": "true" } }]))
        .await?;
    let paused = VirtualMachineInstanceSpec {
        start_strategy: Some("Paused".to_owned()),
        ..VirtualMachineInstanceSpec::default()
    };
    if !vm_api::support::instance(&paused).is_empty() {
        // A product that cannot do it yet says so by name.
        let refused = it
            .space
            .condition("Synchronized", "False", "UnsupportedField")
            .await?;
        let why = refused.message.context("why")?;
        ensure!(why.contains("spec.startStrategy"), "{why}");
        it.delete().await?;
        return it.space.gone(&it.space.vms, NAME).await;
    }
    let pod = it.space.pod().await?;
    it.space.node.run(&pod).await?;
    it.space.status("Paused").await?;
    let strategy = it.space.vmi().await?.spec.start_strategy;
    ensure!(strategy.as_deref() == Some("Paused"), "{strategy:?}");
    it.paused(false).await?;
    it.delete().await?;
    // The guest has not booted: it does not hear the power button, and is killed.
    it.shuts_down(&pod, 137).await?;
    it.space.node.remove(&pod).await?;
    it.ends().await
}

pub(crate) async fn unschedulable(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "unschedulable").await?;
    let nowhere = json!({ "nodeSelector": { "no": "node" } });
    it.space.machine("Always", nowhere).await?;
    let pod = it.space.pod().await?;
    let message = "0/2 nodes are available";
    it.space.node.no_node_for(&pod, message).await?;
    it.space.status("ErrorUnschedulable").await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn claim_missing(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "claim_missing").await?;
    let claim = json!({ "name": "root", "persistentVolumeClaim": { "claimName": "absent" } });
    it.space
        .machine("Always", json!({ "volumes": [claim] }))
        .await?;
    it.space.status("ErrorPvcNotFound").await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn image_missing(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "image_missing").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.space.pod().await?;
    it.space.node.bind(&pod).await?;
    let message = "Back-off pulling image";
    it.space
        .node
        .wait(&pod, "ImagePullBackOff", message)
        .await?;
    it.space.status("ImagePullBackOff").await?;
    it.delete().await?;
    it.space.terminating(&pod).await?;
    it.space.phase("Failed").await?;
    it.space
        .condition("Ready", "False", "PodTerminating")
        .await?;
    it.space.node.remove(&pod).await?;
    it.ends().await
}

pub(crate) async fn always_killed(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "always_killed").await?;
    it.space.machine("Always", json!({})).await?;
    let mut pod = it.up().await?;
    for _ in 0..3 {
        it.space.node.end(&pod, 137, "").await?;
        pod = it.up_again(&pod).await?;
    }
    it.leave(&pod).await
}

pub(crate) async fn rerun_on_failure_killed(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "rerun_on_failure_killed").await?;
    it.space.machine("RerunOnFailure", json!({})).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 137, "").await?;
    let pod = it.up_again(&pod).await?;
    it.leave(&pod).await
}

pub(crate) async fn once_killed(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "once_killed").await?;
    it.space.machine("Once", json!({})).await?;
    let pod = it.up().await?;
    it.space.node.end(&pod, 137, "").await?;
    it.space.status("Stopped").await?;
    it.delete().await?;
    it.ends().await
}

pub(crate) async fn always_patched_to_halted(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "always_patched_to_halted").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.up().await?;
    it.space.patch(json!({ "runStrategy": "Halted" })).await?;
    it.shuts_down(&pod, 0).await?;
    it.delete().await?;
    it.space.status("Terminating").await?;
    it.space.node.remove(&pod).await?;
    it.ends().await
}

pub(crate) async fn deleted_while_running(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "deleted_while_running").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.up().await?;
    it.leave(&pod).await
}

pub(crate) async fn template_changed(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "template_changed").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.up().await?;
    let memory = json!({ "domain": { "memory": { "guest": "384Mi" } } });
    it.space
        .patch(json!({ "template": { "spec": memory } }))
        .await?;
    let required = it.space.machine_condition("RestartRequired").await?;
    let why = required.message.context("why")?;
    ensure!(why.starts_with("memory updated in template spec"), "{why}");
    it.space.vmis.delete(NAME, &DeleteParams::default()).await?;
    it.shuts_down(&pod, 0).await?;
    it.space.node.remove(&pod).await?;
    let pod = it.up_again(&pod).await?;
    it.leave(&pod).await
}

pub(crate) async fn pod_deleted(bench: Arc<Bench>, case: String) -> Result<()> {
    let it = Scenario::start(bench, &case, "pod_deleted").await?;
    it.space.machine("Always", json!({})).await?;
    let pod = it.up().await?;
    it.space
        .pods
        .delete(&pod.name_any(), &DeleteParams::default())
        .await?;
    it.shuts_down(&pod, 0).await?;
    it.space.node.remove(&pod).await?;
    let pod = it.up_again(&pod).await?;
    it.leave(&pod).await
}
