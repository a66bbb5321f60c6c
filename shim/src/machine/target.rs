//! What an `Update` of a running machine asks of its guest: how many vCPUs, how much memory.
//!
//! The guest keeps its relation to the container's limits: what it had at the start, and as much more
//! or less as the limits are. A plain pod's guest has ceil(CPU limit) vCPUs and the whole memory
//! limit, so it follows them; one whose spec says otherwise keeps the difference.

use cri_glue::launch::Size;
use cri_glue::overhead::{cpu_limit_millis, memory_limit};
use oci_spec::runtime::LinuxResources;
use qemu_driver::machine::Memory;

/// What memory is added by. QEMU could do with less, but Linux before 5.19 takes no less at a time,
/// and would wait for the rest for ever.
const GUESTS_BLOCK: u64 = 4 << 20;

/// What an update says of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing: it stays.
    Nothing,
    /// That there is none.
    NoLimit,
    /// That it is so much: thousandths of a processor, or bytes.
    Limit(u64),
}

impl Asked {
    /// The CPU limit of an update.
    pub(super) fn cpu_millis(resources: &LinuxResources) -> Self {
        let quota = resources.cpu().as_ref().and_then(|cpu| cpu.quota());
        Self::of(quota, cpu_limit_millis(resources))
    }

    /// The memory limit of an update.
    pub(super) fn memory_bytes(resources: &LinuxResources) -> Self {
        let limit = resources
            .memory()
            .as_ref()
            .and_then(|memory| memory.limit());
        Self::of(limit, memory_limit(resources))
    }

    /// 0 is no value, and a negative one is no limit, to the OCI runtimes.
    fn of(value: Option<i64>, limit: Option<u64>) -> Self {
        match (value, limit) {
            (_, Some(limit)) => Self::Limit(limit),
            (Some(value), None) if value < 0 => Self::NoLimit,
            _ => Self::Nothing,
        }
    }
}

/// What a machine was started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) size: Size,
    /// The container's CPU limit in thousandths of a processor.
    pub(super) cpu_millis: Option<u64>,
    /// The container's memory limit in bytes.
    pub(super) memory_bytes: Option<u64>,
}

/// Bytes of memory that a guest is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestSize {
    /// Of those that it started with; the rest goes into the balloon.
    pub(super) base: u64,
    /// Of those that can be added.
    pub(super) plugged: u64,
}

impl GuestSize {
    /// All of them.
    pub(super) fn total(self) -> u64 {
        self.base + self.plugged
    }
}

/// What an update asks of a guest; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) vcpus: Option<u32>,
    pub(super) memory: Option<GuestSize>,
}

/// Why a running machine cannot have such limits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the {0} limit of a running machine cannot be taken away: set another, or stop it first"
    )]
    NoLimit(&'static str),
    #[error(
        "{asked} processors are more than the {most} that this machine can have while it runs: stop \
         it first, or start it with a higher domain.cpu.maxSockets on a node with as many processors"
    )]
    Processors { asked: u64, most: u32 },
    #[error(
        "{} MiB of guest memory are more than the {} MiB that this machine can have while it runs: \
         stop it first, or start it with a higher domain.memory.maxGuest on a node with as much \
         memory", asked >> 20, most >> 20
    )]
    MoreMemory { asked: u64, most: u64 },
    #[error(
        "a memory limit of {} MiB leaves the guest less than the {} MiB that it cannot be without",
        limit >> 20, Memory::MIN >> 20
    )]
    LessMemory { limit: u64 },
    #[error("the memory of a machine in huge pages cannot change while it runs: stop it first")]
    Hugepages,
    #[error(
        "a memory limit of {} MiB is less than what the machine was started with, which is locked for \
         its devices of the node: stop it first", limit >> 20
    )]
    Locked { limit: u64 },
}

impl Start {
    /// What limits of `cpu` and `memory` ask of the guest.
    pub(super) fn target(&self, cpu: Asked, memory: Asked) -> Result<Target, Refusal> {
        Ok(Target {
            vcpus: self.vcpus(cpu)?,
            memory: self.memory(memory)?,
        })
    }

    fn vcpus(&self, asked: Asked) -> Result<Option<u32>, Refusal> {
        let Size {
            vcpus, max_vcpus, ..
        } = self.size;
        let processors = match (asked, self.cpu_millis) {
            (Asked::Nothing, _) => return Ok(None),
            (Asked::NoLimit, Some(_)) => return Err(Refusal::NoLimit("CPU")),
            (Asked::NoLimit, None) => return Ok(Some(vcpus)),
            (Asked::Limit(millis), _) => millis.div_ceil(1000),
        };
        // Without a limit at the start, the first one is the number of vCPUs.
        let before = self
            .cpu_millis
            .map_or(u64::from(vcpus), |millis| millis.div_ceil(1000));
        let wanted = (u64::from(vcpus) + processors)
            .saturating_sub(before)
            .max(1);
        match u32::try_from(wanted) {
            Ok(wanted) if wanted <= max_vcpus => Ok(Some(wanted)),
            _ => Err(Refusal::Processors {
                asked: wanted,
                most: max_vcpus,
            }),
        }
    }

