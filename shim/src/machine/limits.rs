//! The limits of a running machine's control group: the container's, with QEMU's own need on top.

use std::path::PathBuf;
use std::sync::Arc;

use cri_glue::bundle::Bundle;
use cri_glue::cgroup::Cgroup;
use cri_glue::jail;
use cri_glue::overhead::{Overhead, PodLimits, cpu_limit_millis, memory_limit};
use cri_glue::pinning::{Pinning, PinningError};
use cri_glue::runtime::Runtime;
use oci_spec::runtime::LinuxResources;

use super::resize::Pinned;
use crate::task::{Fault, Pod};

/// What is needed to change the limits of a machine.
#[derive(Clone)]
pub(super) struct Limits {
    bundle: Arc<Bundle>,
    runtime: Runtime,
    overhead: Overhead,
}

impl Limits {
    /// The limits of the machine of `bundle`, which was just made with this `overhead`.
    pub(super) fn new(pod: &Pod, bundle: &Arc<Bundle>, overhead: Overhead) -> Result<Self, Fault> {
        let cgroups_path = bundle.linux().cgroups_path().as_deref();
        let runtime = Runtime::new(&pod.node, &pod.daemon.namespace, cgroups_path);
        let resources = bundle.linux().resources().as_ref();
        let overhead = overhead.within(resources, pod_limits(bundle)?);
        Ok(Self {
            bundle: bundle.clone(),
            runtime,
            overhead,
        })
    }

    /// What of its resources can change later.
    pub(super) fn changeable(&self) -> LinuxResources {
        let mut changeable = LinuxResources::default();
        if let Some(resources) = self.bundle.linux().resources() {
            merge(&mut changeable, resources);
        }
        changeable
    }

    /// What the container was made with.
    pub(super) fn at_start(&self) -> (Option<u64>, Option<u64>) {
        let resources = self.bundle.linux().resources().as_ref();
        (
            resources.and_then(cpu_limit_millis),
            resources.and_then(memory_limit),
        )
    }

    /// Sets the limits to `wanted`, which are the container's. Blocks.
    pub(super) fn update(&self, wanted: &LinuxResources) -> Result<(), Fault> {
        let pod = pod_limits(&self.bundle)?;
        let raised = self.overhead.add_to(wanted, pod);
        let raised = raised.map_err(Fault::failed)?;
        self.runtime
            .update(self.bundle.id(), &self.jail(), &raised)
            .map_err(Fault::failed)
    }

    /// Where `wanted` moves a machine whose vCPUs have processors to themselves, if it has `vcpus` then.
    pub(super) fn pinned(
        &self,
        pinned: Option<Pinned>,
        wanted: &LinuxResources,
        vcpus: u32,
    ) -> Result<Option<Pinned>, Fault> {
        let Some(pinned) = pinned else {
            return Ok(None);
        };
        let invalid = |error: PinningError| Fault::Invalid(error.to_string());
        let updated = Pinning::updated(wanted, &self.bundle).map_err(invalid)?;
        let cpus = updated.unwrap_or(pinned.cpus);
        pinned.pinning.check(&cpus, vcpus).map_err(invalid)?;
        Ok(Some(Pinned { cpus, ..pinned }))
    }

    /// The OCI bundle that QEMU runs in.
    fn jail(&self) -> PathBuf {
        self.bundle.dir().join(jail::DIRECTORY)
    }
}

fn pod_limits(bundle: &Bundle) -> Result<PodLimits, Fault> {
    let path = bundle.linux().cgroups_path().as_deref();
    let Some(pod) = path.map(Cgroup::of_spec).and_then(|cgroup| cgroup.parent()) else {
        return Ok(PodLimits::default());
    };
    Ok(PodLimits {
        memory_bytes: pod.memory_limit().map_err(Fault::failed)?,
        cpu_millis: pod.cpu_limit_millis().map_err(Fault::failed)?,
    })
}

/// Sets in `resources` what `more` says of memory and processors; what it does not say stays.
pub(super) fn merge(resources: &mut LinuxResources, more: &LinuxResources) {
    if let Some(more) = more.memory() {
        let mut memory = resources.memory().unwrap_or_default();
        memory.set_limit(more.limit().or(memory.limit()));
        memory.set_reservation(more.reservation().or(memory.reservation()));
        memory.set_swap(more.swap().or(memory.swap()));
        resources.set_memory(Some(memory));
    }
    if let Some(more) = more.cpu() {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_shares(more.shares().or(cpu.shares()));
        cpu.set_quota(more.quota().or(cpu.quota()));
        cpu.set_period(more.period().or(cpu.period()));
        cpu.set_cpus(more.cpus().clone().or(cpu.cpus().clone()));
        cpu.set_mems(more.mems().clone().or(cpu.mems().clone()));
        resources.set_cpu(Some(cpu));
    }
    if let Some(more) = more.unified() {
        let mut unified = resources.unified().clone().unwrap_or_default();
        unified.extend(more.clone());
        resources.set_unified(Some(unified));
    }
}

/// What `resources` say of memory alone.
pub(super) fn of_memory(resources: &LinuxResources) -> LinuxResources {
    let mut memory = LinuxResources::default();
    memory.set_memory(*resources.memory());
    let unified = resources.unified().clone().map(|mut unified| {
        unified.retain(|name, _| name.starts_with("memory."));
        unified
    });
    memory.set_unified(unified);
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_update_does_not_say_stays() {
        let resources = |value| serde_json::from_value::<LinuxResources>(value).unwrap();
        let mut all = resources(json!({
            "memory": {"limit": 1, "swap": 2}, "cpu": {"quota": 3, "shares": 4},
            "unified": {"a": "5", "b": "6"}
        }));
        merge(&mut all, &LinuxResources::default());
        let more = json!({
            "memory": {"limit": 10}, "cpu": {"quota": 30, "period": 31}, "unified": {"b": "60"},
            "pids": {"limit": 9}
        });
        merge(&mut all, &resources(more));
        let expected = json!({
            "memory": {"limit": 10, "swap": 2}, "cpu": {"quota": 30, "period": 31, "shares": 4},
            "unified": {"a": "5", "b": "60"}
        });
        assert_eq!(all, resources(expected));
    }

    #[test]
    fn a_guest_that_keeps_memory_keeps_its_limit_alone() {
        let resources = |value| serde_json::from_value::<LinuxResources>(value).unwrap();
        let mut last = resources(json!({
            "memory": {"limit": 256}, "cpu": {"quota": 3},
            "unified": {"memory.high": "200", "cpu.max": "3"}
        }));
        let wanted = resources(json!({
            "memory": {"limit": 512}, "cpu": {"quota": 6},
            "unified": {"memory.high": "400", "cpu.max": "6"}
        }));
        merge(&mut last, &of_memory(&wanted));
        let expected = json!({
            "memory": {"limit": 512}, "cpu": {"quota": 3},
            "unified": {"memory.high": "400", "cpu.max": "3"}
        });
        assert_eq!(last, resources(expected));
        assert_eq!(of_memory(&resources(json!({}))), resources(json!({})));
    }
}
