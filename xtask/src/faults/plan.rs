//! What a round does. A seed and a number make the same round each time.

use std::time::Duration;

use crate::cluster::Node;

/// What machine is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// One that has nothing but its image.
    Plain,
    /// One that has a claim's disk open for writing.
    Disk,
    /// One with a shared directory.
    Directory,
}

/// When in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Creating,
    Running,
    Deleting,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    KillShim,
    KillQemu,
    KillVirtiofsd,
    KillRunc,
    KillContainerd,
    KillKubelet,
    RestartContainerd,
    RestartKubelet,
    StopQemu,
    PowerCut,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::KillShim,
        Self::KillQemu,
        Self::KillVirtiofsd,
        Self::KillRunc,
        Self::KillContainerd,
        Self::KillKubelet,
        Self::RestartContainerd,
        Self::RestartKubelet,
        Self::StopQemu,
        Self::PowerCut,
    ];

    /// Whether there is such a fault at that time of such a machine.
    fn exists(self, workload: Workload, phase: Phase) -> bool {
        match self {
            Self::KillVirtiofsd => workload == Workload::Directory,
            // It runs for moments only.
            Self::KillRunc => phase != Phase::Running,
            // There is no telling what a machine that was never started would have done.
            Self::StopQemu => phase == Phase::Running,
            _ => true,
        }
    }

    /// The daemon that ends and comes back, if it is one.
    pub(super) fn daemon(self) -> Option<&'static str> {
        match self {
            Self::KillContainerd | Self::RestartContainerd => Some("containerd"),
            Self::KillKubelet | Self::RestartKubelet => Some("kubelet"),
            _ => None,
        }
    }

    /// Whether a running machine of this node outlives it.
    pub(super) fn is_survived(self) -> bool {
        self.daemon().is_some() || self == Self::KillRunc
    }
}

/// The longest times from the pod's making, the guest's first words and `kubectl delete` to the fault: a
/// bit more than the machine's own way takes on an idle machine.
const TO_CREATE: Duration = Duration::from_millis(2500);
const TO_DELETE: Duration = Duration::from_millis(2000);
const IN_RUNNING: Duration = Duration::from_millis(500);

/// One round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) node: Node,
    pub(super) workload: Workload,
    pub(super) phase: Phase,
    /// From the beginning of the phase to the fault.
    pub(super) delay: Duration,
    pub(super) fault: Fault,
}

impl Plan {
    /// The round `number` of `seed`. The nodes take turns, and each gets every kind of round once before
    /// it gets one again.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut kinds: Vec<_> = kinds().collect();
        let deck = (number / 2) / kinds.len() as u64;
        let place = (number / 2) % kinds.len() as u64;
        let node = number % 2;
        // Neighbouring seeds are nothing alike to this generator.
        let seed = seed.rotate_left(32);
        fastrand::Rng::with_seed(seed ^ (deck * 2 + node)).shuffle(&mut kinds);
        let (workload, phase, fault) = kinds[place as usize];
        let longest = match phase {
            Phase::Creating => TO_CREATE,
            Phase::Running => IN_RUNNING,
            Phase::Deleting => TO_DELETE,
        };
        let delay = longest.mul_f64(fastrand::Rng::with_seed(!seed ^ number).f64());
        Self {
            number,
            node: Node::ALL[node as usize],
            workload,
            phase,
            delay,
            fault,
        }
    }
}

/// All kinds of rounds.
fn kinds() -> impl Iterator<Item = (Workload, Phase, Fault)> {
    let workloads = [Workload::Plain, Workload::Disk, Workload::Directory];
    let phases = [Phase::Creating, Phase::Running, Phase::Deleting];
    let moments = workloads
        .into_iter()
        .flat_map(move |workload| phases.map(move |phase| (workload, phase)));
    moments.flat_map(|(workload, phase)| {
        let faults = Fault::ALL.into_iter();
        faults
            .filter(move |fault| fault.exists(workload, phase))
            .map(move |fault| (workload, phase, fault))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn plans(seed: u64, count: u64) -> impl Iterator<Item = Plan> {
        (0..count).map(move |number| Plan::new(seed, number))
    }

    #[test]
    fn a_seed_repeats_and_reaches_everything() {
        assert!(plans(7, 200).eq(plans(7, 200)));
        assert!(!plans(7, 200).eq(plans(8, 200)));
        // Each workload has each fault at three moments, but for runc at two and a stopped QEMU at
        // one; virtiofsd belongs to one workload.
        let all = kinds().count();
        assert_eq!(all, 3 * (7 * 3 + 2 + 1) + 3);
        let reached: HashSet<_> = plans(7, 2 * all as u64)
            .map(|plan| {
                assert!(plan.delay <= TO_CREATE);
                let Plan {
                    node,
                    workload,
                    phase,
                    fault,
                    ..
                } = plan;
                format!("{node:?} {workload:?} {phase:?} {fault:?}")
            })
            .collect();
        assert_eq!(reached.len(), 2 * all);
    }

    #[test]
    fn the_rounds_of_the_test_suite_have_every_fault() {
        let plans: Vec<_> = plans(crate::faults::SUITE.seed, crate::faults::SUITE.rounds).collect();
        for fault in Fault::ALL {
            assert!(plans.iter().any(|it| it.fault == fault), "{fault:?}");
        }
        let with_disk = |it: &&Plan| it.workload == Workload::Disk && it.fault == Fault::KillShim;
        assert!(plans.iter().find(with_disk).is_some());
    }
}
