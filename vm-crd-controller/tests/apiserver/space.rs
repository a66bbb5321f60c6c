//! A namespace of a case's own, with one machine `tl`, and waiting for what a user would see.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use vm_api::v1::{Condition, VirtualMachine, VirtualMachineInstance};
use vm_crd_controller::vmi::ASK_ANNOTATION;

use crate::node::FakeNode;

/// How long anything that must happen may take. An API server that was started anew knows the owners of
/// new objects after half a minute at the latest.
const LIMIT: Duration = Duration::from_secs(50);

/// The machine of each case.
pub(crate) const NAME: &str = "tl";

/// A namespace.
pub(crate) struct Space {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) vms: Api<VirtualMachine>,
    pub(crate) vmis: Api<VirtualMachineInstance>,
    pub(crate) pods: Api<Pod>,
    pub(crate) node: FakeNode,
}

impl Space {
    /// Makes one in which Pod Security admits only what is *restricted*.
    pub(crate) async fn new(client: &Client, case: &str) -> Result<Self> {
        let namespace = namespace_of(case);
        let object: Namespace = serde_json::from_value(json!({ "metadata": {
            "name": namespace,
            "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
        } }))?;
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let pods = Api::namespaced(client.clone(), &namespace);
        Ok(Self {
            client: client.clone(),
            vms: Api::namespaced(client.clone(), &namespace),
            vmis: Api::namespaced(client.clone(), &namespace),
            node: FakeNode::new(pods.clone()),
            pods,
            namespace,
        })
    }