    fn memory(&self, asked: Asked) -> Result<Option<GuestSize>, Refusal> {
        let Size {
            memory_bytes: base,
            max_memory_bytes: most,
            hugepages,
            locked,
            ..
        } = self.size;
        // The limit is QEMU's own part then, and Kubernetes does not resize huge pages.
        if hugepages {
            return match asked {
                Asked::Limit(limit) if Some(limit) != self.memory_bytes => Err(Refusal::Hugepages),
                Asked::NoLimit if self.memory_bytes.is_some() => Err(Refusal::Hugepages),
                _ => Ok(None),
            };
        }
        let whole = GuestSize { base, plugged: 0 };
        let limit = match (asked, self.memory_bytes) {
            (Asked::Nothing, _) => return Ok(None),
            (Asked::NoLimit, Some(_)) => return Err(Refusal::NoLimit("memory")),
            (Asked::NoLimit, None) => return Ok(Some(whole)),
            (Asked::Limit(limit), _) => limit,
        };
        let wanted = match self.memory_bytes {
            Some(before) => (base.saturating_add(limit)).saturating_sub(before),
            // It has its size from the spec: a first limit above that changes nothing for it.
            None => base.min(limit),
        };
        if wanted < Memory::MIN {
            return Err(Refusal::LessMemory { limit });
        }
        // What the balloon takes stays locked; what virtio-mem takes is returned.
        if locked && wanted < base {
            return Err(Refusal::Locked { limit });
        }
        let Some(more) = wanted.checked_sub(base) else {
            // Down, because the limit is what the guest must stay under.
            let base = wanted >> 20 << 20;
            return Ok(Some(GuestSize { base, plugged: 0 }));
        };
        let plugged = more / GUESTS_BLOCK * GUESTS_BLOCK;
        if base + plugged > most {
            return Err(Refusal::MoreMemory {
                asked: wanted,
                most,
            });
        }
        Ok(Some(GuestSize { base, plugged }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Asked::{Limit, NoLimit, Nothing};
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine of 2 to 8 vCPUs and 256 to 1024 MiB, in a container with these limits.
    fn start(cpu_millis: Option<u64>, memory_mib: Option<u64>) -> Start {
        Start {
            size: Size {
                vcpus: 2,
                max_vcpus: 8,
                memory_bytes: 256 * MIB,
                max_memory_bytes: 1024 * MIB,
                hugepages: false,
                locked: false,
                balloon: true,
            },
            cpu_millis,
            memory_bytes: memory_mib.map(|mib| mib * MIB),
        }
    }

    #[test]
    fn vcpus_follow_the_limit() {
        let no_limit = Err(Refusal::NoLimit("CPU"));
        let too_many = |asked| Err(Refusal::Processors { asked, most: 8 });
        for (before, asked, expected) in [
            // A plain pod.
            (Some(1500), Nothing, Ok(None)),
            (Some(1500), Limit(1500), Ok(Some(2))),
            (Some(1500), Limit(2001), Ok(Some(3))),
            (Some(2000), Limit(8000), Ok(Some(8))),
            (Some(2000), Limit(8001), too_many(9)),
            (Some(2000), Limit(1000), Ok(Some(1))),
            (Some(2000), Limit(1), Ok(Some(1))),
            (
                Some(2000),
                Limit(u64::MAX),
                too_many(18_446_744_073_709_552),
            ),
            (Some(2000), NoLimit, no_limit),
            // More vCPUs than its limit, and fewer.
            (Some(500), Limit(900), Ok(Some(2))),
            (Some(500), Limit(1900), Ok(Some(3))),
            (Some(4000), Limit(5000), Ok(Some(3))),
            (Some(4000), Limit(1000), Ok(Some(1))),
            // No limit at first.
            (None, Nothing, Ok(None)),
            (None, NoLimit, Ok(Some(2))),
            (None, Limit(2000), Ok(Some(2))),
            (None, Limit(3000), Ok(Some(3))),
            (None, Limit(500), Ok(Some(1))),
        ] {
            let target = start(before, None).target(asked, Nothing);
            let vcpus = target.map(|target| target.vcpus);
            assert_eq!(vcpus, expected, "{before:?} {asked:?}");
        }
    }

    #[test]
    fn memory_follows_the_limit() {
        let size = |base: u64, plugged: u64| {
            Ok(Some(GuestSize {
                base: base * MIB,
                plugged: plugged * MIB,
            }))
        };
        let mib = |mib: u64| Limit(mib * MIB);
        let too_much = |asked: u64| {
            Err(Refusal::MoreMemory {
                asked: asked * MIB,
                most: 1024 * MIB,
            })
        };
        let too_little = |limit: u64| Err(Refusal::LessMemory { limit: limit * MIB });
        for (before, asked, expected) in [
            // A plain pod.
            (Some(256), Nothing, Ok(None)),
            (Some(256), mib(256), size(256, 0)),
            (Some(256), mib(257), size(256, 0)),
            (Some(256), mib(259), size(256, 0)),
            (Some(256), mib(263), size(256, 4)),
            (Some(256), mib(1024), size(256, 768)),
            (Some(256), mib(1025), size(256, 768)),
            (Some(256), mib(1027), size(256, 768)),
            (Some(256), mib(1028), too_much(1028)),
            (Some(256), Limit(u64::MAX), too_much(u64::MAX / MIB - 256)),
            (Some(256), mib(100), size(100, 0)),
            (Some(256), Limit(100 * MIB - 1), size(99, 0)),
            (Some(256), mib(3), too_little(3)),
            (Some(256), NoLimit, Err(Refusal::NoLimit("memory"))),
            // A limit with room beside the guest keeps it.
            (Some(300), mib(400), size(256, 100)),
            (Some(300), mib(244), size(200, 0)),
            (Some(300), mib(44), too_little(44)),
            // No limit at first.
            (None, NoLimit, size(256, 0)),
            (None, mib(2048), size(256, 0)),
            (None, mib(128), size(128, 0)),
        ] {
            let target = start(None, before).target(Nothing, asked);
            let memory = target.map(|target| target.memory);
            let rounded = match memory {
                Err(Refusal::MoreMemory { asked, most }) if before.is_some() => {
                    let asked = asked / MIB * MIB;
                    Err(Refusal::MoreMemory { asked, most })
                }
                memory => memory,
            };
            assert_eq!(rounded, expected, "{before:?} {asked:?}");
        }
    }

    #[test]
    fn huge_pages_stay() {
        let mut start = start(Some(1000), Some(64));
        start.size.hugepages = true;
        let mib = |mib: u64| Limit(mib * MIB);
        for (asked, expected) in [
            (Nothing, Ok(None)),
            (mib(64), Ok(None)),
            (mib(65), Err(Refusal::Hugepages)),
            (mib(63), Err(Refusal::Hugepages)),
            (NoLimit, Err(Refusal::Hugepages)),
        ] {
            let target = start.target(Nothing, asked).map(|target| target.memory);
            assert_eq!(target, expected, "{asked:?}");
        }
    }

    #[test]
    fn locked_memory_only_grows_and_returns_to_its_first_size() {
        let mib = |mib: u64| Limit(mib * MIB);
        let size = |plugged: u64| {
            let (base, plugged) = (256 * MIB, plugged * MIB);
            Ok(Some(GuestSize { base, plugged }))
        };
        let refused = |limit: u64| Err(Refusal::Locked { limit: limit * MIB });
        for (before, asked, expected) in [
            (Some(256), Nothing, Ok(None)),
            (Some(256), mib(256), size(0)),
            (Some(256), mib(512), size(256)),
            (Some(256), mib(255), refused(255)),
            (Some(300), mib(299), refused(299)),
            (None, NoLimit, size(0)),
            (None, mib(128), refused(128)),
        ] {
            let mut start = start(None, before);
            start.size.locked = true;
            let target = start.target(Nothing, asked).map(|target| target.memory);
            assert_eq!(target, expected, "{before:?} {asked:?}");
        }
    }

    #[test]
    fn limits_are_read_as_the_oci_runtimes_do() {
        let resources = |cpu: serde_json::Value, memory: serde_json::Value| {
            let resources = json!({ "cpu": cpu, "memory": memory });
            let resources: LinuxResources = serde_json::from_value(resources).unwrap();
            (
                Asked::cpu_millis(&resources),
                Asked::memory_bytes(&resources),
            )
        };
        for (cpu, memory, expected) in [
            (json!({}), json!({}), (Nothing, Nothing)),
            (
                json!({ "quota": 0 }),
                json!({ "limit": 0 }),
                (Nothing, Nothing),
            ),
            (
                json!({ "quota": -1 }),
                json!({ "limit": -1 }),
                (NoLimit, NoLimit),
            ),
            (
                json!({ "quota": 150_000, "period": 100_000 }),
                json!({ "limit": 5 }),
                (Limit(1500), Limit(5)),
            ),
        ] {
            assert_eq!(resources(cpu, memory), expected);
        }
    }
}
