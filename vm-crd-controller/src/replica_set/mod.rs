//! The reconciler of replica sets: VirtualMachineInstanceReplicaSet → instances, and their number back.
//!
//! *Expected flow*: instances that match the selector and belong to nobody are adopted, own ones that
//! no longer match are released; the rest is [`decide`]'s. *Guarantees*: never more instances than
//! wanted because a watch lags: names follow from the set, and what was made or deleted a moment ago
//! is known.

mod child;
mod decide;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::{debug, info};
use vm_api::field::join;
use vm_api::selector::Selector;
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet};
use vm_api::{support, validate};

use crate::cluster::{Cluster, Creation, reference, resource};
use crate::conditions::reason;
use crate::events::{Events, Note};
use crate::reconcile::{Doing, Reconcile, ReconcileError, STALE};
use crate::refusal::{Refusal, refusal};
use crate::replicas::{self, Children, Counts, Failure, Pace, Words};
use crate::watch::Guarded;
use crate::{clock, invalid};
use decide::{Observed, Plan, decide};

/// KubeVirt's words for a pause.
const WORDS: Words = Words {
    paused: "Paused",
    message: "Controller got paused",
    resumed: ("SuccessfulResumed", "Resumed"),
};

/// How many instances there are to be where a set does not say.
const DEFAULT_REPLICAS: i32 = 1;

/// Reconciles replica sets.
pub struct ReplicaSets {
    /// The way to the API server.
    pub cluster: Cluster,
    /// Where events go.
    pub events: Events,
    /// All instances.
    pub instances: Store<Guarded<VirtualMachineInstance>>,
    /// Which of them belong to which set, and which to nobody.
    pub children: Children,
    /// What was done a moment ago.
    pub pace: Pace,
}