    /// Creates an object from its JSON.
    pub(crate) async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let object = serde_json::from_value(object).context("read the case's own object")?;
        Ok(api.create(&PostParams::default(), &object).await?)
    }

    /// Creates the machine; `more` is merged into its template's spec.
    pub(crate) async fn machine(&self, strategy: &str, more: Value) -> Result<VirtualMachine> {
        self.create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": NAME },
            "spec": { "runStrategy": strategy, "template": {
                "metadata": { "labels": { "app": NAME }, "annotations": { "example.com/a": "b" } },
                "spec": template(more),
            } },
        }))
        .await
    }

    /// Changes the machine's spec by a merge patch.
    pub(crate) async fn patch(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.vms
            .patch(NAME, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Appends requests to the machine's status, as the subresource API does.
    pub(crate) async fn request(&self, requests: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "status": { "stateChangeRequests": requests } }));
        self.vms
            .patch_status(NAME, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Hints that something happened to the machine, as who does something to it does.
    pub(crate) async fn hint(&self, value: &str) -> Result<()> {
        let patch = json!({ "metadata": { "annotations": { ASK_ANNOTATION: value } } });
        self.vmis
            .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    pub(crate) async fn vm(&self) -> Result<VirtualMachine> {
        Ok(self.vms.get(NAME).await?)
    }

    pub(crate) async fn vmi(&self) -> Result<VirtualMachineInstance> {
        Ok(self.vmis.get(NAME).await?)
    }

    /// Waits until the machine's status reads so.
    pub(crate) async fn status(&self, wanted: &str) -> Result<VirtualMachine> {
        until(&format!("the machine is {wanted}"), || async {
            let vm = self.vm().await?;
            let status = vm.status.clone().unwrap_or_default();
            let word = status.printable_status.map(|status| status.to_string());
            ensure!(word.as_deref() == Some(wanted), "it is {status:#?}");
            Ok(vm)
        })
        .await
    }

    /// Waits until the instance is in that phase.
    pub(crate) async fn phase(&self, wanted: &str) -> Result<VirtualMachineInstance> {
        until(&format!("the instance is {wanted}"), || async {
            let vmi = self.vmi().await?;
            let phase = vmi.status.as_ref().and_then(|status| status.phase);
            let phase = phase.map(|phase| phase.to_string());
            ensure!(phase.as_deref() == Some(wanted), "it is {:#?}", vmi.status);
            Ok(vmi)
        })
        .await
    }

    /// Waits until the instance has the condition with that status and reason.
    pub(crate) async fn condition(
        &self,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<Condition> {
        until(
            &format!("the instance says {kind}={status}({reason})"),
            || async {
                let vmi = self.vmi().await?;
                let conditions = vmi.status.unwrap_or_default().conditions;
                let found = conditions.iter().find(|condition| condition.r#type == kind);
                let condition = found.with_context(|| format!("only {conditions:#?}"))?;
                let said = condition.reason.as_deref().unwrap_or_default();
                ensure!(
                    condition.status == status && said == reason,
                    "it says {condition:?}"
                );
                Ok(condition.clone())
            },
        )
        .await
    }

    /// Waits until the machine has the condition.
    pub(crate) async fn machine_condition(&self, kind: &str) -> Result<Condition> {
        until(&format!("the machine says {kind}"), || async {
            let conditions = self.vm().await?.status.unwrap_or_default().conditions;
            let found = conditions.iter().find(|condition| condition.r#type == kind);
            Ok(found
                .with_context(|| format!("only {conditions:#?}"))?
                .clone())
        })
        .await
    }

    /// A quota is used by nothing yet, as its controller would write.
    pub(crate) async fn quota_is_counted(&self, name: &str) -> Result<()> {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &self.namespace);
        let hard = quotas.get(name).await?.spec.and_then(|spec| spec.hard);
        let hard = hard.context("a quota")?;
        let used: Value = hard.keys().map(|key| (key.clone(), json!("0"))).collect();
        let patch = Patch::Merge(json!({ "status": { "hard": hard, "used": used } }));
        quotas
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Waits for a pod that is not being deleted.
    pub(crate) async fn pod(&self) -> Result<Pod> {
        until("there is a pod", || async {
            let pods = self.live_pods().await?;
            match pods.as_slice() {
                [pod] => Ok(pod.clone()),
                pods => bail!("there are {}", pods.len()),
            }
        })
        .await
    }

    /// Waits for a pod other than `old`.
    pub(crate) async fn another_pod(&self, old: &Pod) -> Result<Pod> {
        until("there is another pod", || async {
            let pods = self.live_pods().await?;
            let other = pods
                .into_iter()
                .find(|pod| pod.name_any() != old.name_any());
            other.ok_or_else(|| anyhow!("only the old one"))
        })
        .await
    }

    /// Pods that are not being deleted.
    pub(crate) async fn live_pods(&self) -> Result<Vec<Pod>> {
        let pods = self.pods.list(&ListParams::default()).await?.items;
        Ok(pods
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect())
    }

    /// Waits until the pod is being deleted.
    pub(crate) async fn terminating(&self, pod: &Pod) -> Result<()> {
        until("the pod is being deleted", || async {
            let pod = self.pods.get(&pod.name_any()).await?;
            ensure!(pod.metadata.deletion_timestamp.is_some(), "it is not");
            Ok(())
        })
        .await
    }

    /// Waits until the object is gone.
    pub(crate) async fn gone<K>(&self, api: &Api<K>, name: &str) -> Result<()>
    where
        K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        until(&format!("{name} is gone"), || async {
            match api.get_opt(name).await? {
                None => Ok(()),
                Some(object) => bail!("it is there: {:?}", object.meta()),
            }
        })
        .await
    }

    /// Starts the machine and runs its pod.
    pub(crate) async fn running(&self, strategy: &str) -> Result<Pod> {
        self.machine(strategy, json!({})).await?;
        let pod = self.pod().await?;
        self.node.run(&pod).await?;
        self.status("Running").await?;
        Ok(pod)
    }

    /// Waits until the machine has its finalizer: one that is deleted before leaves its instance to
    /// Kubernetes' garbage collector, which does not run here.
    pub(crate) async fn held(&self) -> Result<()> {
        until("the machine is held by its finalizer", || async {
            ensure!(!self.vm().await?.finalizers().is_empty(), "it is not");
            Ok(())
        })
        .await
    }

    /// Deletes the machine and plays the node until it is gone.
    ///
    /// A machine that is deleted before its finalizer is set leaves its instance to Kubernetes'
    /// garbage collector; that does not run here, so it is played too.
    pub(crate) async fn delete(&self) -> Result<()> {
        self.vms.delete(NAME, &DeleteParams::default()).await?;
        until("the machine and its instance are gone", || async {
            for pod in self.pods.list(&ListParams::default()).await?.items {
                if pod.metadata.deletion_timestamp.is_some() {
                    self.node.remove(&pod).await?;
                }
            }
            ensure!(self.vms.get_opt(NAME).await?.is_none(), "it is there");
            if let Some(instance) = self.vmis.get_opt(NAME).await? {
                if instance.metadata.deletion_timestamp.is_none() {
                    self.vmis.delete(NAME, &DeleteParams::default()).await?;
                }
                bail!("the instance outlives the machine");
            }
            Ok(())
        })
        .await?;
        ensure!(
            self.live_pods().await?.is_empty(),
            "a pod outlives the machine"
        );
        Ok(())
    }

    /// Waits until an event with that reason about an object of that kind is there; its note.
    pub(crate) async fn event(&self, kind: &str, reason: &str) -> Result<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        until(&format!("an event says {kind} {reason}"), || async {
            let events = events.list(&ListParams::default()).await?.items;
            let found = events.iter().find(|event| {
                event.reason.as_deref() == Some(reason)
                    && event
                        .regarding
                        .as_ref()
                        .and_then(|object| object.kind.as_deref())
                        == Some(kind)
            });
            let seen: Vec<_> = events
                .iter()
                .filter_map(|event| event.reason.clone())
                .collect();
            let event = found.with_context(|| format!("only {seen:?}"))?;
            Ok(event.note.clone().unwrap_or_default())
        })
        .await
    }
}

/// The namespace of a case.
pub(crate) fn namespace_of(case: &str) -> String {
    case.replace("::", "-").replace('_', "-")
}

/// The template of a sound machine with `more` merged in.
pub(crate) fn template(more: Value) -> Value {
    let mut spec = json!({
        "domain": {
            "memory": { "guest": "128Mi" },
            "devices": {
                "disks": [{ "name": "root", "disk": { "bus": "virtio" } }],
                "interfaces": [{ "name": "default", "masquerade": {} }],
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [{ "name": "root", "containerDisk": { "image": "example.com/disk:1" } }],
    });
    merge(&mut spec, more);
    spec
}

fn merge(target: &mut Value, more: Value) {
    match (target, more) {
        (Value::Object(target), Value::Object(more)) => {
            for (key, value) in more {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, more) => *target = more,
    }
}

/// Waits until `look` succeeds; its last error says what was seen instead.
pub(crate) async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(error.context(format!("waited {LIMIT:?} until {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
