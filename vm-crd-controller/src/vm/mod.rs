//! The reconciler of machines: VirtualMachine → VirtualMachineInstance, and its state back.

mod backoff;
mod check;
mod crashes;
mod decide;
mod instance;
mod live;
mod snapshots;
mod status;
mod strategy;
mod trouble;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use serde_json::{Value, json};
use tracing::{debug, info};
use vm_api::v1::{RunStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineStatus};

use crashes::Crashes;
use decide::{FINALIZER, Observed, Plan, decide};
use trouble::Trouble;

use crate::cluster::{Cluster, Creation, reference, resource};
use crate::conditions::reason;
use crate::events::{Events, Note};
use crate::instancetype::{Problem, Refs, Types};
use crate::packed::Packed;
use crate::reconcile::{Doing, Reconcile, ReconcileError, STALE};
use crate::refusal::{Refusal, refusal};
use crate::watch::Guarded;
use crate::{clock, invalid};

/// Reconciles machines.
pub struct Machines {
    cluster: Cluster,
    events: Events,
    instances: Store<Guarded<VirtualMachineInstance>>,
    types: Types,
    progress_delay: Duration,
    crashes: Crashes,
}

impl Reconcile<Packed<VirtualMachine>> for Machines {
    fn reconcile(
        self: Arc<Self>,
        object: Arc<Packed<VirtualMachine>>,
    ) -> BoxFuture<'static, Result<Option<Duration>, ReconcileError>> {
        async move {
            match object.unpack() {
                Ok(vm) => self.one(&vm).await,
                Err(error) => {
                    invalid::report(&self.events, &*object, &error);
                    Ok(None)
                }
            }
        }
        .boxed()
    }
}

impl Machines {
    /// A reconciler that acts by `cluster`, looks instances up in `instances` and what they are made
    /// with in `types`.
    pub fn new(
        cluster: Cluster,
        events: Events,
        instances: Store<Guarded<VirtualMachineInstance>>,
        types: Types,
        progress_delay: Duration,
    ) -> Self {
        Self {
            cluster,
            events,
            instances,
            types,
            progress_delay,
            crashes: Crashes::default(),
        }
    }

    async fn one(&self, vm: &VirtualMachine) -> Result<Option<Duration>, ReconcileError> {
        let namespace = vm.namespace().unwrap_or_default();
        let name = ObjectRef::new(&vm.name_any()).within(&namespace);
        let found = self.instances.get(&name);
        let found = found.as_deref().and_then(|guarded| guarded.0.as_ref().ok());
        let own = found.filter(|instance| instance::is_of(instance, vm));
        let written = &self.cluster.own;
        if written.is_stale(vm) || own.is_some_and(|instance| written.is_stale(instance)) {
            // The watch brings what was written; this only makes sure.
            return Ok(Some(STALE));
        }
        let (strategy, mut trouble) = match check::machine(vm) {
            Ok(strategy) => (strategy, None),
            // Without a strategy nothing is started and nothing stopped.
            Err(trouble) => (strategy_or_manual(vm), Some(trouble)),
        };
        if own.is_none() && found.is_some() {
            trouble = trouble.or_else(|| Some(Trouble::NameTaken(vm.name_any())));
        }
        let leaving = vm.metadata.deletion_timestamp.is_some();
        let mut refs = Refs::known(vm);
        if !leaving {
            let settled = self.types.settle(vm).boxed().await;
            match settled.doing("settle the instance type and the preference")? {
                Ok(settled) => refs = settled,
                Err(problem) => trouble = trouble.or(Some(problem.into())),
            }
        }
        let mut expanded = None;
        if !leaving && own.is_some_and(|instance| instance::is_older(instance, vm)) {
            match self.expand(vm, &refs).await? {
                Ok(machine) => expanded = Some(machine),
                Err(problem) => trouble = trouble.or(Some(problem.into())),
            }
        }
        let crashes = self.crashes.count(vm, own);
        let observe = |trouble| Observed {
            vm,
            expanded: expanded.as_deref(),
            refs: &refs,
            instance: own,
            trouble,
            crashes,
            now: clock::now(),
            progress_delay: self.progress_delay,
        };
        let mut plan = decide(&observe(trouble.as_ref()), strategy);
        if plan.create {
            match self.create(vm, &refs, plan.paused).await? {
                Ok(()) => return Ok(Some(self.progress_delay)),
                Err(refused) => plan = decide(&observe(Some(&refused)), strategy),
            }
        }
        self.carry_out(vm, own, plan).await
    }

