//! The reconciler of pools: VirtualMachinePool → machines, and their number back.
//!
//! *Expected flow*: own machines whose labels no longer match are released; the rest is [`decide`]'s.
//! *Guarantees*: never more machines than wanted because a watch lags: a machine has the lowest free
//! number, and what was made or deleted a moment ago is known. A machine that its user changed stays
//! so until the pool's template changes.

mod child;
mod decide;
mod select;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::{debug, info};
use vm_api::field::join;
use vm_api::pool::VirtualMachinePool;
use vm_api::selector::Selector;
use vm_api::v1::{RunStrategy, VirtualMachine, VirtualMachineInstance};
use vm_api::{support, validate};

use crate::cluster::{Cluster, Creation, reference, resource};
use crate::conditions::reason;
use crate::events::{Events, Note};
use crate::packed::Packed;
use crate::reconcile::{Doing, Reconcile, ReconcileError, STALE};
use crate::refusal::{Refusal, refusal};
use crate::replicas::{self, Children, Counts, Failure, Pace, Words};
use crate::watch::Guarded;
use crate::{clock, invalid};
use decide::{Member, Observed, Plan, decide};

/// KubeVirt's words for a pause.
const WORDS: Words = Words {
    paused: "SuccessfulPaused",
    message: "Pool controller is paused",
    resumed: ("SuccessfulResume", "Pool is unpaused"),
};

/// Reasons of events and of the condition; KubeVirt's.
const SUCCESSFUL_UPDATE: &str = "SuccessfulUpdate";
const FAILED_UPDATE: &str = "FailedUpdate";
const FAILED_SCALE_OUT: &str = "FailedScaleOut";

/// How many machines there are to be where a pool does not say.
const DEFAULT_REPLICAS: i32 = 1;

/// Reconciles pools.
pub struct Pools {
    /// The way to the API server.
    pub cluster: Cluster,
    /// Where events go.
    pub events: Events,
    /// All machines.
    pub machines: Store<Packed<VirtualMachine>>,
    /// All instances.
    pub instances: Store<Guarded<VirtualMachineInstance>>,
    /// Which machines belong to which pool.
    pub children: Children,
    /// What was done a moment ago.
    pub pace: Pace,
}

/// What the API server refused, and when to try again.
type Refused = (Failure, Duration);

