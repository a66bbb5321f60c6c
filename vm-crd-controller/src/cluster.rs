//! What the reconcilers may do to the cluster: thin effects, each counted.
//!
//! Status is written by server-side apply in the name of [`FIELD_MANAGER`]; objects are created so
//! that a second attempt finds the first; deletions name the UID that was meant.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vm_api::contract::labels;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};
use vm_api::validate::is_object_name;

use crate::metrics::Metrics;
use crate::own::OwnWrites;
use crate::owner;
use crate::warnings::{Warning, Warnings};

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

/// A kind whose objects are the whole cluster's and can be read.
pub trait Global:
    Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug
{
}

impl<K> Global for K where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug
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
    warnings: Warnings,
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
            warnings: Warnings::new(client.clone()),
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
        let creation = self.create_unwatched(object, resource).await?;
        if creation == Creation::Made {
            self.own.made(object);
        }
        Ok(creation)
    }

    /// The same of a kind whose objects no watch shows: nobody would tell that it went again.
    pub async fn create_unwatched<K: Namespaced + Serialize>(
        &self,
        object: &K,
        resource: &'static str,
    ) -> kube::Result<Creation> {
        self.metrics.count_write(resource, "create");
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let namespace = object.namespace().unwrap_or_default();
        match self.api::<K>(&namespace).create(&params, object).await {
            Ok(_) => Ok(Creation::Made),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                Ok(Creation::Found)
            }
            Err(error) => Err(error),
        }
    }

    /// What the API server would make of `object`, which is not made; nothing if it is there already.
    pub async fn rehearse<K: Namespaced + Serialize>(&self, object: &K) -> kube::Result<Option<K>> {
        let params = PostParams {
            dry_run: true,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let namespace = object.namespace().unwrap_or_default();
        match self.api::<K>(&namespace).create(&params, object).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            result => result.map(Some),
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
                self.own.deleted(object);
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

    /// Lets the container of a running `pod` have other resources.
    pub async fn resize(
        &self,
        pod: &Pod,
        container: &str,
        resources: &ResourceRequirements,
    ) -> kube::Result<()> {
        self.metrics.count_write("pods/resize", "patch");
        let patch = json!({
            "metadata": { "uid": pod.uid() },
            "spec": { "containers": [{ "name": container, "resources": resources }] },
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let namespace = pod.namespace().unwrap_or_default();
        let written = self
            .api::<Pod>(&namespace)
            .patch_subresource("resize", &pod.name_any(), &params, &Patch::Strategic(patch))
            .await?;
        self.own
            .replaced(pod, written.resource_version().as_deref());
        Ok(())
    }

    /// Merges `patch` into the very version of an instance that was seen.
    pub async fn patch_instance(
        &self,
        instance: &VirtualMachineInstance,
        mut patch: Value,
    ) -> kube::Result<()> {
        patch["metadata"]["uid"] = json!(instance.uid());
        patch["metadata"]["resourceVersion"] = json!(instance.resource_version());
        self.merge(instance, patch, resource::INSTANCES).await
    }

    /// Sets the run strategy of the very version of `vm` that was seen.
    pub async fn set_run_strategy(&self, vm: &VirtualMachine, strategy: &str) -> kube::Result<()> {
        let patch = json!({
            "metadata": { "uid": vm.uid(), "resourceVersion": vm.resource_version() },
            "spec": { "runStrategy": strategy, "running": null },
        });
        self.merge(vm, patch, "virtualmachines").await
    }

    /// Makes `owner` the controller of the very version of `object` that was seen.
    pub async fn adopt<K: Namespaced, Owner: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        owner: &Owner,
        resource: &'static str,
    ) -> kube::Result<()> {
        let mut owners = object.owner_references().to_vec();
        owners.push(owner::reference(owner));
        self.set_owners(object, &owners, resource).await
    }

    /// Takes the owner with the UID `owner` from the very version of `object` that was seen.
    pub async fn release<K: Namespaced>(
        &self,
        object: &K,
        owner: &str,
        resource: &'static str,
    ) -> kube::Result<()> {
        let mut owners = object.owner_references().to_vec();
        owners.retain(|other| other.uid != owner);
        self.set_owners(object, &owners, resource).await
    }

    async fn set_owners<K: Namespaced>(
        &self,
        object: &K,
        owners: &[OwnerReference],
        resource: &'static str,
    ) -> kube::Result<()> {
        let patch = json!({ "metadata": { "ownerReferences": owners } });
        self.change(object, patch, resource).await
    }

    /// Changes the very version of `object` that was seen by a merge patch.
    pub async fn change<K: Namespaced>(
        &self,
        object: &K,
        mut patch: Value,
        resource: &'static str,
    ) -> kube::Result<()> {
        patch["metadata"]["uid"] = json!(object.uid());
        patch["metadata"]["resourceVersion"] = json!(object.resource_version());
        self.merge(object, patch, resource).await
    }

    /// Asks for a restart of the instance with the UID `instance`, as the subresource API does.
    pub async fn request_restart(&self, vm: &VirtualMachine, instance: &str) -> kube::Result<()> {
        self.metrics.count_write(resource::MACHINE_STATUS, "patch");
        let patch = json!({
            "metadata": { "uid": vm.uid(), "resourceVersion": vm.resource_version() },
            "status": { "stateChangeRequests": [
                { "action": "Stop", "uid": instance }, { "action": "Start" },
            ] },
        });
        let namespace = vm.namespace().unwrap_or_default();
        let written = self
            .api::<VirtualMachine>(&namespace)
            .patch_status(
                &vm.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        self.own.replaced(vm, written.resource_version().as_deref());
        Ok(())
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

    /// Reads an object, past every store.
    pub async fn read<K: Namespaced>(
        &self,
        namespace: &str,
        name: &str,
    ) -> kube::Result<Option<K>> {
        get(&self.api::<K>(namespace), &[namespace, name], name).await
    }

    /// Reads an object of the whole cluster, past every store.
    pub async fn read_global<K: Global>(&self, name: &str) -> kube::Result<Option<K>> {
        get(&Api::<K>::all(self.client.clone()), &[name], name).await
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
        self.read(namespace, name).await
    }

    /// What runs machines on a node, `kvm` or `tcg`, as the node installer labelled it.
    pub async fn accelerator(&self, node: &str) -> kube::Result<Option<String>> {
        let known = || {
            self.accelerators
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let fresh = |remembered: &Remembered| remembered.asked.elapsed() < NODE_MEMORY;
        if let Some(remembered) = known().get(node).filter(|it| fresh(it)) {
            return Ok(remembered.accelerator.clone());
        }
        let found = Api::<Node>::all(self.client.clone())
            .get_metadata_opt(node)
            .await?;
        let accelerator = found.and_then(|node| node.labels().get(labels::ACCELERATOR).cloned());
        let mut known = known();
        known.retain(|_, remembered| fresh(remembered));
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
    pub async fn warning_about(&self, pod: &Pod) -> kube::Result<Option<Warning>> {
        let uid = pod.uid().unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        self.warnings.about(&namespace, &uid).await
    }
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
    /// The status of replica sets.
    pub const REPLICA_SET_STATUS: &str = "virtualmachineinstancereplicasets/status";
    /// The status of pools.
    pub const POOL_STATUS: &str = "virtualmachinepools/status";
    /// Claims.
    pub const CLAIMS: &str = "persistentvolumeclaims";
    /// Pods.
    pub const PODS: &str = "pods";
    /// What machines were made with.
    pub const CONTROLLER_REVISIONS: &str = "controllerrevisions";
}

/// Reference to an instance or machine, for events.
pub fn reference<K: Resource<DynamicType = ()>>(
    object: &K,
) -> k8s_openapi::api::core::v1::ObjectReference {
    object.object_ref(&())
}
/// Reads the object `name`; what `names` cannot call anything is not there. The client writes names into
/// paths as they are, and users choose these.
async fn get<K>(api: &Api<K>, names: &[&str], name: &str) -> kube::Result<Option<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    match names.iter().all(|name| is_object_name(name)) {
        true => api.get_opt(name).await,
        false => Ok(None),
    }
}
