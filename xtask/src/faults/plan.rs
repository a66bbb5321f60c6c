//! What a round does. A seed and a number make the same round each time.

use std::time::Duration;

use crate::cluster::Node;

/// What machine is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// One that has nothing but its image.
    Plain,
    /// One that writes to a claim.
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
    /// Each with how often it comes.
    const WEIGHTS: [(Self, u32); 10] = [
        (Self::KillShim, 5),
        (Self::KillQemu, 3),
        (Self::KillVirtiofsd, 2),
        (Self::KillRunc, 3),
        (Self::KillContainerd, 4),
        (Self::KillKubelet, 2),
        (Self::RestartContainerd, 2),
        (Self::RestartKubelet, 1),
        (Self::StopQemu, 1),
        (Self::PowerCut, 1),
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

    /// Whether a running machine of this node outlives it.
    pub(super) fn is_survived(self) -> bool {
        matches!(
            self,
            Self::KillContainerd
                | Self::KillKubelet
                | Self::RestartContainerd
                | Self::RestartKubelet
                | Self::KillRunc
        )
    }
}

/// The longest times from `kubectl apply` and from `kubectl delete` to the fault: a bit more than the
/// machine's own way takes on an idle machine.
const TO_CREATE: Duration = Duration::from_millis(2500);
const TO_DELETE: Duration = Duration::from_millis(2000);
const TO_RUN: Duration = Duration::from_millis(500);

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
    /// The round `number` of `seed`. The nodes take turns.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        // Neighbouring seeds are nothing alike to this generator.
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(32) ^ number);
        let workload = [Workload::Plain, Workload::Disk, Workload::Directory][random.usize(..3)];
        let phase = [Phase::Creating, Phase::Running, Phase::Deleting][random.usize(..3)];
        let faults: Vec<_> = Fault::WEIGHTS
            .into_iter()
            .filter(|(fault, _)| fault.exists(workload, phase))
            .flat_map(|(fault, weight)| std::iter::repeat_n(fault, weight as usize))
            .collect();
        let longest = match phase {
            Phase::Creating => TO_CREATE,
            Phase::Running => TO_RUN,
            Phase::Deleting => TO_DELETE,
        };
        Self {
            number,
            node: Node::ALL[usize::from(!number.is_multiple_of(2))],
            workload,
            phase,
            delay: longest.mul_f64(random.f64()),
            fault: faults[random.usize(..faults.len())],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_repeats_and_reaches_everything() {
        let plans = |seed| (0..1000).map(move |number| Plan::new(seed, number));
        assert!(plans(7).eq(plans(7)));
        assert!(!plans(7).eq(plans(8)));
        let mut kinds = HashSet::new();
        for plan in plans(7) {
            assert!(plan.fault.exists(plan.workload, plan.phase), "{plan:?}");
            assert!(plan.delay <= TO_CREATE);
            kinds.insert(format!("{:?} {:?}", plan.fault, plan.phase));
        }
        // All but what does not exist: three moments each, runc two of them, a stopped QEMU one.
        assert_eq!(kinds.len(), 10 * 3 - 1 - 2);
    }
}
