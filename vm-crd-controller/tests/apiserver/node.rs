//! What a node would do. No node exists here: scheduler and kubelet are played by writing what these
//! would write, so that every step of a scenario is under the test's control.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Name of the node that pods are bound to.
pub(crate) const NODE: &str = "no-such-node";

/// Address of every pod.
pub(crate) const ADDRESS: &str = "10.244.7.7";

/// Plays scheduler and kubelet for the pods of one namespace.
#[derive(Clone)]
pub(crate) struct FakeNode {
    pods: Api<Pod>,
}

impl FakeNode {
    /// For the namespace of `pods`.
    pub(crate) fn new(pods: Api<Pod>) -> Self {
        Self { pods }
    }

    /// The scheduler finds no node.
    pub(crate) async fn no_node_for(&self, pod: &Pod, message: &str) -> Result<()> {
        let condition = json!({ "type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": message });
        self.status(
            pod,
            json!({ "phase": "Pending", "conditions": [condition] }),
        )
        .await
    }

    /// The scheduler binds the pod.
    pub(crate) async fn bind(&self, pod: &Pod) -> Result<()> {
        let name = pod.name_any();
        let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": NODE } });
        let params = PostParams::default();
        let _: Value = self
            .pods
            .create_subresource("binding", &name, &params, &binding)
            .await
            .context("bind the pod")?;
        Ok(())
    }

    /// Kubelet waits with the machine container.
    pub(crate) async fn wait(&self, pod: &Pod, reason: &str, message: &str) -> Result<()> {
        let state = json!({ "waiting": { "reason": reason, "message": message } });
        self.report(pod, "Pending", state, false).await
    }

    /// The scheduler binds the pod and kubelet starts it.
    pub(crate) async fn run(&self, pod: &Pod) -> Result<()> {
        if pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_none())
        {
            self.bind(pod).await?;
        }
        self.report(
            pod,
            "Running",
            json!({ "running": { "startedAt": now() } }),
            true,
        )
        .await
    }

    /// Kubelet and the shim have given the machine what the pod asks for.
    pub(crate) async fn resized(&self, pod: &Pod) -> Result<()> {
        let pod = self.pods.get(&pod.name_any()).await?;
        let mut status = serde_json::to_value(pod.status.clone().context("a status")?)?;
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for (index, container) in containers.enumerate() {
            status["containerStatuses"][index]["resources"] = json!(container.resources);
        }
        self.status(&pod, status).await
    }

    /// The shim refuses to give the machine what the pod asks for; kubelet tries again and again.
    pub(crate) async fn resize_fails(&self, pod: &Pod, message: &str) -> Result<()> {
        let pod = self.pods.get(&pod.name_any()).await?;
        let mut status = serde_json::to_value(pod.status.clone().context("a status")?)?;
        let condition = json!({ "type": "PodResizeInProgress", "status": "True",
            "reason": "Error", "message": message });
        if let Some(conditions) = status["conditions"].as_array_mut() {
            conditions.push(condition);
        }
        self.status(&pod, status).await
    }

    /// The machine container ends.
    pub(crate) async fn end(&self, pod: &Pod, code: i32, message: &str) -> Result<()> {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let state = json!({ "terminated": { "exitCode": code, "message": message,
            "reason": if code == 0 { "Completed" } else { "Error" }, "startedAt": now() } });
        self.report(pod, phase, state, false).await
    }

    /// The shim refuses to create the machine.
    pub(crate) async fn refuse(&self, pod: &Pod, message: &str) -> Result<()> {
        self.bind(pod).await?;
        let state = json!({ "terminated": { "exitCode": 128, "reason": "StartError",
            "message": message, "startedAt": "1970-01-01T00:00:00Z" } });
        self.report(pod, "Failed", state, false).await
    }

    /// Kubelet has cleaned up after a pod that is being deleted.
    pub(crate) async fn remove(&self, pod: &Pod) -> Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        self.pods
            .delete(&pod.name_any(), &params)
            .await
            .context("remove the pod")?;
        Ok(())
    }

    /// The guest follows the power button, and the pod is cleaned up.
    pub(crate) async fn finish(&self, pod: &Pod, code: i32) -> Result<()> {
        self.end(pod, code, "").await?;
        self.remove(pod).await
    }

    /// Plays for as long as it is polled: what is new runs, what is deleted powers off and goes. While
    /// the API server is away, it waits.
    pub(crate) async fn play(self) {
        loop {
            let pods = self.pods.list(&ListParams::default()).await;
            for pod in pods.map(|list| list.items).unwrap_or_default() {
                let status = pod.status.as_ref();
                // What fails is tried again at the next look.
                let _ = if pod.metadata.deletion_timestamp.is_some() {
                    self.finish(&pod, 0).await
                } else if status.is_none_or(|status| status.pod_ip.is_none()) {
                    self.run(&pod).await
                } else {
                    Ok(())
                };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn report(&self, pod: &Pod, phase: &str, state: Value, ready: bool) -> Result<()> {
        let word = if ready { "True" } else { "False" };
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let statuses = containers.map(|container: &Container| {
            json!({ "name": container.name, "ready": ready, "restartCount": 0,
                "image": container.image, "imageID": "", "state": state,
                "resources": container.resources })
        });
        let statuses: Vec<_> = statuses.collect();
        self.status(
            pod,
            json!({
                "phase": phase,
                "podIP": ADDRESS, "podIPs": [{ "ip": ADDRESS }],
                "startTime": now(),
                "conditions": [
                    { "type": "PodScheduled", "status": "True", "lastTransitionTime": now() },
                    { "type": "Ready", "status": word,
                      "reason": if ready { Value::Null } else { "ContainersNotReady".into() } },
                ],
                "containerStatuses": statuses,
            }),
        )
        .await
    }

    async fn status(&self, pod: &Pod, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods
            .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await
            .context("write the pod's status")?;
        Ok(())
    }
}

fn now() -> String {
    let second = Timestamp::now().as_second();
    Timestamp::from_second(second).map_or_else(|_| String::new(), |time| time.to_string())
}