impl Reconcile<Guarded<VirtualMachinePool>> for Pools {
    fn reconcile(
        self: Arc<Self>,
        object: Arc<Guarded<VirtualMachinePool>>,
    ) -> BoxFuture<'static, Result<Option<Duration>, ReconcileError>> {
        async move {
            match &object.0 {
                Ok(pool) => self.one(pool).await,
                Err(error) => {
                    invalid::report(&self.events, &*object, error);
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

impl Pools {
    async fn one(&self, pool: &VirtualMachinePool) -> Result<Option<Duration>, ReconcileError> {
        if self.cluster.own.is_stale(pool) || !self.children.is_filled() {
            return Ok(Some(STALE));
        }
        let namespace = pool.namespace().unwrap_or_default();
        let uid = pool.uid().unwrap_or_default();
        let wrong = check(pool);
        let selector = Selector::read(&pool.spec.selector, "selector").ok();
        let leaving = pool.metadata.deletion_timestamp.is_some();
        let paused = pool.spec.paused == Some(true);
        let acts = !paused && !leaving && wrong.is_none();
        let object = |name: &str| ObjectRef::<Packed<VirtualMachine>>::new(name).within(&namespace);
        let names = self.children.of(&namespace, &pool.name_any(), &uid);
        let found: Vec<_> = names
            .iter()
            .filter_map(|name| {
                let instance = ObjectRef::new(name).within(&namespace);
                Some((
                    self.machines.get(&object(name))?.unpack().ok()?,
                    self.instances.get(&instance),
                ))
            })
            .collect();
        let mut members = Vec::new();
        for (vm, instance) in &found {
            let matches = selector.as_ref().is_none_or(|it| it.matches(vm.labels()));
            if !matches && acts {
                self.release(vm, &uid).await?;
                continue;
            }
            let instance = instance.as_ref().and_then(|it| it.0.as_ref().ok());
            let own = &self.cluster.own;
            let is_busy = own.is_stale(vm) || instance.is_some_and(|it| own.is_going(it));
            members.push(Member {
                vm,
                instance,
                is_busy,
            });
        }
        let stale = members.iter().any(|member| {
            self.cluster.own.is_going(member.vm) && member.vm.metadata.deletion_timestamp.is_none()
        });
        let wanted = pool.spec.replicas.unwrap_or(DEFAULT_REPLICAS);
        let mut observed = Observed {
            pool,
            wanted: usize::try_from(wanted).unwrap_or_default(),
            // What was deleted a moment ago counts until the watch shows that it leaves.
            acts: acts && !stale,
            members: &members,
            coming: 0,
            now: clock::now(),
        };
        let create = decide(&observed).create;
        let (mut free, coming) = self.free_names(pool, create);
        observed.coming = coming;
        let plan = decide(&observed);
        free.truncate(plan.create);
        let mut failure = wrong;
        let mut again = plan.again.or(stale.then_some(STALE));
        if let Err((refused, wait)) = self.carry_out(pool, &plan, free).await? {
            failure = Some(refused);
            again = Some(again.map_or(wait, |again| again.min(wait)));
        }
        let selector = selector.map(|selector| selector.to_string());
        let wait = self
            .report(pool, plan.counts, selector, paused, failure.as_ref())
            .await?;
        Ok([again, wait].into_iter().flatten().min())
    }

    async fn release(&self, vm: &VirtualMachine, uid: &str) -> Result<(), ReconcileError> {
        if self.cluster.own.is_stale(vm) {
            return Ok(());
        }
        info!(machine = vm.name_any(), "machine released");
        let released = self.cluster.release(vm, uid, resource::MACHINES).await;
        released.doing("release a machine")
    }

    /// The lowest `count` names of which none is taken, less those of machines that are coming; and
    /// how many those are.
    fn free_names(&self, pool: &VirtualMachinePool, count: usize) -> (Vec<String>, usize) {
        let namespace = pool.namespace().unwrap_or_default();
        let (mut free, mut coming) = (Vec::new(), 0);
        let mut number = 0;
        while free.len() + coming < count {
            let name = child::name(pool, number);
            number += 1;
            let object = ObjectRef::<Packed<VirtualMachine>>::new(&name).within(&namespace);
            if self.machines.get(&object).is_some() {
                continue;
            }
            if self.cluster.own.is_coming(&child::of(pool, &name)) {
                coming += 1;
            } else {
                free.push(name);
            }
        }
        (free, coming)
    }

    async fn carry_out(
        &self,
        pool: &VirtualMachinePool,
        plan: &Plan<'_>,
        names: Vec<String>,
    ) -> Result<Result<(), Refused>, ReconcileError> {
        let regarding = reference(pool);
        for vm in &plan.delete {
            let was_there = self
                .cluster
                .delete(*vm, resource::MACHINES)
                .await
                .doing("delete a machine")?;
            if was_there {
                info!(machine = vm.name_any(), "machine deleted");
                let uid = vm.uid().unwrap_or_default();
                let message = format!("Deleted VM {} with uid {uid} from pool", place(vm));
                let note = Note::normal(reason::SUCCESSFUL_DELETE, message);
                self.events.publish(&regarding, [note]);
            }
        }
        let uid = pool.uid().unwrap_or_default();
        let generation = pool.metadata.generation.unwrap_or_default();
        if let Some(refused) = self.pace.refused(&uid, generation) {
            return Ok(Err(refused));
        }
        for name in names {
            let vm = child::of(pool, &name);
            let made = self.cluster.create(&vm, resource::MACHINES).await;
            match made {
                Ok(Creation::Made) => {
                    info!(machine = name, "machine created");
                    let message = format!("Created VM {}", place(&vm));
                    let note = Note::normal(reason::SUCCESSFUL_CREATE, message);
                    self.events.publish(&regarding, [note]);
                }
                Ok(Creation::Found) => {}
                Err(error) => return self.refused(pool, FAILED_SCALE_OUT, error),
            }
        }
        for vm in &plan.update {
            if let Err(error) = self.update(pool, vm).await {
                return self.refused(pool, FAILED_UPDATE, error);
            }
        }
        for member in &plan.restart {
            self.restart(pool, member).await?;
        }
        Ok(Ok(()))
    }

    /// What it means that the API server refused a machine.
    fn refused(
        &self,
        pool: &VirtualMachinePool,
        reason: &'static str,
        error: kube::Error,
    ) -> Result<Result<(), Refused>, ReconcileError> {
        match refusal(&error) {
            Refusal::Mend(message) => {
                let message = format!("the API server refused a VirtualMachine: {message}");
                let failure = Failure::new(reason, message);
                let uid = pool.uid().unwrap_or_default();
                let generation = pool.metadata.generation.unwrap_or_default();
                let wait = self.pace.refuse(&uid, generation, failure.clone());
                Ok(Err((failure, wait)))
            }
            Refusal::Leaving => Ok(Ok(())),
            Refusal::Passing => Err(error).doing("make or change a machine"),
        }
    }

    /// Makes a machine what the template now says.
    async fn update(&self, pool: &VirtualMachinePool, vm: &VirtualMachine) -> kube::Result<()> {
        if self.cluster.own.is_stale(vm) {
            return Ok(());
        }
        let patch = child::update(pool, vm).map_err(kube::Error::SerdeError)?;
        self.cluster.change(vm, patch, resource::MACHINES).await?;
        info!(machine = vm.name_any(), "machine updated");
        let message = format!("Updated VM {}", place(vm));
        let note = Note::normal(SUCCESSFUL_UPDATE, message);
        self.events.publish(&reference(pool), [note]);
        Ok(())
    }

    /// Restarts a guest, so that it runs what its machine says.
    async fn restart(
        &self,
        pool: &VirtualMachinePool,
        member: &Member<'_>,
    ) -> Result<(), ReconcileError> {
        let Some(instance) = member.instance else {
            return Ok(());
        };
        info!(machine = member.vm.name_any(), "machine restarted");
        if member.vm.spec.run_strategy() == Ok(RunStrategy::Always) {
            self.cluster
                .delete(instance, resource::INSTANCES)
                .await
                .doing("delete an instance")?;
        } else {
            let uid = instance.uid().unwrap_or_default();
            self.cluster
                .request_restart(member.vm, &uid)
                .await
                .doing("ask for a restart")?;
        }
        let message = format!("Successfully updated resource {}", place(member.vm));
        let note = Note::normal(reason::SUCCESSFUL_DELETE, message);
        self.events.publish(&reference(pool), [note]);
        Ok(())
    }

    /// Writes the status if it says something new; how long that has to wait.
    async fn report(
        &self,
        pool: &VirtualMachinePool,
        counts: Counts,
        selector: Option<String>,
        paused: bool,
        failure: Option<&Failure>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let old = pool.status.clone().unwrap_or_default();
        let paused = paused.then_some(&WORDS);
        let status = replicas::of(&old, counts, selector, paused, failure, &clock::now());
        if status == old {
            return Ok(None);
        }
        let uid = pool.uid().unwrap_or_default();
        let only_counts = status.conditions == old.conditions;
        if let Some(wait) = self.pace.until_write(&uid).filter(|_| only_counts) {
            return Ok(Some(wait));
        }
        debug!(replicas = ?status.replicas, ready = ?status.ready_replicas, "writing the status");
        let value = serde_json::to_value(&status)
            .map_err(kube::Error::SerdeError)
            .doing("write the status as JSON")?;
        self.cluster
            .apply_status(pool, value, resource::POOL_STATUS)
            .await
            .doing("write the status")?;
        self.pace.wrote(&uid);
        self.events
            .publish(&reference(pool), replicas::notes(&old, &status, &WORDS));
        Ok(None)
    }
}

/// Namespace and name.
fn place(vm: &VirtualMachine) -> String {
    format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any())
}

/// What is wrong with `pool`, so that nothing is made from it.
fn check(pool: &VirtualMachinePool) -> Option<Failure> {
    let judged = [
        (reason::UNSUPPORTED_FIELD, support::pool(&pool.spec)),
        (reason::INVALID_SPEC, validate::pool(&pool.spec)),
    ];
    judged.into_iter().find_map(|(reason, errors)| {
        let errors: Vec<_> = errors
            .into_iter()
            .map(|error| error.under("spec"))
            .collect();
        (!errors.is_empty()).then(|| Failure::new(reason, join(&errors)))
    })
}
