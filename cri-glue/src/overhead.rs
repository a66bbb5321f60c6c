//! What QEMU needs beside the guest's memory and processors, and whether the pod has it.
//!
//! The container's limit is the guest's; QEMU's own need comes on top of it and is in the pod's
//! limit as the overhead of its RuntimeClass. A container can never use more than its pod, so a
//! pod without that overhead is refused before it is killed for want of memory. What programs beside
//! QEMU need is added as far as the pod has it, since they seldom need all of it.

use oci_spec::runtime::LinuxResources;
use qemu_driver::machine::Accelerator;
use vm_api::machine::Beside;

/// QEMU's own memory: heap, device models, stacks, and the kernel's for it. Measured with a guest
/// that touches all its memory: 24 to 28 MiB that cannot be reclaimed. The rest is for the caches of
/// large qcow2 disks and the page tables of large guests, and for the moment when firmware and kernel
/// place the devices: each step makes a new map of the guest's addresses, and the old ones are freed
/// late, the later the busier the node is. A guest with one disk makes 1,100, by QEMU's own trace; 30 MiB
/// were seen on an idle node after a reset, 90 on a busy one. What many devices may need beyond that is in
/// the limit of the controller's pods.
const MEMORY_BYTES: u64 = 112 << 20;

/// More with emulation: the cache of translated code, 64 MiB by QEMU's arguments, and its index.
const EMULATION_BYTES: u64 = 112 << 20;

/// Bytes of an ordinary page.
const PAGE: u64 = 4096;

/// The share of a processor, in thousandths, for QEMU's threads that are not the guest's
/// processors, so that they never make the guest wait.
const CPU_MILLIS: u64 = 100;

/// What comes on top of the container's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// Memory in bytes, without which no machine is started.
    pub memory_bytes: u64,
    /// More memory in bytes for what runs beside QEMU at its worst: a machine has as much of it as its
    /// pod does.
    pub beside_bytes: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// What the machine runs by.
    pub accelerator: Accelerator,
}

/// The limits of the pod's control group; `None` without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
}

/// Why a machine does not fit into its pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pod's memory limit of {} MiB does not hold the machine container's {} MiB and the {} MiB \
     that QEMU needs{why}: give the RuntimeClass that overhead (overhead.podFixed.memory)",
    pod_bytes >> 20, container_bytes >> 20, overhead_bytes >> 20
)]
pub struct DoesNotFit {
    pod_bytes: u64,
    container_bytes: u64,
    overhead_bytes: u64,
    why: &'static str,
}

impl Overhead {
    /// The overhead of a machine that runs by `accelerator`.
    pub fn of(accelerator: Accelerator) -> Self {
        let emulation = match accelerator {
            Accelerator::Kvm => 0,
            Accelerator::Tcg => EMULATION_BYTES,
        };
        Self {
            memory_bytes: MEMORY_BYTES + emulation,
            beside_bytes: 0,
            cpu_millis: CPU_MILLIS,
            accelerator,
        }
    }

    /// The overhead with `beside`, of a guest that has so many `bytes` of ordinary memory in a
    /// container with these `resources`. Pods that the controller makes have it in their limit, above
    /// the guest's memory.
    pub fn with(self, beside: Beside, bytes: u64, resources: &LinuxResources) -> Self {
        let above = memory_limit(resources).map_or(0, |limit| limit.saturating_sub(bytes));
        let beside_bytes = beside.bytes(bytes / PAGE).saturating_sub(above);
        Self {
            beside_bytes,
            ..self
        }
    }

    /// The overhead, with no more of the processors than a `pod` has beyond the limit of the container.
    ///
    /// A machine that is resized keeps to that: a limit that shrinks is set on the container first and
    /// on the pod later, and cgroup v1 refuses a pod less than one of its containers has.
    pub fn within(self, resources: Option<&LinuxResources>, pod: PodLimits) -> Self {
        let container = resources.and_then(cpu_limit_millis);
        let room = match (pod.cpu_millis, container) {
            (Some(pod), Some(container)) => pod.saturating_sub(container),
            // Both have one, or neither: the pod gets its limit with the container's.
            (None, None) => 0,
            _ => self.cpu_millis,
        };
        Self {
            cpu_millis: self.cpu_millis.min(room),
            ..self
        }
    }

