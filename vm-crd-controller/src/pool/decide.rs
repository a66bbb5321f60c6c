//! What is to be done about a pool: a pure function from what is observed to a [`Plan`].
//!
//! *Expected flow*: machines that fail to start go, if the pool heals; then their number is set
//! right; then machines of an old template are changed; then, unless the pool says otherwise, their
//! guests are restarted, so many at a time. One comes after the other. *Guarantees*: nothing is done
//! while it is paused or being deleted; no more guests are away for a restart than the pool allows.
//! *Assumptions*: the machines are the pool's own.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use vm_api::pool::{Autohealing, SelectionPolicy, VirtualMachinePool, VirtualMachinePoolSpec};
use vm_api::v1::{PrintableStatus, RunStrategy, VirtualMachine, VirtualMachineInstance};

use super::child::{self, REVISION_LABEL};
use super::select::select;
use crate::clock;
use crate::conditions::{find, is_true, kind};
use crate::replicas::Counts;

/// Machines that are made or deleted at once, at most.
const BURST: usize = 500;

/// Failed starts in a row after which a machine is replaced, where a pool does not say; KubeVirt's.
const FAILED_STARTS: u32 = 3;

/// A machine of the pool and its instance.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    /// The machine.
    pub(super) vm: &'a VirtualMachine,
    /// Its instance.
    pub(super) instance: Option<&'a VirtualMachineInstance>,
    /// It was changed or restarted a moment ago, and what is seen of it is from before.
    pub(super) is_busy: bool,
}

/// What is known when deciding.
pub(super) struct Observed<'a> {
    /// The pool.
    pub(super) pool: &'a VirtualMachinePool,
    /// How many machines there are to be.
    pub(super) wanted: usize,
    /// Whether anything may be done.
    pub(super) acts: bool,
    /// Its machines.
    pub(super) members: &'a [Member<'a>],
    /// How many were made that no watch has shown yet.
    pub(super) coming: usize,
    /// Now.
    pub(super) now: Time,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// So many machines are to be made.
    pub(super) create: usize,
    /// These are to be deleted.
    pub(super) delete: Vec<&'a VirtualMachine>,
    /// These are to become what the template now says.
    pub(super) update: Vec<&'a VirtualMachine>,
    /// The guests of these are to be restarted.
    pub(super) restart: Vec<Member<'a>>,
    /// What the status says.
    pub(super) counts: Counts,
    /// When to look again, if nothing happens before.
    pub(super) again: Option<Duration>,
}

/// What is to be done about a pool.
pub(super) fn decide<'a>(observed: &Observed<'a>) -> Plan<'a> {
    let members = observed.members;
    let ready = |member: &&Member<'_>| is_ready(member.vm);
    let mut plan = Plan {
        counts: Counts {
            replicas: members.len(),
            ready: members.iter().filter(ready).count(),
        },
        ..Plan::default()
    };
    if !observed.acts {
        return plan;
    }
    let staying: Vec<_> = members
        .iter()
        .filter(|member| !is_leaving(member.vm))
        .copied()
        .collect();
    let spec = &observed.pool.spec;
    if let Some(healing) = &spec.autohealing {
        let (failing, again) = failing(&staying, spec, healing, &observed.now);
        plan.again = again;
        if !failing.is_empty() {
            plan.delete = failing;
            return plan;
        }
    }
    let there = members.len() + observed.coming;
    if there < observed.wanted {
        plan.create = (observed.wanted - there).min(BURST);
        return plan;
    }
    if members.len() > observed.wanted {
        let leaving = members.len() - staying.len();
        let excess = (members.len() - observed.wanted).saturating_sub(leaving);
        plan.delete = scale_in(spec, &staying, excess.min(BURST));
        if !plan.delete.is_empty() {
            return plan;
        }
    }
    update(observed, &staying, &mut plan);
    plan
}

fn is_leaving(vm: &VirtualMachine) -> bool {
    vm.metadata.deletion_timestamp.is_some()
}

fn is_ready(vm: &VirtualMachine) -> bool {
    let status = vm.status.as_ref();
    status.is_some_and(|status| is_true(&status.conditions, kind::READY))
}

/// The machines that go because there are too many; none unless the pool deletes by itself.
fn scale_in<'a>(
    spec: &VirtualMachinePoolSpec,
    staying: &[Member<'a>],
    excess: usize,
) -> Vec<&'a VirtualMachine> {
    let strategy = spec.scale_in_strategy.as_ref();
    let by_itself = strategy
        .is_none_or(|strategy| strategy.unmanaged.is_none() && strategy.opportunistic.is_none());
    if !by_itself || excess == 0 {
        return Vec::new();
    }
    let policy = strategy
        .and_then(|strategy| strategy.proactive.as_ref())
        .and_then(|proactive| proactive.selection_policy.as_ref());
    let mut selected = select(staying.iter().map(|member| member.vm).collect(), policy);
    selected.truncate(excess);
    selected
}

