//! What is to be done about a machine: a pure function from what is observed to a [`Plan`].
//!
//! *Expected flow*: what instances are made from is remembered; the run strategy wishes an instance or none → it is made or deleted; the
//! instance's status → the machine's. *Guarantees*: what must be remembered is written before an
//! instance is deleted; a fresh machine whose start goes well gets its first status when it runs.
//! *Assumptions*: the instance observed is the machine's own.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::Value;
use vm_api::v1::{
    Phase, RunStrategy, StateChangeRequest, VirtualMachine, VirtualMachineInstance,
    VirtualMachineStatus,
};

use super::live::{self, Update};
use super::strategy::{self, Life, Wish};
use super::trouble::Trouble;
use super::{backoff, status};
use crate::clock;
use crate::conditions::reason;
use crate::events::Note;
use crate::instancetype::Refs;
use crate::vmi::QUICK_END;

/// The finalizer that keeps a machine until its instance is gone; KubeVirt's name.
pub(super) const FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// The finalizer by which a deletion asks to leave dependents alone.
const ORPHAN_FINALIZER: &str = "orphan";

/// How soon a machine that cannot get an instance is tried again, when no watch would tell.
const RETRY_TROUBLE: Duration = Duration::from_secs(10);

/// What is known when deciding.
#[derive(Clone, Debug)]
pub(super) struct Observed<'a> {
    /// The machine.
    pub(super) vm: &'a VirtualMachine,
    /// The machine with its template expanded, where that is to be compared with the instance.
    pub(super) expanded: Option<&'a VirtualMachine>,
    /// What the status is to remember of its instance type and its preference.
    pub(super) refs: &'a Refs,
    /// Its instance.
    pub(super) instance: Option<&'a VirtualMachineInstance>,
    /// Why it cannot get an instance.
    pub(super) trouble: Option<&'a Trouble>,
    /// Early crashes in a row that lie behind it.
    pub(super) crashes: u32,
    /// Now, in whole seconds as the API has it.
    pub(super) now: Time,
    /// How long a start that goes well stays unreported.
    pub(super) progress_delay: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The status to write.
    pub(super) status: Option<VirtualMachineStatus>,
    /// An instance is to be made.
    pub(super) create: bool,
    /// Its machine is to wait paused.
    pub(super) paused: bool,
    /// The instance is to take over what the template says now: the merge patch.
    pub(super) update: Option<Value>,
    /// The instance is to be deleted.
    pub(super) delete: bool,
    /// The strategy is to become Always.
    pub(super) become_always: bool,
    /// The finalizer is to be set.
    pub(super) hold: bool,
    /// The finalizer is to be taken away.
    pub(super) release: bool,
    /// What to tell, once that is done.
    pub(super) notes: Vec<Note>,
    /// When to look again, if nothing happens before.
    pub(super) again: Option<Duration>,
}

/// What is to be done about a machine that runs by `strategy`.
pub(super) fn decide(observed: &Observed<'_>, strategy: RunStrategy) -> Plan {
    let vm = observed.vm;
    if vm.metadata.deletion_timestamp.is_some() {
        return leave(observed, strategy);
    }
    let old = vm.status.clone().unwrap_or_default();
    let update = observed
        .instance
        .zip(observed.expanded)
        .map_or(Update::None, |(instance, expanded)| {
            live::update(expanded, instance)
        });
    let outdated = update != Update::None;
    let life = strategy::life(observed.instance, outdated);
    let before = old.run_strategy.as_deref();
    let requests = if strategy::is_new_halt(strategy, before) {
        // They were made before the user said halt.
        &[]
    } else {
        old.state_change_requests.as_slice()
    };
    let open = strategy::open_requests(requests, life, observed.instance).to_vec();
    let started = before == Some(strategy.as_str());
    let wish = strategy::wish(strategy, life, strategy::first(&open), started);
    let failure = backoff::next(
        old.start_failure.as_ref(),
        strategy,
        observed.instance,
        observed.crashes,
        &observed.now,
    );
    // Who changes the machine mended it, perhaps: it is tried at once.
    let mended =
        old.desired_generation.is_some() && old.desired_generation != vm.metadata.generation;
    let wait = backoff::left(failure.as_ref().filter(|_| !mended), &observed.now);

    let mut plan = Plan {
        again: observed.trouble.map(|_| RETRY_TROUBLE),
        ..Plan::default()
    };
    let mut requests = open;
    match wish {
        Wish::Nothing => {}
        Wish::Start if observed.trouble.is_some() => {}
        Wish::Start => match wait {
            Some(wait) => plan.again = Some(wait),
            // What an instance is made from outlives it: it is remembered first.
            None if is_new(observed.refs, &old) => {
                plan.status = Some(remembering(observed.refs, old));
                return plan;
            }
            None => {
                plan.create = true;
                plan.paused = strategy::starts_paused(&requests);
                return plan;
            }
        },
        Wish::BecomeAlways => {
            plan.become_always = true;
            return plan;
        }
        Wish::Stop => plan.delete = true,
        Wish::Replace => {
            plan.delete = true;
            if strategy::first(&requests) != Some(strategy::Request::Start) {
                let start = StateChangeRequest {
                    action: "Start".to_owned(),
                    ..Default::default()
                };
                requests.insert(0, start);
            }
        }
    }
    if plan.delete {
        plan.notes.push(deletion_note(observed.instance));
    }
    let restart = match update {
        Update::None => None,
        Update::Live(patch) if life == Life::Live => {
            plan.update = Some(patch);
            return plan;
        }
        // Who stops anyway needs no restart.
        Update::Live(_) => None,
        Update::Restart(why) => Some(why),
    };
    let remembered = Remembered {
        requests,
        failure,
        restart,
        unstarted: wish == Wish::Start,
    };
    let status = status::of(observed, strategy, remembered);
    settle(observed, plan, strategy, &old, status, life)
}