    /// The limits of QEMU's control group: those that the pod gives the machine container and the
    /// overhead, within the limits of the pod.
    pub fn add_to(
        self,
        resources: &LinuxResources,
        pod: PodLimits,
    ) -> Result<LinuxResources, DoesNotFit> {
        let mut raised = resources.clone();
        if let Some(container_bytes) = memory_limit(resources) {
            let limit = container_bytes.saturating_add(self.memory_bytes);
            if let Some(pod_bytes) = pod.memory_bytes.filter(|pod_bytes| *pod_bytes < limit) {
                let why = match self.accelerator {
                    Accelerator::Kvm => "",
                    Accelerator::Tcg => " to emulate a processor, as this node has no KVM",
                };
                let overhead_bytes = self.memory_bytes;
                return Err(DoesNotFit {
                    pod_bytes,
                    container_bytes,
                    overhead_bytes,
                    why,
                });
            }
            let room = pod.memory_bytes.unwrap_or(u64::MAX) - limit;
            let more = self.memory_bytes + self.beside_bytes.min(room);
            raise_memory(&mut raised, more);
        }
        self.raise_cpu(&mut raised, pod.cpu_millis);
        Ok(raised)
    }

    fn raise_cpu(self, resources: &mut LinuxResources, pod_millis: Option<u64>) {
        let Some(cpu) = resources.cpu_mut() else {
            return;
        };
        let Some(millis) = cpu_limit(cpu.quota(), cpu.period()) else {
            return;
        };
        let raised = (millis + self.cpu_millis)
            .min(pod_millis.unwrap_or(u64::MAX))
            .max(millis);
        let period = cpu
            .period()
            .filter(|period| *period > 0)
            .unwrap_or(DEFAULT_PERIOD);
        // Rounded down, since v1 refuses a child with a greater share than its parent.
        cpu.set_quota(i64::try_from(raised.saturating_mul(period) / 1000).ok());
    }
}

/// Raises the limits of memory, those that there are, by so many bytes.
fn raise_memory(resources: &mut LinuxResources, bytes: u64) {
    let more = i64::try_from(bytes).unwrap_or(i64::MAX);
    let raise = |limit: Option<i64>| match limit {
        Some(limit) if limit > 0 => Some(limit.saturating_add(more)),
        unlimited => unlimited,
    };
    if let Some(memory) = resources.memory_mut() {
        memory.set_limit(raise(memory.limit()));
        // The limit of memory and swap together.
        memory.set_swap(raise(memory.swap()));
    }
    if let Some(high) = resources
        .unified_mut()
        .as_mut()
        .and_then(|unified| unified.get_mut("memory.high"))
        && let Ok(throttled) = high.parse::<u64>()
    {
        *high = throttled.saturating_add(bytes).to_string();
    }
}

/// Of the kernel, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The limit of memory in `resources`, in bytes.
pub fn memory_limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// The limit of processors in `resources`, in thousandths of one.
pub fn cpu_limit_millis(resources: &LinuxResources) -> Option<u64> {
    let cpu = resources.cpu().as_ref()?;
    cpu_limit(cpu.quota(), cpu.period())
}

