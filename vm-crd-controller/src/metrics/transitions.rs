//! How long instances take from phase to phase: KubeVirt's three histograms, counted when a status is
//! written. Times are those of the status, in whole seconds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use vm_api::v1::{PhaseTransitionTimestamp, VirtualMachineInstanceStatus};

use crate::clock;

/// Upper bounds of the durations, in seconds; KubeVirt's own, so that its queries work.
const BUCKETS: [f64; 18] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0,
    1200.0, 1800.0, 3600.0,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Step {
    phase: &'static str,
    last_phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reached {
    phase: &'static str,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// The histograms; a clone counts into the same.
#[derive(Clone)]
pub struct Transitions {
    steps: Family<Step, Histogram, Buckets>,
    from_creation: Family<Reached, Histogram, Buckets>,
    from_deletion: Family<Reached, Histogram, Buckets>,
}

impl Transitions {
    /// Empty histograms, exported by `registry`.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            steps: Family::new_with_constructor(Buckets),
            from_creation: Family::new_with_constructor(Buckets),
            from_deletion: Family::new_with_constructor(Buckets),
        };
        registry.register(
            "kubevirt_vmi_phase_transition_time_seconds",
            "Time that instances spent in a phase before the next",
            new.steps.clone(),
        );
        registry.register(
            "kubevirt_vmi_phase_transition_time_from_creation_seconds",
            "Time from an instance's creation to a phase",
            new.from_creation.clone(),
        );
        registry.register(
            "kubevirt_vmi_phase_transition_time_from_deletion_seconds",
            "Time from an instance's deletion to its final phase",
            new.from_deletion.clone(),
        );
        new
    }

    /// Counts the phases that `new` tells of and `old` does not.
    pub fn count(
        &self,
        metadata: &ObjectMeta,
        old: Option<&VirtualMachineInstanceStatus>,
        new: &VirtualMachineInstanceStatus,
    ) {
        let known = old.map_or(0, |old| old.phase_transition_timestamps.len());
        let all = &new.phase_transition_timestamps;
        for (index, reached) in all.iter().enumerate().skip(known) {
            let Some((phase, at)) = parts(reached) else {
                continue;
            };
            if let Some(created) = &metadata.creation_timestamp {
                let family = self.from_creation.get_or_create(&Reached { phase });
                family.observe(seconds(created, at));
            }
            let before = index.checked_sub(1).and_then(|before| parts(&all[before]));
            if let Some((last_phase, since)) = before {
                let step = Step { phase, last_phase };
                let family = self.steps.get_or_create(&step);
                family.observe(seconds(since, at));
            }
            let is_final = reached.phase.is_some_and(vm_api::v1::Phase::is_final);
            if let Some(deleted) = metadata.deletion_timestamp.as_ref().filter(|_| is_final) {
                let family = self.from_deletion.get_or_create(&Reached { phase });
                family.observe(seconds(deleted, at));
            }
        }
    }
}

fn parts(entry: &PhaseTransitionTimestamp) -> Option<(&'static str, &Time)> {
    let time = entry.phase_transition_timestamp.as_ref()?;
    Some((entry.phase?.as_str(), time))
}

fn seconds(earlier: &Time, later: &Time) -> f64 {
    clock::between(earlier, later).as_secs_f64()
}
