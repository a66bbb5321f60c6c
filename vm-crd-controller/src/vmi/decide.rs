//! What is to be done about an instance: a pure function from what is observed to a [`Plan`].
//!
//! *Expected flow*: no pod → one is made; the pod's progress → phase and conditions; a final
//! phase → the pod goes; deletion → the pod goes, then the finalizer.
//! *Guarantees*: a plan without effects when nothing is to be said or done; a start that goes well
//! stays unreported until the guest runs or the progress delay is over, so that it costs one
//! write; what goes wrong is reported at once.
//! *Assumptions*: the pod observed is the instance's own (its name follows from the UID).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use vm_api::v1::{Phase, VirtualMachineInstance, VirtualMachineInstanceStatus};

use super::ASK_ANNOTATION;
use super::notes;
use super::obstacle::Obstacle;
use super::phase::{self, Seen};
use super::pod::{self, Complaint, Progress};
use super::resize::{self, Change};
use super::status;
use crate::ask::Told;
use crate::clock;
use crate::events::Note;

/// How long after a verb of the subresource API its effect on the status may take.
const ASKED: Duration = Duration::from_secs(60);

/// The finalizer that keeps an instance until its pod is gone; KubeVirt's name.
pub(crate) const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// Bounds of the pause between two looks at an instance that cannot get a pod, or whose pod does not
/// get on, when no watch would tell.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// How long the end of a guest stays unreported, so that a quick one costs one write. Times of the API
/// are whole seconds: it is one second at least.
pub(crate) const QUICK_END: Duration = Duration::from_secs(2);

/// What is known when deciding.
#[derive(Clone, Debug)]
pub(super) struct Observed<'a> {
    /// The instance.
    pub(super) instance: &'a VirtualMachineInstance,
    /// Its pod.
    pub(super) pod: Option<&'a Pod>,
    /// Why it cannot get a pod, if that was tried.
    pub(super) obstacle: Option<&'a Obstacle>,
    /// What kubelet complains about while the pod does not get on.
    pub(super) complaint: Option<&'a Complaint>,
    /// The node emulates processors in software.
    pub(super) emulated: bool,
    /// What the machine told, if it was asked.
    pub(super) told: Option<&'a Told>,
    /// Why the API server refuses another size of the pod.
    pub(super) resize_refused: Option<&'a str>,
    /// Now, in whole seconds as the API has it.
    pub(super) now: Time,
    /// How long a start that goes well stays unreported.
    pub(super) progress_delay: Duration,
}

impl Observed<'_> {
    /// What the machine lacks of what its spec asks for.
    pub(super) fn change(&self) -> Option<Change> {
        resize::change(self.instance, self.pod?)
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The status to write.
    pub(super) status: Option<VirtualMachineInstanceStatus>,
    /// The pod is to be deleted.
    pub(super) delete_pod: bool,
    /// The finalizer is to be set.
    pub(super) hold: bool,
    /// The finalizer is to be taken away.
    pub(super) release: bool,
    /// What to tell, once that is done.
    pub(super) notes: Vec<Note>,
    /// When to look again, if nothing happens before.
    pub(super) again: Option<Duration>,
}

/// Whether an instance in that state is to get a pod.
pub(super) fn wants_pod(instance: &VirtualMachineInstance, pod: Option<&Pod>) -> bool {
    pod.is_none()
        && instance.metadata.deletion_timestamp.is_none()
        && matches!(current_phase(instance), Phase::Pending | Phase::Unknown)
}

/// Whether what follows from there being no pod could do harm if there is one after all.
pub(super) fn must_be_gone(instance: &VirtualMachineInstance) -> bool {
    let phase = current_phase(instance);
    let had_one = matches!(phase, Phase::Scheduling | Phase::Scheduled | Phase::Running);
    had_one || instance.metadata.deletion_timestamp.is_some()
}

/// The phase that an instance is in; one that nobody looked at is Pending.
pub(super) fn current_phase(instance: &VirtualMachineInstance) -> Phase {
    instance
        .status
        .as_ref()
        .and_then(|status| status.phase)
        .unwrap_or(Phase::Pending)
}