/// What outlives the instance in the machine's status.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    /// Requests that are still to be followed.
    pub(super) requests: Vec<StateChangeRequest>,
    /// Failures of starts.
    pub(super) failure: Option<vm_api::v1::StartFailure>,
    /// Why the template, which asks for another machine than runs, needs a restart.
    pub(super) restart: Option<String>,
    /// A start is wished that has not happened: under this strategy it never ran yet.
    pub(super) unstarted: bool,
}

/// Adds to `plan` the status, if it says something that cannot wait, and the finalizer.
fn settle(
    observed: &Observed<'_>,
    mut plan: Plan,
    strategy: RunStrategy,
    old: &VirtualMachineStatus,
    status: VirtualMachineStatus,
    life: Life,
) -> Plan {
    let must_remember = status.state_change_requests != old.state_change_requests
        || (has_ended(observed.instance) && status.run_strategy != old.run_strategy)
        || status.start_failure != old.start_failure;
    let changed = status != *old;
    // A deletion brings a status of its own at once.
    if changed && (!plan.delete || must_remember) {
        let wait = quiet_for(observed, strategy, old, &status, life);
        if let Some(wait) = wait.filter(|_| !is_new(observed.refs, old)) {
            plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
            return plan;
        }
        plan.notes.extend(status::notes(old, &status));
        plan.status = Some(status);
        return plan;
    }
    plan.hold = observed.instance.is_some() && !holds(observed.vm);
    plan
}

/// Whether the guest of `instance` ended: nothing but the machine's status will tell that it ran.
fn has_ended(instance: Option<&VirtualMachineInstance>) -> bool {
    let status = instance.and_then(|instance| instance.status.as_ref());
    status
        .and_then(|status| status.phase)
        .is_some_and(Phase::is_final)
}

/// Whether the status does not remember `refs` yet.
fn is_new(refs: &Refs, old: &VirtualMachineStatus) -> bool {
    refs.instancetype != old.instancetype_ref || refs.preference != old.preference_ref
}

/// The status as it was, and `refs`.
fn remembering(refs: &Refs, old: VirtualMachineStatus) -> VirtualMachineStatus {
    VirtualMachineStatus {
        instancetype_ref: refs.instancetype.clone(),
        preference_ref: refs.preference.clone(),
        ..old
    }
}

/// How long a status may wait because it only tells that a start or an end goes well.
fn quiet_for(
    observed: &Observed<'_>,
    strategy: RunStrategy,
    old: &VirtualMachineStatus,
    status: &VirtualMachineStatus,
    life: Life,
) -> Option<Duration> {
    let instance = observed.instance?;
    let known = instance.status.as_ref();
    let phase = known
        .and_then(|status| status.phase)
        .unwrap_or(Phase::Pending);
    if life == Life::Leaving {
        let since = match phase {
            Phase::Running => instance.metadata.deletion_timestamp.as_ref(),
            // Of a machine that is to stay stopped, it is told together with that its instance is gone.
            _ if phase.is_final() && strategy == RunStrategy::Halted => known?.reached(phase),
            _ => None,
        };
        return clock::left(since?, QUICK_END, &observed.now);
    }
    let starting = matches!(phase, Phase::Pending | Phase::Scheduling | Phase::Scheduled);
    if life != Life::Live || !starting || !old.conditions.is_empty() {
        return None;
    }
    if status::tells_of_trouble(status) {
        return None;
    }
    let since = instance.metadata.creation_timestamp.as_ref()?;
    clock::left(since, observed.progress_delay, &observed.now)
}

/// A machine that is being deleted: its instance goes first, then its finalizer.
fn leave(observed: &Observed<'_>, strategy: RunStrategy) -> Plan {
    let vm = observed.vm;
    let old = vm.status.clone().unwrap_or_default();
    let orphan = vm
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == ORPHAN_FINALIZER);
    let Some(instance) = observed.instance.filter(|_| !orphan) else {
        return Plan {
            release: holds(vm),
            ..Plan::default()
        };
    };
    let mut plan = Plan::default();
    if instance.metadata.deletion_timestamp.is_none() {
        plan.delete = true;
        plan.notes.push(deletion_note(Some(instance)));
    }
    let remembered = Remembered {
        requests: old.state_change_requests.clone(),
        failure: old.start_failure.clone(),
        restart: None,
        unstarted: false,
    };
    let status = status::of(observed, strategy, remembered);
    // One word suffices for who leaves: each write delays the end.
    if status.printable_status != old.printable_status {
        plan.status = Some(status);
    }
    plan
}

fn holds(vm: &VirtualMachine) -> bool {
    vm.finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

fn deletion_note(instance: Option<&VirtualMachineInstance>) -> Note {
    let uid = instance.and_then(ResourceExt::uid).unwrap_or_default();
    Note::normal(
        reason::SUCCESSFUL_DELETE,
        format!("Stopped the virtual machine by deleting the virtual machine instance {uid}"),
    )
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
