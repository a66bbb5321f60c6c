//! Processors of the node that a container has to itself.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use rustix::thread::CpuSet;

/// Of kubelet, for each processor that is requested; and the most that it writes
/// (`pkg/kubelet/cm/helpers_linux.go`).
const SHARES: u64 = 1024;
const MOST_SHARES: u64 = 262_144;

/// Numbers of processors, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus(Vec<usize>);

impl Cpus {
    /// Reads a list such as `0-3,8` (cpuset(7), *List format*).
    pub(super) fn parse(list: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for range in list.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last < first || last >= CpuSet::MAX_CPU {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus.into_iter().collect()))
    }

    /// Those that kubelet's static CPU manager gave a container with these `resources` in the control
    /// group `cgroups_path`, and no other container may use.
    ///
    /// Under that policy every container has a list, most of them that of what is left for all. Its
    /// own is as long as its request, in a pod of the class *Guaranteed*.
    pub fn exclusive(resources: &LinuxResources, cgroups_path: Option<&Path>) -> Option<Self> {
        let cpu = resources.cpu().as_ref()?;
        let cpus = Self::parse(cpu.cpus().as_deref()?)?;
        let requested = (cpus.count() as u64 * SHARES).min(MOST_SHARES);
        let group = cgroups_path?.to_string_lossy();
        let guaranteed = !group.contains("burstable") && !group.contains("besteffort");
        (guaranteed && cpu.shares() == Some(requested)).then_some(cpus)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<CpuSet> {
        self.0.get(index).map(|cpu| set(&[*cpu]))
    }

    /// Those after the first `count`, or else all.
    pub(super) fn rest(&self, count: usize) -> CpuSet {
        match self.0.get(count..) {
            Some(rest) if !rest.is_empty() => set(rest),
            _ => set(&self.0),
        }
    }
}

fn set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_read() {
        for (list, expected) in [
            ("0", Some(vec![0])),
            ("0-2,8\n", Some(vec![0, 1, 2, 8])),
            ("8,1-2,2", Some(vec![1, 2, 8])),
            ("", None),
            ("2-1", None),
            ("0-99999999999", None),
            ("1024", None),
            ("a", None),
        ] {
            assert_eq!(Cpus::parse(list), expected.map(Cpus), "{list:?}");
        }
    }

    #[test]
    fn only_a_guaranteed_pods_own_are_exclusive() {
        let of = |cpus: &str, shares: u64, group: &str| {
            let resources = json!({ "cpu": { "cpus": cpus, "shares": shares } });
            let resources = serde_json::from_value(resources).unwrap();
            Cpus::exclusive(&resources, Some(Path::new(group))).map(|cpus| cpus.count())
        };
        let guaranteed = "/kubepods/podx/c1";
        assert_eq!(of("2-3", 2048, guaranteed), Some(2));
        let systemd = "kubepods-podx.slice:cri-containerd:c1";
        assert_eq!(of("2-3", 2048, systemd), Some(2));
        assert_eq!(of("0-511", 262_144, guaranteed), Some(512));
        // What is left for all, and what looks alike.
        assert_eq!(of("0-1,4-7", 2048, guaranteed), None);
        assert_eq!(of("0-1", 1536, guaranteed), None);
        assert_eq!(of("0-1", 2048, "/kubepods/burstable/podx/c1"), None);
        let systemd = "kubepods-besteffort-podx.slice:cri-containerd:c1";
        assert_eq!(of("0-1", 2048, systemd), None);
        assert_eq!(of("", 2, guaranteed), None);
    }

    proptest! {
        #[test]
        fn a_list_is_what_its_ranges_hold(
            text in "[0-9,-]{0,30}|\\PC{0,20}|[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,20}",
        ) {
            let read = Cpus::parse(&text);
            let held = |cpu: usize| text.trim().split(',').any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse().is_ok_and(|first: usize| first <= cpu)
                    && last.parse().is_ok_and(|last: usize| cpu <= last)
            });
            if let Some(Cpus(cpus)) = read {
                let expected: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| held(*cpu)).collect();
                prop_assert_eq!(cpus, expected);
            }
        }
    }
}