/// What is to be done about an instance.
pub(super) fn decide(observed: &Observed<'_>) -> Plan {
    let instance = observed.instance;
    let deleting = instance.metadata.deletion_timestamp.is_some();
    let seen = seen(observed.pod);
    let before = current_phase(instance);
    let after = phase::next(before, &seen, deleting);

    let mut plan = Plan {
        hold: !deleting && !holds(instance),
        delete_pod: wants_deletion(after, deleting, observed.pod),
        ..Plan::default()
    };
    if deleting && observed.pod.is_none() && before.is_final() {
        plan.release = holds(instance);
        return plan;
    }

    let status = status::of(observed, after, &seen);
    let old = instance.status.clone().unwrap_or_default();
    plan.again = again(observed, after, &seen);
    if status == old {
        return plan;
    }
    if let Some(wait) = quiet_for(observed, after, &status) {
        plan.again = Some(plan.again.map_or(wait, |again| again.min(wait)));
        return plan;
    }
    plan.notes = notes::of(before, after, &old, &status, &seen, asked_lately(observed));
    plan.status = Some(status::with_versions(status, observed));
    plan
}

/// Whether the subresource API did something to the machine lately.
fn asked_lately(observed: &Observed<'_>) -> bool {
    let when = observed.instance.annotations().get(ASK_ANNOTATION);
    let when = when.and_then(|when| when.parse().ok().map(Time));
    when.is_some_and(|when| clock::left(&when, ASKED, &observed.now).is_some())
}

fn seen(pod: Option<&Pod>) -> Seen {
    pod.map_or(Seen::NoPod, |pod| Seen::Pod {
        progress: pod::progress(pod),
        terminating: pod::is_terminating(pod),
    })
}

fn holds(instance: &VirtualMachineInstance) -> bool {
    instance
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// A pod goes with its instance, and never outlives its guest's end by running on. The pod of a
/// guest that ended stays until the instance goes: its log is the guest's last word.
fn wants_deletion(after: Phase, deleting: bool, pod: Option<&Pod>) -> bool {
    let Some(pod) = pod.filter(|pod| !pod::is_terminating(pod)) else {
        return false;
    };
    let guest_runs = matches!(pod::progress(pod), Progress::Running(_));
    deleting || (after.is_final() && guest_runs)
}

/// How long a status may still wait because it only tells that a start goes well.
fn quiet_for(
    observed: &Observed<'_>,
    after: Phase,
    status: &VirtualMachineInstanceStatus,
) -> Option<Duration> {
    if after == Phase::Running {
        return ending_for(observed);
    }
    let started = matches!(after, Phase::Pending | Phase::Scheduling | Phase::Scheduled);
    if !started || observed.instance.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if status::tells_of_trouble(status) {
        return None;
    }
    let told = observed
        .instance
        .status
        .as_ref()
        .is_some_and(|old| !old.conditions.is_empty());
    if told {
        return None;
    }
    let since = observed.instance.metadata.creation_timestamp.as_ref()?;
    clock::left(since, observed.progress_delay, &observed.now)
}

/// How long the status of a running guest may still wait because its end is near.
fn ending_for(observed: &Observed<'_>) -> Option<Duration> {
    let metadata = &observed.pod?.metadata;
    let until = metadata.deletion_timestamp.as_ref()?;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0);
    let since = clock::before(until, u32::try_from(grace).unwrap_or(0));
    QUICK_END
        .checked_sub(clock::between(&since, &observed.now))
        .filter(|left| !left.is_zero())
}

/// When to look again at what no watch tells of.
fn again(observed: &Observed<'_>, after: Phase, seen: &Seen) -> Option<Duration> {
    let pause = |since: Option<&Time>| {
        let age = clock::between(since?, &observed.now);
        Some((age / 2).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1))
    };
    if observed.obstacle.is_some() {
        return pause(observed.instance.metadata.creation_timestamp.as_ref());
    }
    if observed.resize_refused.is_some() {
        return Some(LOOK_AGAIN.1);
    }
    match (seen, observed.pod) {
        (
            Seen::Pod {
                progress: Progress::Starting,
                terminating: false,
            },
            Some(pod),
        ) if !after.is_final() => pause(pod.metadata.creation_timestamp.as_ref()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
