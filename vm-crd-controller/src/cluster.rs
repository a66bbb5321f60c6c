//! What the reconcilers may do to the cluster: thin effects, each counted.
//!
//! Status is written by server-side apply in the name of [`FIELD_MANAGER`]; objects are created so
//! that a second attempt finds the first; deletions name the UID that was meant.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use vm_api::contract::labels;
use vm_api::v1::VirtualMachine;

use crate::metrics::Metrics;
use crate::own::OwnWrites;

/// The name in which this controller writes: field manager, reporter of events.
pub const FIELD_MANAGER: &str = "vm-crd-controller";

/// How long a node's labels are remembered: they change only when the runtime is installed anew.
const NODE_MEMORY: Duration = Duration::from_secs(60);

/// A kind whose objects live in namespaces and can be read.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
{
}

/// The way to the API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    metrics: Metrics,
    /// What was written and no watch has shown yet.
    pub own: OwnWrites,
    accelerators: Arc<Mutex<HashMap<String, Remembered>>>,
}

/// What a node was labelled with, and when it was asked.
struct Remembered {
    accelerator: Option<String>,
    asked: Instant,
}

/// Whether an object was made now or was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// Now.
    Made,
    /// It was there.
    Found,
}

impl Cluster {
    /// The way to the API server by `client`, counted in `metrics`.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            own: OwnWrites::default(),
            accelerators: Arc::default(),
        }
    }

    fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates `object`, whose name is given, in its namespace; not again while the object that was
    /// created is still to appear.
    pub async fn create<K: Namespaced + Serialize>(
        &self,
        object: &K,
        resource: &'static str,
    ) -> kube::Result<Creation> {
        if self.own.is_coming(object) {
            return Ok(Creation::Found);
        }
        self.metrics.count_write(resource, "create");
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let namespace = object.namespace().unwrap_or_default();
        match self.api::<K>(&namespace).create(&params, object).await {
            Ok(_) => {
                self.own.made(object);
                Ok(Creation::Made)
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                Ok(Creation::Found)
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes `object`, not a successor of its name; true if it was there.
    pub async fn delete<K: Namespaced>(
        &self,
        object: &K,
        resource: &'static str,
    ) -> kube::Result<bool> {
        self.metrics.count_write(resource, "delete");
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let namespace = object.namespace().unwrap_or_default();
        match self
            .api::<K>(&namespace)
            .delete(&object.name_any(), &params)
            .await
        {
            Ok(left) => {
                let left = left.left().and_then(|object| object.resource_version());
                self.own.replaced(object, left.as_deref());
                Ok(true)
            }
            // Gone, or another object of that name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Applies `status` to the very version of a machine or an instance that was seen; what it does
    /// not name, and this controller named before, is removed.
    pub async fn apply_status<K: Namespaced>(
        &self,
        object: &K,
        status: Value,
        resource: &'static str,
    ) -> kube::Result<()> {
        self.metrics.count_write(resource, "apply");
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // A status that follows from an old version could undo what a newer one says.
            "metadata": {
                "name": object.name_any(),
                "uid": object.uid(),
                "resourceVersion": object.resource_version(),
            },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let namespace = object.namespace().unwrap_or_default();
        let written = self
            .api::<K>(&namespace)
            .patch_status(&object.name_any(), &params, &Patch::Apply(patch))
            .await?;
        self.own
            .replaced(object, written.resource_version().as_deref());
        Ok(())
    }

    /// Replaces the finalizers of the very version of `object` that was seen.
    pub async fn set_finalizers<K: Namespaced>(
        &self,
        object: &K,
        finalizers: &[String],
        resource: &'static str,
    ) -> kube::Result<()> {
        let metadata = json!({
            "finalizers": finalizers,
            "uid": object.uid(),
            "resourceVersion": object.resource_version(),
        });
        self.merge(object, json!({ "metadata": metadata }), resource)
            .await
    }

    /// Sets the run strategy of the very version of `vm` that was seen.
    pub async fn set_run_strategy(&self, vm: &VirtualMachine, strategy: &str) -> kube::Result<()> {
        let patch = json!({
            "metadata": { "uid": vm.uid(), "resourceVersion": vm.resource_version() },
            "spec": { "runStrategy": strategy, "running": null },
        });
        self.merge(vm, patch, "virtualmachines").await
    }

    async fn merge<K: Namespaced>(
        &self,
        object: &K,
        patch: Value,
        resource: &'static str,
    ) -> kube::Result<()> {
        self.metrics.count_write(resource, "patch");
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let namespace = object.namespace().unwrap_or_default();
        match self
            .api::<K>(&namespace)
            .patch(&object.name_any(), &params, &Patch::Merge(patch))
            .await
        {
            Ok(written) => {
                self.own
                    .replaced(object, written.resource_version().as_deref());
                Ok(())
            }
            // Gone already: nothing is left to change.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads a pod, past every store.
    pub async fn pod(&self, namespace: &str, name: &str) -> kube::Result<Option<Pod>> {
        self.api::<Pod>(namespace).get_opt(name).await
    }

    /// Reads a claim.
    pub async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> kube::Result<Option<PersistentVolumeClaim>> {
        self.api::<PersistentVolumeClaim>(namespace)
            .get_opt(name)
            .await
    }

    /// What runs machines on a node, `kvm` or `tcg`, as the node installer labelled it.
    pub async fn accelerator(&self, node: &str) -> kube::Result<Option<String>> {
        let mut known = self.accelerators.lock().await;
        if let Some(remembered) = known.get(node)
            && remembered.asked.elapsed() < NODE_MEMORY
        {
            return Ok(remembered.accelerator.clone());
        }
        let found = Api::<Node>::all(self.client.clone())
            .get_metadata_opt(node)
            .await?;
        let accelerator = found.and_then(|node| node.labels().get(labels::ACCELERATOR).cloned());
        known.insert(
            node.to_owned(),
            Remembered {
                accelerator: accelerator.clone(),
                asked: Instant::now(),
            },
        );
        Ok(accelerator)
    }

    /// The newest warning about a pod, as kubelet and others wrote it.
    pub async fn warning_about(&self, pod: &Pod) -> kube::Result<Option<Event>> {
        let fields = format!(
            "involvedObject.uid={},type=Warning",
            pod.uid().unwrap_or_default()
        );
        let namespace = pod.namespace().unwrap_or_default();
        let list = self
            .api::<Event>(&namespace)
            .list(&ListParams::default().fields(&fields))
            .await?;
        Ok(list.items.into_iter().max_by_key(last_seen))
    }
}

/// When an event was last observed, however its writer says so.
fn last_seen(event: &Event) -> Option<k8s_openapi::jiff::Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    series
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// Names of resources in metrics.
pub mod resource {
    /// Machines.
    pub const MACHINES: &str = "virtualmachines";
    /// Their status.
    pub const MACHINE_STATUS: &str = "virtualmachines/status";
    /// Instances.
    pub const INSTANCES: &str = "virtualmachineinstances";
    /// Their status.
    pub const INSTANCE_STATUS: &str = "virtualmachineinstances/status";
    /// Pods.
    pub const PODS: &str = "pods";
}

/// Reference to an instance or machine, for events.
pub fn reference<K: Resource<DynamicType = ()>>(
    object: &K,
) -> k8s_openapi::api::core::v1::ObjectReference {
    object.object_ref(&())
}
