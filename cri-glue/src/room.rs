//! How far a machine can grow while it runs, within what its node has.
//!
//! What the room costs, measured with Linux 6.1 and QEMU 7.2 under emulation, three boots each:
//!
//! | machine | guest's memory | QEMU's resident memory | boot |
//! |---|---|---|---|
//! | 1 vCPU, room for 3 more | 0.75 MiB less | the same | the same |
//! | 3 GiB, room for 9 more | the same | 7 MiB more, all the guest's | the same |
//! | 256 MiB, room for 768 MiB | 65 MiB less | 64 MiB more, all the guest's | the same |
//!
//! The last is Linux's swiotlb: 64 MiB for devices that reach no further than 4 GiB, set aside as soon
//! as the firmware says that there may be memory above. A guest from 2816 MiB on has some there
//! anyway. So machines below 2 GiB have room only if they ask for it by `domain.memory.maxGuest`: 64 MiB
//! less are 3 % of the memory there, and nothing a little above.

use vm_api::field::FieldError;
use vm_api::machine::{self, Topology};
use vm_api::support::MAXIMUM_VCPUS;
use vm_api::v1::VirtualMachineInstanceSpec;

use qemu_driver::machine::MAX_VCPUS;

// What is promised of a spec can be started.
const _: () = assert!(MAXIMUM_VCPUS == MAX_VCPUS);

/// What this node has, as far as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Processors that are online.
    pub(crate) processors: Option<u32>,
}

impl Node {
    /// Asks the kernel.
    pub(crate) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            processors: processors(&read("/sys/devices/system/cpu/online")),
        }
    }

    /// The bytes to which a guest that starts with `guest` bytes can grow.
    pub(crate) fn max_memory(
        self,
        spec: &VirtualMachineInstanceSpec,
        guest: u64,
    ) -> Result<u64, FieldError> {
        let most = machine::room_for_memory(spec, guest)?;
        Ok(most.min(self.memory_bytes.unwrap_or(u64::MAX)).max(guest))
    }
}

/// The sockets to which a machine of `topology` can grow, at most `most`, within the `node`'s
/// processors and what QEMU can have.
pub(crate) fn sockets(topology: Topology, most: u32, node: Option<u32>) -> u32 {
    let processors = node.unwrap_or(MAX_VCPUS).min(MAX_VCPUS);
    let each = topology.cores.saturating_mul(topology.threads).max(1);
    most.min(processors.div_ceil(each))
        .min(MAX_VCPUS / each)
        .max(topology.sockets)
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The number of processors in a list such as `0-3,8`.
fn processors(list: &str) -> Option<u32> {
    let mut count = 0_u32;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_grows_fourfold_within_the_node_where_that_costs_nothing() {
        let node = |gib: u64| Node {
            memory_bytes: Some(gib * GIB),
            processors: None,
        };
        for (guest, max_guest, node, expected) in [
            (GIB, None, node(64), GIB),
            (2 * GIB, None, node(64), 8 * GIB),
            (2 * GIB, None, Node::default(), 8 * GIB),
            (4 * GIB, None, node(10), 10 * GIB),
            (4 * GIB, None, node(2), 4 * GIB),
            (GIB, Some("3Gi"), node(64), 3 * GIB),
            (GIB, Some("3Gi"), node(2), 2 * GIB),
            (4 * GIB, Some("4Gi"), node(64), 4 * GIB),
        ] {
            let memory = max_guest.map(|most| json!({ "maxGuest": most }));
            let spec = json!({ "domain": { "memory": memory } });
            let spec = serde_json::from_value(spec).unwrap();
            assert_eq!(node.max_memory(&spec, guest), Ok(expected), "{guest}");
        }
    }

    #[test]
    fn sockets_grow_within_the_node() {
        let topology = |sockets, cores, threads| Topology {
            sockets,
            cores,
            threads,
        };
        for (topology, most, node, expected) in [
            (topology(1, 1, 1), 4, Some(8), 4),
            (topology(1, 1, 1), 4, Some(2), 2),
            (topology(1, 1, 1), 4, None, 4),
            (topology(3, 1, 1), 12, Some(2), 3),
            (topology(1, 2, 1), 4, Some(5), 3),
            (topology(1, 1, 1), 100_000, Some(512), MAX_VCPUS),
            (topology(1, 8, 2), u32::MAX, Some(512), 15),
            (topology(u32::MAX, u32::MAX, 1), u32::MAX, Some(2), u32::MAX),
        ] {
            assert_eq!(sockets(topology, most, node), expected, "{topology:?}");
        }
    }

    #[test]
    fn the_node_is_read() {
        assert_eq!(
            memory_bytes("MemTotal:       2 kB\nMemFree: 1 kB"),
            Some(2048)
        );
        assert_eq!(memory_bytes(""), None);
        for (list, expected) in [
            ("0\n", Some(1)),
            ("0-3,8,10-11\n", Some(7)),
            ("3-0", None),
            ("", None),
        ] {
            assert_eq!(processors(list), expected, "{list:?}");
        }
        let this = Node::this();
        assert!(this.memory_bytes.is_some() && this.processors > Some(0));
    }

    proptest! {
        #[test]
        fn no_text_of_the_kernels_makes_it_panic(
            text in any::<String>(), list in "[0-9,-]{0,40}", number in "[0-9]{0,25}"
        ) {
            let _ = (processors(&text), memory_bytes(&text));
            if let Some(count) = processors(&list) {
                prop_assert!(count as usize >= list.split(',').count());
            }
            let memory = memory_bytes(&format!("MemFree: 1 kB\nMemTotal: {number} kB\n"));
            let expected = number.parse().ok().and_then(|kib: u64| kib.checked_mul(1024));
            prop_assert_eq!(memory, expected);
        }
    }
}
