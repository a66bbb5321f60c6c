//! Taking the runtime off all nodes at once, for whoever uninstalls the product as a whole: refused while
//! machines run anywhere, unless forced.
//!
//! The installers do the work, each on its node; this turns them around and waits. If one cannot, they
//! are turned back, so that a cluster is either rid of the runtime or has it everywhere.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use vm_api::contract::{FORCE_UNINSTALL_ANNOTATION, IN_USE_CONFIG_MAP, RUNTIME_CLASS};

use crate::cluster;

/// The installers' DaemonSet, and its one container.
const DAEMON_SET: &str = "kubevirt-node";
const CONTAINER: &str = "node";

/// Pods that are read at once.
const PAGE: u32 = 500;

/// Machines that a refusal names.
const NAMED: usize = 5;

/// How often the installers are looked at.
const PACE: Duration = Duration::from_secs(1);

/// Takes the runtime off every node; within `timeout`, or not at all.
///
/// # Errors
/// Machines run and nobody forces it; or a node keeps the runtime, which its installer says why.
pub(crate) async fn run(namespace: &str, timeout: Duration) -> Result<()> {
    let client = cluster::connect().await?;
    let forced = is_forced(&client, namespace).await?;
    if !forced {
        let running = machines(&client).await?;
        if !running.is_empty() {
            bail!(
                "{} machines run ({}): stop them first, or let them end by kubectl -n {namespace} \
                 annotate configmap {IN_USE_CONFIG_MAP} {FORCE_UNINSTALL_ANNOTATION}=true",
                running.len(),
                named(&running)
            );
        }
    }
    let sets: Api<DaemonSet> = Api::namespaced(client, namespace);
    let before = sets.get_opt(DAEMON_SET).await;
    let Some(before) = before.context("read the installers' DaemonSet")? else {
        tracing::info!("no installer is there");
        return Ok(());
    };
    let params = PatchParams::default();
    let patch = Patch::Strategic(turned(forced));
    let patched = sets.patch(DAEMON_SET, &params, &patch).await;
    let patched = patched.context("turn the installers around")?;
    let wanted = patched.metadata.generation.unwrap_or_default();
    tracing::info!("the installers take the runtime off their nodes");
    let done = tokio::time::timeout(timeout, all_ready(&sets, wanted)).await;
    let Err(_) = done else {
        done??;
        tracing::info!("the runtime is gone from every node");
        return Ok(());
    };
    let template = serde_json::to_value(before.spec.map(|spec| spec.template))?;
    // What was changed stands in lists, which a merge replaces.
    let patch = Patch::Merge(json!({ "spec": { "template": template } }));
    let back = sets.patch(DAEMON_SET, &params, &patch).await;
    back.context("turn the installers back")?;
    bail!(
        "a node keeps the runtime: kubectl -n {namespace} describe pods \
         --selector=app.kubernetes.io/name={DAEMON_SET} says why; it is installed on all of them again"
    );
}

async fn is_forced(client: &Client, namespace: &str) -> Result<bool> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get_opt(IN_USE_CONFIG_MAP).await;
    let map = map.with_context(|| format!("read the ConfigMap {IN_USE_CONFIG_MAP}"))?;
    let said = map.and_then(|map| map.annotations().get(FORCE_UNINSTALL_ANNOTATION).cloned());
    Ok(said.as_deref() == Some("true"))
}

/// Namespace and name of every pod that is a machine and has not ended. No field selector knows the
/// runtime class, so all pods are read, a page at a time.
async fn machines(client: &Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = pods.list(&params).await.context("look for machines")?;
        let running = page.items.iter().filter(|pod| is_machine(pod));
        found.extend(
            running
                .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn is_machine(pod: &Pod) -> bool {
    let class = pod
        .spec
        .as_ref()
        .and_then(|it| it.runtime_class_name.as_deref());
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    class == Some(RUNTIME_CLASS) && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn named(machines: &[String]) -> String {
    let mut text = machines
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if machines.len() > NAMED {
        text += ", …";
    }
    text
}

/// What makes uninstallers of the installers, all at once.
fn turned(forced: bool) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "args": ["uninstall"],
        "readinessProbe": { "exec": { "command": ["/usr/bin/kubevirt-node", "check", "--absent"] } },
    });
    if forced {
        container["env"] = json!([{ "name": "FORCE", "value": "true" }]);
    }
    json!({ "spec": {
        "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
        "template": { "spec": { "containers": [container] } },
    } })
}

async fn all_ready(sets: &Api<DaemonSet>, generation: i64) -> Result<()> {
    loop {
        let set = sets.get(DAEMON_SET).await;
        let set = set.context("look at the installers")?;
        if set
            .status
            .is_some_and(|status| is_ready(&status, generation))
        {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Whether the pods of that generation are there and ready on every node.
fn is_ready(status: &DaemonSetStatus, generation: i64) -> bool {
    let wanted = status.desired_number_scheduled;
    status.observed_generation.unwrap_or_default() >= generation
        && status.updated_number_scheduled.unwrap_or_default() >= wanted
        && status.number_ready >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(class: Option<&str>, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "spec": { "runtimeClassName": class, "containers": [] }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn a_machine_counts_until_it_has_ended() {
        for (class, phase, expected) in [
            (Some("kubevirt"), "Running", true),
            (Some("kubevirt"), "Pending", true),
            (Some("kubevirt"), "Succeeded", false),
            (Some("kubevirt"), "Failed", false),
            (Some("gvisor"), "Running", false),
            (None, "Running", false),
        ] {
            assert_eq!(
                is_machine(&pod(class, phase)),
                expected,
                "{class:?} {phase}"
            );
        }
    }

    #[test]
    fn a_node_that_was_not_turned_yet_is_waited_for() {
        let status = |observed, updated, ready| DaemonSetStatus {
            observed_generation: Some(observed),
            desired_number_scheduled: 2,
            updated_number_scheduled: Some(updated),
            number_ready: ready,
            ..DaemonSetStatus::default()
        };
        assert!(is_ready(&status(3, 2, 2), 3));
        assert!(!is_ready(&status(2, 2, 2), 3));
        assert!(!is_ready(&status(3, 1, 2), 3));
        assert!(!is_ready(&status(3, 2, 1), 3));
    }

    #[test]
    fn a_refusal_names_a_few() {
        let machines: Vec<_> = (0..7).map(|n| format!("a/{n}")).collect();
        assert_eq!(named(&machines), "a/0, a/1, a/2, a/3, a/4, …");
        assert_eq!(named(&machines[..1]), "a/0");
    }
}