fn cpu_limit(quota: Option<i64>, period: Option<u64>) -> Option<u64> {
    let quota = u64::try_from(quota?).ok().filter(|quota| *quota > 0)?;
    Some(
        quota.saturating_mul(1000)
            / period
                .filter(|period| *period > 0)
                .unwrap_or(DEFAULT_PERIOD),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn resources(memory: serde_json::Value, cpu: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json!({"memory": memory, "cpu": cpu})).unwrap()
    }

    fn overhead(memory_bytes: u64, beside_bytes: u64) -> Overhead {
        Overhead {
            memory_bytes,
            beside_bytes,
            ..Overhead::of(Accelerator::Kvm)
        }
    }

    fn pod(memory_bytes: u64, cpu_millis: u64) -> PodLimits {
        PodLimits {
            memory_bytes: Some(memory_bytes),
            cpu_millis: Some(cpu_millis),
        }
    }

    #[test]
    fn limits_are_raised_within_the_pods() {
        let overhead = overhead(100 * MIB, 20 * MIB);
        let given = resources(
            json!({"limit": 256 * MIB, "swap": 256 * MIB}),
            json!({"quota": 150_000, "period": 100_000, "shares": 512}),
        );
        let raise = |pod| overhead.add_to(&given, pod);
        let raised = raise(PodLimits::default()).unwrap();
        assert_eq!(memory_limit(&raised), Some(376 * MIB));
        assert_eq!(raised.memory().unwrap().swap(), Some(376 << 20));
        assert_eq!(cpu_limit_millis(&raised), Some(1600));
        assert_eq!(raised.cpu().as_ref().unwrap().shares(), Some(512));
        for (pod_mib, raised_mib) in [(356, 356), (361, 361), (376, 376), (500, 376)] {
            let raised = raise(pod(pod_mib * MIB, 1550)).unwrap();
            assert_eq!(memory_limit(&raised), Some(raised_mib * MIB), "{pod_mib}");
            assert_eq!(cpu_limit_millis(&raised), Some(1550));
        }
        let error = raise(pod(355 * MIB, 1550)).unwrap_err().to_string();
        assert!(
            error.contains("355 MiB") && error.contains("podFixed"),
            "{error}"
        );
    }

    #[test]
    fn what_runs_beside_qemu_is_added_unless_the_limit_has_it() {
        let beside = Beside {
            directories: 2,
            tpm: false,
            host_devices: false,
        };
        let guest = 256 * MIB;
        let of = |limit: i64| {
            let resources = resources(json!({ "limit": limit }), json!({}));
            let overhead = Overhead::of(Accelerator::Kvm).with(beside, guest, &resources);
            assert_eq!(overhead.memory_bytes, MEMORY_BYTES);
            overhead.beside_bytes
        };
        // A plain pod, one with some room, and the controller's, with a processor's part.
        assert_eq!(of(256 << 20), 11 * MIB);
        assert_eq!(of(260 << 20), 7 * MIB);
        assert_eq!(of(269 << 20), 0);
        assert_eq!(of(-1), 11 * MIB);
    }

    #[test]
    fn processors_on_top_are_those_that_the_pod_has_beyond() {
        let overhead = Overhead::of(Accelerator::Kvm);
        let limited = resources(json!({}), json!({"quota": 50_000, "period": 100_000}));
        let unlimited = resources(json!({}), json!({}));
        for (given, pod_millis, expected) in [
            (Some(&limited), Some(500), 0),
            (Some(&limited), Some(550), 50),
            (Some(&limited), Some(2000), CPU_MILLIS),
            // Another container of the pod has no limit.
            (Some(&limited), None, CPU_MILLIS),
            (Some(&unlimited), None, 0),
            (None, None, 0),
        ] {
            let pod = PodLimits {
                cpu_millis: pod_millis,
                ..PodLimits::default()
            };
            let within = overhead.within(given, pod);
            assert_eq!(within.cpu_millis, expected, "{pod_millis:?}");
            assert_eq!(within.memory_bytes, overhead.memory_bytes);
        }
    }

    #[test]
    fn no_limit_stays_none() {
        let given = resources(json!({"limit": -1}), json!({"quota": -1, "shares": 2}));
        let raised = Overhead::of(Accelerator::Tcg)
            .add_to(&given, pod(MIB, 1))
            .unwrap();
        assert_eq!(raised, given);
    }

    #[test]
    fn the_throttling_limit_of_v2_is_raised_too() {
        let mut given = resources(json!({"limit": 256 * MIB}), json!({}));
        given.set_unified(Some([("memory.high".into(), "200".into())].into()));
        let raised = overhead(60, 40).add_to(&given, PodLimits::default());
        let raised = raised.unwrap();
        assert_eq!(raised.unified().as_ref().unwrap()["memory.high"], "300");
    }
}
