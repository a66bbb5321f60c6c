//! How large a machine is, and what that means for its start.

use std::time::Duration;

use qemu_driver::Machine;
use qemu_driver::qmp::QmpError;

use super::LaunchError;

/// Time for each GiB that QEMU clears (huge pages) or locks (devices of the node) before it answers.
/// One processor clears a GiB in some 0.2 s, and the kernel locks its 262144 pages in as much; the rest
/// is for a node under pressure.
const PER_GIB: Duration = Duration::from_secs(1);

/// What a machine starts with, and what it can grow to while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// vCPUs at the start.
    pub vcpus: u32,
    /// The most vCPUs.
    pub max_vcpus: u32,
    /// Bytes of guest memory at the start.
    pub memory_bytes: u64,
    /// The most bytes of guest memory.
    pub max_memory_bytes: u64,
    /// Whether the memory is in huge pages, and stays as it is.
    pub hugepages: bool,
    /// Whether the memory is locked for devices of the node: what the guest's balloon takes is not
    /// returned then, and only what was added can be taken away.
    pub locked: bool,
    /// Whether the guest has a balloon, by which it returns memory.
    pub balloon: bool,
}

impl Size {
    pub(super) fn of(machine: &Machine) -> Self {
        Self {
            vcpus: machine.cpu().vcpus(),
            max_vcpus: machine.cpu().max_vcpus(),
            memory_bytes: machine.memory().bytes(),
            max_memory_bytes: machine.max_memory_bytes(),
            hugepages: machine.has_hugepages(),
            locked: machine.locks_memory(),
            balloon: machine.has_balloon(),
        }
    }

    /// How much longer than others its QEMU may take before it answers.
    pub(super) fn time_before_start(self) -> Duration {
        match self.work_before_start() {
            Some(_) => PER_GIB.saturating_mul(self.gib()),
            None => Duration::ZERO,
        }
    }

    /// Why its QEMU, which has `said` so much, did not get ready.
    pub(super) fn not_ready(self, error: QmpError, said: Vec<String>) -> LaunchError {
        match (error, self.work_before_start()) {
            (QmpError::TimeOut { bound, .. }, Some(work)) => {
                let bytes = self.memory_bytes;
                LaunchError::Slow { work, bytes, bound }
            }
            (error, _) => LaunchError::Qemu { error, said },
        }
    }

    /// What its QEMU does with all of the memory before it answers.
    fn work_before_start(self) -> Option<&'static str> {
        match self {
            Self { locked: true, .. } => Some("locks the guest's memory for devices of the node"),
            Self {
                hugepages: true, ..
            } => Some("clears the guest's huge pages"),
            _ => None,
        }
    }

    fn gib(self) -> u32 {
        u32::try_from(self.memory_bytes.div_ceil(1 << 30)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(hugepages: bool, locked: bool) -> Size {
        Size {
            vcpus: 1,
            max_vcpus: 1,
            memory_bytes: (64 << 30) + 1,
            max_memory_bytes: 128 << 30,
            hugepages,
            locked,
            balloon: true,
        }
    }

    #[test]
    fn memory_that_is_cleared_or_locked_takes_its_time() {
        for (hugepages, locked, seconds, words) in [
            (false, false, 0, "QEMU did not answer greeting within 20s"),
            (true, false, 65, "clears the guest's huge pages, 65536 MiB"),
            (false, true, 65, "locks the guest's memory for devices of"),
            (true, true, 65, "locks the guest's memory for devices of"),
        ] {
            let size = size(hugepages, locked);
            assert_eq!(size.time_before_start(), Duration::from_secs(seconds));
            let (command, bound) = ("greeting", Duration::from_secs(20));
            let error = size.not_ready(QmpError::TimeOut { command, bound }, vec![]);
            assert!(error.to_string().contains(words), "{error}");
        }
        let error = QmpError::Closed {
            command: "greeting",
        };
        let error = size(true, true).not_ready(error, vec!["no".into()]);
        assert!(error.to_string().contains("it said: no"), "{error}");
    }
}
