//! Which of QEMU's threads does the input and output of which disk.
//!
//! Only virtio disks can have threads of their own. How many there are follows from the policy, the
//! disks and the virtual processors, as in KubeVirt.

use super::disks::{DiskBus, MachineDisk};
use crate::field::{FieldError, word};
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

/// Threads for input and output that a machine has at most.
pub const MAXIMUM_IO_THREADS: usize = 64;

words! {
    /// How disks that have no thread to themselves share threads.
    IoThreadsPolicy {
        /// All have one.
        Shared = "shared",
        /// Each has one, up to two for each virtual processor in all.
        Auto = "auto",
        /// They have as many as `ioThreads.supplementalPoolThreadCount` says.
        SupplementalPool = "supplementalPool",
    }
}

/// The threads of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoThreads {
    /// How many there are.
    pub count: usize,
    /// The thread of each disk, from 0, in the order of the disks; `None` is QEMU's main loop.
    pub of_disks: Vec<Option<usize>>,
}

/// The threads of the machine of `spec`, which has these disks and `vcpus` virtual processors.
pub fn io_threads(
    spec: &VirtualMachineInstanceSpec,
    disks: &[MachineDisk<'_>],
    vcpus: u32,
) -> Result<IoThreads, FieldError> {
    let policy = spec.domain.io_threads_policy.as_deref();
    let policy: Option<IoThreadsPolicy> = word(|| "domain.ioThreadsPolicy".to_owned(), policy)?;
    let pool = spec
        .domain
        .io_threads
        .as_ref()
        .and_then(|threads| threads.supplemental_pool_thread_count);
    let takes_part = |disk: &&MachineDisk<'_>| disk.bus == DiskBus::Virtio;
    let is_alone = |disk: &&MachineDisk<'_>| disk.dedicated_io_thread;
    let alone = disks.iter().filter(takes_part).filter(is_alone).count();
    if policy.is_none() && alone == 0 {
        return Ok(IoThreads {
            count: 0,
            of_disks: vec![None; disks.len()],
        });
    }
    let sharing = disks.iter().filter(takes_part).count() - alone;
    let shared = match policy {
        None | Some(IoThreadsPolicy::Shared) => 1,
        Some(IoThreadsPolicy::Auto) => {
            let most = usize::try_from(vcpus)
                .unwrap_or(usize::MAX)
                .saturating_mul(2);
            sharing.min(most.saturating_sub(alone)).max(1)
        }
        Some(IoThreadsPolicy::SupplementalPool) => match pool {
            Some(count) if count > 0 => usize::try_from(count).unwrap_or(usize::MAX),
            _ => {
                return Err(FieldError::new(
                    "domain.ioThreads.supplementalPoolThreadCount",
                    "ioThreadsPolicy supplementalPool needs the number of its threads, at least 1",
                ));
            }
        },
    };
    let count = shared.saturating_add(alone);
    if count > MAXIMUM_IO_THREADS {
        let path = match policy {
            Some(IoThreadsPolicy::SupplementalPool) => {
                "domain.ioThreads.supplementalPoolThreadCount"
            }
            _ => "domain.ioThreadsPolicy",
        };
        let message = format!(
            "{count} threads for input and output: a machine has at most {MAXIMUM_IO_THREADS}"
        );
        return Err(FieldError::new(path, message));
    }
    let (mut next_shared, mut next_alone) = ((0..shared).cycle(), shared..);
    let of_disks = disks.iter().map(|disk| {
        if !takes_part(&disk) {
            None
        } else if disk.dedicated_io_thread {
            next_alone.next()
        } else {
            next_shared.next()
        }
    });
    Ok(IoThreads {
        of_disks: of_disks.collect(),
        count,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::machine;

    /// Of five disks: alone, shared, on SATA, shared, shared.
    fn of(domain: Value, vcpus: u32) -> Result<(usize, Vec<Option<usize>>), String> {
        let virtio = |name: &str| json!({ "name": name, "disk": { "bus": "virtio" } });
        let mut alone = virtio("a");
        alone["dedicatedIOThread"] = domain["alone"].as_bool().unwrap_or(true).into();
        let volume = |name: &str| json!({ "name": name, "emptyDisk": { "capacity": "1Gi" } });
        let disks = [
            alone,
            virtio("b"),
            json!({ "name": "c" }),
            virtio("d"),
            virtio("e"),
        ];
        let volumes = ["a", "b", "c", "d", "e"].map(volume);
        let mut spec = json!({ "domain": { "devices": { "disks": disks } }, "volumes": volumes });
        for field in ["ioThreadsPolicy", "ioThreads"] {
            if !domain[field].is_null() {
                spec["domain"][field] = domain[field].clone();
            }
        }
        let spec = serde_json::from_value(spec).unwrap();
        let threads = io_threads(&spec, &machine::disks(&spec).unwrap(), vcpus);
        threads
            .map(|threads| (threads.count, threads.of_disks))
            .map_err(|error| error.path)
    }

    #[test]
    fn threads_follow_from_the_policy() {
        let policy = |policy: &str| json!({ "ioThreadsPolicy": policy });
        let shared = vec![Some(1), Some(0), None, Some(0), Some(0)];
        assert_eq!(of(json!({}), 4), Ok((2, shared.clone())));
        assert_eq!(of(policy("shared"), 4), Ok((2, shared.clone())));
        assert_eq!(of(policy("auto"), 1), Ok((2, shared)));
        let auto = vec![Some(3), Some(0), None, Some(1), Some(2)];
        assert_eq!(of(policy("auto"), 4), Ok((4, auto)));
        let pool = json!({
            "ioThreadsPolicy": "supplementalPool", "ioThreads": { "supplementalPoolThreadCount": 2 },
        });
        let in_pool = vec![Some(2), Some(0), None, Some(1), Some(0)];
        assert_eq!(of(pool, 1), Ok((3, in_pool)));
        assert_eq!(of(json!({ "alone": false }), 4), Ok((0, vec![None; 5])));
    }

    #[test]
    fn there_are_not_more_than_a_machine_can_have() {
        let pool = |count: Value| json!({ "ioThreadsPolicy": "supplementalPool", "ioThreads": { "supplementalPoolThreadCount": count } });
        let path = "domain.ioThreads.supplementalPoolThreadCount".to_owned();
        for count in [json!(0), json!(null), json!(64), json!(u32::MAX)] {
            assert_eq!(of(pool(count), 1), Err(path.clone()));
        }
        let path = "domain.ioThreadsPolicy".to_owned();
        assert_eq!(of(json!({ "ioThreadsPolicy": "some" }), 1), Err(path));
    }
}
