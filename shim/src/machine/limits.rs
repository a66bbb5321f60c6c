//! The limits of a running machine's control group: the container's, with QEMU's own need on top.

use std::path::PathBuf;
use std::sync::Arc;

use cri_glue::bundle::Bundle;
use cri_glue::cgroup::Cgroup;
use cri_glue::jail;
use cri_glue::overhead::{Overhead, PodLimits, cpu_limit_millis, memory_limit};
use cri_glue::runtime::Runtime;
use oci_spec::runtime::LinuxResources;
use qemu_driver::machine::Accelerator;

use crate::task::{Fault, Pod};

/// What is needed to change the limits of a machine.
#[derive(Clone)]
pub(super) struct Limits {
    bundle: Arc<Bundle>,
    runtime: Runtime,
    accelerator: Accelerator,
}

impl Limits {
    /// The limits of the machine of `bundle`.
    pub(super) fn new(pod: &Pod, bundle: &Arc<Bundle>, accelerator: Accelerator) -> Self {
        let cgroups_path = bundle.linux().cgroups_path().as_deref();
        let runtime = Runtime::new(&pod.node, &pod.daemon.namespace, cgroups_path);
        Self {
            bundle: bundle.clone(),
            runtime,
            accelerator,
        }
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
        let raised = Overhead::of(self.accelerator)
            .add_to(wanted, self.pod_limits()?, self.accelerator)
            .map_err(Fault::failed)?;
        self.runtime
            .update(self.bundle.id(), &self.jail(), &raised)
            .map_err(Fault::failed)
    }

    fn pod_limits(&self) -> Result<PodLimits, Fault> {
        let path = self.bundle.linux().cgroups_path().as_deref();
        let Some(pod) = path.map(Cgroup::of_spec).and_then(|cgroup| cgroup.parent()) else {
            return Ok(PodLimits::default());
        };
        Ok(PodLimits {
            memory_bytes: pod.memory_limit().map_err(Fault::failed)?,
            cpu_millis: pod.cpu_limit_millis().map_err(Fault::failed)?,
        })
    }

    /// The OCI bundle that QEMU runs in.
    fn jail(&self) -> PathBuf {
        self.bundle.dir().join(jail::DIRECTORY)
    }
}