fn update<'a>(observed: &Observed<'a>, staying: &[Member<'a>], plan: &mut Plan<'a>) {
    let spec = &observed.pool.spec;
    let strategy = spec.update_strategy.as_ref();
    if strategy.is_some_and(|strategy| strategy.unmanaged.is_some()) {
        return;
    }
    let policy = strategy
        .and_then(|strategy| strategy.proactive.as_ref())
        .and_then(|proactive| proactive.selection_policy.as_ref());
    let revision = child::revision(observed.pool);
    let current = |vm: &VirtualMachine| vm.labels().get(REVISION_LABEL) == Some(&revision);
    let machines = staying.iter().map(|member| member.vm);
    plan.update = select(machines.filter(|vm| !current(vm)).collect(), policy);
    if strategy.is_none_or(|strategy| strategy.opportunistic.is_none()) {
        plan.restart = restarts(spec, staying, policy, current);
    }
}

/// The guests that run what an old template said, as many as may be away.
fn restarts<'a>(
    spec: &VirtualMachinePoolSpec,
    staying: &[Member<'a>],
    policy: Option<&SelectionPolicy>,
    current: impl Fn(&VirtualMachine) -> bool,
) -> Vec<Member<'a>> {
    let away = staying
        .iter()
        .filter(|member| is_expected(member.vm) && is_away(member))
        .count();
    let allowed = spec.max_unavailable(staying.len()).unwrap_or(1);
    let mut left = allowed.saturating_sub(away);
    let outdated = |member: &&Member<'_>| current(member.vm) && is_outdated(member);
    let outdated: Vec<_> = staying.iter().filter(outdated).copied().collect();
    let order = select(outdated.iter().map(|member| member.vm).collect(), policy);
    let of_machine: HashMap<_, _> = outdated
        .into_iter()
        .map(|member| (std::ptr::from_ref(member.vm), member))
        .collect();
    order
        .into_iter()
        .filter_map(|vm| of_machine.get(&std::ptr::from_ref(vm)).copied())
        .filter(|member| {
            // One that does not serve can be restarted at any time.
            if is_away(member) {
                return true;
            }
            let may = left > 0;
            left = left.saturating_sub(1);
            may
        })
        .collect()
}

/// Whether the guest does not serve, or is about to go.
fn is_away(member: &Member<'_>) -> bool {
    let status = member.vm.status.as_ref();
    let stops = status.is_some_and(|status| !status.state_change_requests.is_empty());
    let goes = member
        .instance
        .is_none_or(|instance| instance.metadata.deletion_timestamp.is_some());
    member.is_busy || stops || goes || !is_ready(member.vm)
}

/// Whether the machine is to run all the time.
fn is_expected(vm: &VirtualMachine) -> bool {
    matches!(
        vm.spec.run_strategy(),
        Ok(RunStrategy::Always | RunStrategy::RerunOnFailure)
    )
}

/// Whether the guest runs what an older template of the pool said: its label tells of which it is,
/// and the machine's status whether that makes a difference.
fn is_outdated(member: &Member<'_>) -> bool {
    let Some(instance) = member.instance else {
        return false;
    };
    let Some(status) = &member.vm.status else {
        return false;
    };
    let label = member.vm.labels().get(REVISION_LABEL);
    !member.is_busy
        && status.state_change_requests.is_empty()
        && instance.metadata.deletion_timestamp.is_none()
        && instance.labels().get(REVISION_LABEL) != label
        && status.desired_generation == member.vm.metadata.generation
        && is_true(&status.conditions, kind::RESTART_REQUIRED)
}

/// Machines that fail to start for too long, and when the next one will have.
fn failing<'a>(
    staying: &[Member<'a>],
    spec: &VirtualMachinePoolSpec,
    healing: &Autohealing,
    now: &Time,
) -> (Vec<&'a VirtualMachine>, Option<Duration>) {
    let starts = healing.start_up_failure_threshold.unwrap_or(FAILED_STARTS);
    let limit = spec.failing_for().ok().flatten().map(Duration::from_secs);
    let mut failing = Vec::new();
    let mut again: Option<Duration> = None;
    for member in staying {
        let status = member.vm.status.as_ref();
        let count = status
            .and_then(|status| status.start_failure.as_ref())
            .and_then(|failure| failure.consecutive_fail_count)
            .unwrap_or_default();
        if u32::try_from(count).is_ok_and(|count| count >= starts) {
            failing.push(member.vm);
            continue;
        }
        let Some((limit, since)) = limit.zip(failing_since(member.vm)) else {
            continue;
        };
        match limit.checked_sub(clock::between(since, now)) {
            Some(left) if !left.is_zero() => {
                again = Some(again.map_or(left, |again| again.min(left)));
            }
            _ => failing.push(member.vm),
        }
    }
    (failing, again)
}

/// Since when a machine whose status says that it cannot start has not been ready.
fn failing_since(vm: &VirtualMachine) -> Option<&Time> {
    let status = vm.status.as_ref()?;
    let fails = matches!(
        status.printable_status?,
        PrintableStatus::CrashLoopBackOff
            | PrintableStatus::ErrorUnschedulable
            | PrintableStatus::ErrorPvcNotFound
            | PrintableStatus::ErrImagePull
            | PrintableStatus::ImagePullBackOff
    );
    let ready = find(&status.conditions, kind::READY)?;
    ready
        .last_transition_time
        .as_ref()
        .filter(|_| fails && ready.status == "False")
}

#[cfg(test)]
mod tests;