impl Reconcile<Guarded<VirtualMachineInstanceReplicaSet>> for ReplicaSets {
    fn reconcile(
        self: Arc<Self>,
        object: Arc<Guarded<VirtualMachineInstanceReplicaSet>>,
    ) -> BoxFuture<'static, Result<Option<Duration>, ReconcileError>> {
        async move {
            match &object.0 {
                Ok(set) => self.one(set).await,
                Err(error) => {
                    invalid::report(&self.events, &*object, error);
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

impl ReplicaSets {
    async fn one(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
    ) -> Result<Option<Duration>, ReconcileError> {
        if self.cluster.own.is_stale(set) || !self.children.is_filled() {
            return Ok(Some(STALE));
        }
        let namespace = set.namespace().unwrap_or_default();
        let uid = set.uid().unwrap_or_default();
        let wrong = check(set);
        let selector = Selector::read(&set.spec.selector, "selector").ok();
        let leaving = set.metadata.deletion_timestamp.is_some();
        if let Some(selector) = selector.as_ref().filter(|_| wrong.is_none() && !leaving) {
            self.claim(set, selector).await?;
        }
        let found: Vec<_> = self
            .children
            .of(&namespace, &set.name_any(), &uid)
            .iter()
            .filter_map(|name| self.instances.get(&ObjectRef::new(name).within(&namespace)))
            .collect();
        let instances: Vec<_> = found
            .iter()
            .filter_map(|guarded| guarded.0.as_ref().ok())
            .filter(|instance| !self.cluster.own.is_going(*instance))
            .collect();
        let wanted = set.spec.replicas.unwrap_or(DEFAULT_REPLICAS);
        let wanted = usize::try_from(wanted).unwrap_or_default();
        let paused = set.spec.paused == Some(true);
        let mut observed = Observed {
            wanted,
            acts: !paused && !leaving && wrong.is_none(),
            instances: &instances,
            coming: 0,
            now: clock::now(),
        };
        let mut names = Vec::new();
        if observed.acts {
            let plan = decide(&observed);
            (names, observed.coming) = self.free_names(set, plan.create);
        }
        let plan = decide(&observed);
        names.truncate(plan.create);
        let mut failure = wrong;
        let mut again = plan.again;
        if let Err((refused, wait)) = self.carry_out(set, &plan, names).await? {
            failure = Some(refused);
            again = Some(again.map_or(wait, |again| again.min(wait)));
        }
        let selector = selector.map(|selector| selector.to_string());
        let wait = self
            .report(set, plan.counts, selector, paused, failure.as_ref())
            .await?;
        Ok([again, wait].into_iter().flatten().min())
    }

    /// Adopts instances that match and belong to nobody, and releases own ones that do not match.
    async fn claim(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        selector: &Selector,
    ) -> Result<(), ReconcileError> {
        let namespace = set.namespace().unwrap_or_default();
        let uid = set.uid().unwrap_or_default();
        let matching = |names: Vec<String>, matches: bool| {
            let objects = names.into_iter().filter_map(|name| {
                self.instances
                    .get(&ObjectRef::new(&name).within(&namespace))
            });
            objects
                .filter(|object| {
                    object.0.as_ref().is_ok_and(|instance| {
                        instance.metadata.deletion_timestamp.is_none()
                            && selector.matches(instance.labels()) == matches
                            && !self.cluster.own.is_stale(instance)
                    })
                })
                .collect::<Vec<_>>()
        };
        for orphan in matching(self.children.orphans(&namespace), true) {
            if let Ok(instance) = &orphan.0 {
                info!(instance = instance.name_any(), "instance adopted");
                self.cluster
                    .adopt(instance, set, resource::INSTANCES)
                    .await
                    .doing("adopt an instance")?;
            }
        }
        let own = self.children.of(&namespace, &set.name_any(), &uid);
        for stranger in matching(own, false) {
            if let Ok(instance) = &stranger.0 {
                info!(instance = instance.name_any(), "instance released");
                self.cluster
                    .release(instance, &uid, resource::INSTANCES)
                    .await
                    .doing("release an instance")?;
            }
        }
        Ok(())
    }

    /// `count` names of which none is taken, less those of instances that are coming; and how many
    /// those are.
    fn free_names(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        count: usize,
    ) -> (Vec<String>, usize) {
        let namespace = set.namespace().unwrap_or_default();
        let (mut free, mut coming) = (Vec::new(), 0);
        let mut number = 0;
        while free.len() + coming < count {
            let name = child::name(set, number);
            number += 1;
            let object = ObjectRef::<Guarded<VirtualMachineInstance>>::new(&name);
            if self.instances.get(&object.within(&namespace)).is_some() || free.contains(&name) {
                continue;
            }
            let instance = child::of(set, name.clone());
            if self.cluster.own.is_coming(&instance) {
                coming += 1;
            } else {
                free.push(name);
            }
        }
        (free, coming)
    }

    /// Makes and deletes instances; or what was refused, and when to try again.
    async fn carry_out(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        plan: &Plan<'_>,
        names: Vec<String>,
    ) -> Result<Result<(), (Failure, Duration)>, ReconcileError> {
        let uid = set.uid().unwrap_or_default();
        let generation = set.metadata.generation.unwrap_or_default();
        let regarding = reference(set);
        for instance in &plan.delete {
            let was_there = self
                .cluster
                .delete(*instance, resource::INSTANCES)
                .await
                .doing("delete an instance")?;
            if was_there {
                let message = format!(
                    "Stopped the virtual machine by deleting the virtual machine instance {}",
                    instance.uid().unwrap_or_default()
                );
                let note = Note::normal(reason::SUCCESSFUL_DELETE, message);
                self.events.publish(&regarding, [note]);
            }
        }
        if names.is_empty() {
            return Ok(Ok(()));
        }
        if let Some(refused) = self.pace.refused(&uid, generation) {
            return Ok(Err(refused));
        }
        for name in names {
            let instance = child::of(set, name);
            match self.cluster.create(&instance, resource::INSTANCES).await {
                Ok(Creation::Made) => {
                    let message = format!(
                        "Started the virtual machine by creating the new virtual machine instance {}",
                        instance.name_any()
                    );
                    let note = Note::normal(reason::SUCCESSFUL_CREATE, message);
                    self.events.publish(&regarding, [note]);
                }
                Ok(Creation::Found) => {}
                Err(error) => match refusal(&error) {
                    Refusal::Mend(message) => {
                        let message =
                            format!("the API server refused a VirtualMachineInstance: {message}");
                        let failure = Failure::new(reason::FAILED_CREATE, message);
                        let wait = self.pace.refuse(&uid, generation, failure.clone());
                        return Ok(Err((failure, wait)));
                    }
                    Refusal::Leaving => return Ok(Ok(())),
                    Refusal::Passing => return Err(error).doing("create an instance"),
                },
            }
        }
        Ok(Ok(()))
    }

    /// Writes the status if it says something new; how long that has to wait.
    async fn report(
        &self,
        set: &VirtualMachineInstanceReplicaSet,
        counts: Counts,
        selector: Option<String>,
        paused: bool,
        failure: Option<&Failure>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let old = set.status.clone().unwrap_or_default();
        let paused = paused.then_some(&WORDS);
        let status = replicas::of(&old, counts, selector, paused, failure, &clock::now());
        if status == old {
            return Ok(None);
        }
        let uid = set.uid().unwrap_or_default();
        let only_counts = status.conditions == old.conditions;
        if let Some(wait) = self.pace.until_write(&uid).filter(|_| only_counts) {
            return Ok(Some(wait));
        }
        debug!(replicas = ?status.replicas, ready = ?status.ready_replicas, "writing the status");
        let value = serde_json::to_value(&status)
            .map_err(kube::Error::SerdeError)
            .doing("write the status as JSON")?;
        self.cluster
            .apply_status(set, value, resource::REPLICA_SET_STATUS)
            .await
            .doing("write the status")?;
        self.pace.wrote(&uid);
        self.events
            .publish(&reference(set), replicas::notes(&old, &status, &WORDS));
        Ok(None)
    }
}

/// What is wrong with `set`, so that nothing is made from it.
fn check(set: &VirtualMachineInstanceReplicaSet) -> Option<Failure> {
    let judged = [
        (reason::UNSUPPORTED_FIELD, support::replica_set(&set.spec)),
        (reason::INVALID_SPEC, validate::replica_set(&set.spec)),
    ];
    judged.into_iter().find_map(|(reason, errors)| {
        let errors: Vec<_> = errors
            .into_iter()
            .map(|error| error.under("spec"))
            .collect();
        (!errors.is_empty()).then(|| Failure::new(reason, join(&errors)))
    })
}