    /// The machine with its template expanded.
    async fn expand<'a>(
        &self,
        vm: &'a VirtualMachine,
        refs: &Refs,
    ) -> Result<Result<Cow<'a, VirtualMachine>, Problem>, ReconcileError> {
        let expanded = self.types.expanded(vm, refs).boxed().await;
        expanded.doing("read what the machine is made with")
    }

    async fn create(
        &self,
        vm: &VirtualMachine,
        refs: &Refs,
        paused: bool,
    ) -> Result<Result<(), Trouble>, ReconcileError> {
        let instance = match self.expand(vm, refs).await? {
            Ok(expanded) => instance::of(&expanded, paused),
            Err(problem) => return Ok(Err(problem.into())),
        };
        match self.cluster.create(&instance, resource::INSTANCES).await {
            Ok(Creation::Made) => {
                info!(instance = instance.name_any(), "instance created");
                let message = format!(
                    "Started the virtual machine by creating the new virtual machine instance {}",
                    instance.name_any()
                );
                let note = Note::normal(reason::SUCCESSFUL_CREATE, message);
                self.events.publish(&reference(vm), [note]);
                Ok(Ok(()))
            }
            // The watch lags behind our own write, or behind another's.
            Ok(Creation::Found) => Ok(Ok(())),
            Err(error) => match refusal(&error) {
                Refusal::Mend(message) => Ok(Err(Trouble::Refused(message))),
                Refusal::Leaving => Ok(Ok(())),
                Refusal::Passing => Err(error).doing("create the instance"),
            },
        }
    }

    async fn carry_out(
        &self,
        vm: &VirtualMachine,
        instance: Option<&VirtualMachineInstance>,
        plan: Plan,
    ) -> Result<Option<Duration>, ReconcileError> {
        if plan.become_always {
            let strategy = RunStrategy::Always.as_str();
            self.cluster
                .set_run_strategy(vm, strategy)
                .await
                .doing("set the run strategy")?;
            return Ok(None);
        }
        if let Some((instance, patch)) = instance.zip(plan.update) {
            self.cluster
                .patch_instance(instance, patch)
                .await
                .doing("let the instance take over the template")?;
            info!(instance = instance.name_any(), "instance updated");
            return Ok(None);
        }
        let wrote = plan.status.is_some();
        if let Some(status) = plan.status {
            debug!(status = ?status.printable_status, "writing the status");
            let status = status_value(vm, &status)
                .map_err(kube::Error::SerdeError)
                .doing("write the status as JSON")?;
            self.cluster
                .apply_status(vm, status, resource::MACHINE_STATUS)
                .await
                .doing("write the status")?;
        }
        if let Some(instance) = instance.filter(|_| plan.delete) {
            self.cluster
                .delete(instance, resource::INSTANCES)
                .await
                .doing("delete the instance")?;
            info!(instance = instance.name_any(), "instance deleted");
        }
        self.events.publish(&reference(vm), plan.notes);
        // A written status makes the version that was seen an old one; its event brings us back.
        if !wrote && (plan.hold || plan.release) {
            let mut finalizers = vm.finalizers().to_vec();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            if plan.hold {
                finalizers.push(FINALIZER.to_owned());
            }
            self.cluster
                .set_finalizers(vm, &finalizers, resource::MACHINES)
                .await
                .doing("set the finalizers")?;
        }
        Ok(plan.again)
    }
}

fn strategy_or_manual(vm: &VirtualMachine) -> RunStrategy {
    vm.spec.run_strategy().unwrap_or(RunStrategy::Manual)
}

/// `status` as JSON. Requests are appended by clients in their own name, so what they wrote goes
/// only if the list is written too, empty or not.
fn status_value(vm: &VirtualMachine, status: &VirtualMachineStatus) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(status)?;
    let had_requests = vm
        .status
        .as_ref()
        .is_some_and(|old| !old.state_change_requests.is_empty());
    if had_requests && status.state_change_requests.is_empty() {
        value["stateChangeRequests"] = json!([]);
    }
    Ok(value)
}
