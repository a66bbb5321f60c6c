//! The two things wanted of the Kubernetes API: is this cluster ours to use, and the node's labels.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use vm_api::contract::labels;

/// KubeVirt's own installation object: its CRD exists exactly where KubeVirt is installed.
const KUBEVIRT_CRD: &str = "kubevirts.kubevirt.io";

/// A connection to the API server, as the pod's service account.
pub(crate) async fn connect() -> Result<Client> {
    Client::try_default()
        .await
        .context("connect to the Kubernetes API")
}

/// Refuses a cluster that runs KubeVirt itself: both would act on the same objects.
pub(crate) async fn refuse_kubevirt(client: &Client) -> Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    if crds
        .get_opt(KUBEVIRT_CRD)
        .await
        .context("look for KubeVirt")?
        .is_some()
    {
        bail!("this cluster runs KubeVirt itself ({KUBEVIRT_CRD} exists): uninstall it first");
    }
    Ok(())
}

/// Marks the node as able to run machines, with the accelerator that they will get.
pub(crate) async fn label(client: &Client, node: &str, accelerator: &str) -> Result<()> {
    let wanted = [
        (labels::SCHEDULABLE, "true"),
        (labels::ACCELERATOR, accelerator),
    ];
    let nodes: Api<Node> = Api::all(client.clone());
    let current = nodes
        .get(node)
        .await
        .with_context(|| format!("read node {node}"))?;
    if wanted
        .iter()
        .all(|(key, value)| current.labels().get(*key).is_some_and(|v| v == value))
    {
        return Ok(());
    }
    patch(
        &nodes,
        node,
        wanted
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .into(),
    )
    .await
}

/// Takes the labels back.
pub(crate) async fn unlabel(client: &Client, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let none = [labels::SCHEDULABLE, labels::ACCELERATOR].map(|key| (key.to_owned(), Value::Null));
    patch(&nodes, node, none.into()).await
}

async fn patch(nodes: &Api<Node>, node: &str, labels: Vec<(String, Value)>) -> Result<()> {
    let labels: serde_json::Map<_, _> = labels.into_iter().collect();
    let patch = json!({ "metadata": { "labels": labels } });
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .with_context(|| format!("label node {node}"))?;
    Ok(())
}
