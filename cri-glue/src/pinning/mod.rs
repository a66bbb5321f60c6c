//! A processor of the node for each vCPU (`domain.cpu.dedicatedCpuPlacement`).
//!
//! Kubelet's static CPU manager chooses the processors and keeps all others off them; here each
//! vCPU's thread is bound to one of them, and QEMU's other threads and the programs beside it to what
//! is left. Relies on being asked again whenever the processors or the vCPUs change.

mod cpus;
mod threads;

use std::io;

use oci_spec::runtime::LinuxResources;
use qemu_driver::Qmp;
use qemu_driver::qmp::QmpError;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use vm_api::machine::{self, Dedicated};
use vm_api::v1::VirtualMachineInstanceSpec;

use crate::bundle::Bundle;
pub use cpus::Cpus;
use threads::Thread;

/// How the machine's threads are bound to processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinning {
    isolate_emulator: bool,
    /// Pids of the programs beside QEMU.
    helpers: Vec<u32>,
}

/// Why vCPUs have no processors of their own.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum PinningError {
    #[error(
        "domain.cpu.dedicatedCpuPlacement: the machine container has no processors to itself: give \
         each container of the pod requests equal to its limits, the machine container whole CPUs, \
         and use a node whose kubelet has cpuManagerPolicy static"
    )]
    NotExclusive,
    #[error(
        "domain.cpu.dedicatedCpuPlacement: the machine container has {cpus} processors to itself and \
         needs {needed}, one for each vCPU{}: raise its CPU requests and limits, or lower domain.cpu",
        if *isolate { " and one for QEMU's own threads (isolateEmulatorThread)" } else { "" }
    )]
    TooFew {
        cpus: usize,
        needed: usize,
        isolate: bool,
    },
    #[error("cannot bind QEMU's threads to processors: {0}")]
    Threads(#[source] io::Error),
    #[error("cannot bind vCPUs to processors: QEMU has no thread {0}")]
    NoThread(i64),
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

impl Pinning {
    /// What `spec` asks of the container of `bundle`, with the processors that it has.
    pub fn of(
        spec: &VirtualMachineInstanceSpec,
        bundle: &Bundle,
    ) -> Result<Option<(Self, Cpus)>, PinningError> {
        let Some(Dedicated { isolate_emulator }) = machine::dedicated(spec) else {
            return Ok(None);
        };
        let resources = bundle.linux().resources().as_ref();
        let cpus = resources.and_then(|it| Cpus::exclusive(it, bundle.cgroups_path()));
        let pinning = Self {
            isolate_emulator,
            helpers: Vec::new(),
        };
        Ok(Some((pinning, cpus.ok_or(PinningError::NotExclusive)?)))
    }

    /// The processors that an update gives the container of `bundle`; `None` if it says nothing of
    /// them.
    pub fn updated(
        resources: &LinuxResources,
        bundle: &Bundle,
    ) -> Result<Option<Cpus>, PinningError> {
        let cpu = resources.cpu().as_ref();
        let list = cpu.and_then(|cpu| cpu.cpus().as_deref());
        if list.is_none_or(str::is_empty) {
            return Ok(None);
        }
        let cpus = Cpus::exclusive(resources, bundle.cgroups_path());
        cpus.ok_or(PinningError::NotExclusive).map(Some)
    }

    /// Binds these processes like QEMU's own threads: the programs beside it.
    pub fn with_helpers(self, helpers: Vec<u32>) -> Self {
        Self { helpers, ..self }
    }

    /// Whether so many vCPUs have a processor each.
    pub fn check(&self, cpus: &Cpus, vcpus: u32) -> Result<(), PinningError> {
        let isolate = self.isolate_emulator;
        let needed = usize::try_from(vcpus).unwrap_or(usize::MAX);
        let needed = needed.saturating_add(isolate.into());
        let cpus = cpus.count();
        if cpus < needed {
            return Err(PinningError::TooFew {
                cpus,
                needed,
                isolate,
            });
        }
        Ok(())
    }

    /// Binds the threads of the QEMU behind `qmp`, the process `pid`, and those of the programs beside
    /// it. Threads that come later are children of these and stay with them; a vCPU that comes has to
    /// be bound again.
    pub async fn apply(&self, cpus: &Cpus, qmp: &Qmp, pid: u32) -> Result<(), PinningError> {
        let vcpus = qmp.vcpu_threads().await?;
        let threads = threads::of(pid).map_err(PinningError::Threads)?;
        // One that has ended has no threads; the machine follows it.
        let beside = self.helpers.iter().filter_map(|pid| threads::of(*pid).ok());
        let beside: Vec<_> = beside.flatten().collect();
        for (thread, set) in self.plan(cpus, &vcpus, &threads, &beside)? {
            match sched_setaffinity(Pid::from_raw(thread), &set) {
                // It has ended.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(PinningError::Threads(error.into())),
            }
        }
        Ok(())
    }

    /// The processors of each thread of QEMU's, and of each of those `beside` it. A vCPU beyond the
    /// processors, which its guest has not let go yet, shares with QEMU's own threads.
    fn plan(
        &self,
        cpus: &Cpus,
        vcpus: &[i64],
        threads: &[Thread],
        beside: &[Thread],
    ) -> Result<Vec<(i32, CpuSet)>, PinningError> {
        let own = cpus.count() - usize::from(self.isolate_emulator && cpus.count() > 1);
        let emulator = cpus.rest(vcpus.len().min(own));
        let all = threads.iter().chain(beside);
        let mut plan: Vec<_> = all.map(|it| (it.id, emulator)).collect();
        for (index, vcpu) in vcpus.iter().enumerate() {
            let place = threads.iter().position(|it| i64::from(it.inner) == *vcpu);
            let place = place.ok_or(PinningError::NoThread(*vcpu))?;
            if let Some(cpu) = cpus.get(index).filter(|_| index < own) {
                plan[place].1 = cpu;
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinning(isolate_emulator: bool) -> Pinning {
        let helpers = Vec::new();
        Pinning {
            isolate_emulator,
            helpers,
        }
    }

    fn plan(isolate_emulator: bool, list: &str, vcpus: &[i64]) -> Vec<Vec<usize>> {
        let thread = |index| Thread {
            id: 100 + index,
            inner: 10 + index,
        };
        let threads: Vec<_> = (0..4).map(thread).collect();
        // In other programs, ids mean nothing to QEMU.
        let beside = [Thread { id: 104, inner: 11 }];
        let cpus = Cpus::parse(list).unwrap();
        let plan = pinning(isolate_emulator).plan(&cpus, vcpus, &threads, &beside);
        let plan = plan.unwrap();
        assert!(plan.iter().map(|it| it.0).eq(100..105));
        let members = |set: CpuSet| (0..16).filter(|cpu| set.is_set(*cpu)).collect();
        plan.into_iter().map(|it| members(it.1)).collect()
    }

    #[test]
    fn each_vcpu_has_one_and_qemu_has_the_rest_or_all() {
        let expected = [vec![4, 5], vec![5], vec![4], vec![4, 5], vec![4, 5]];
        assert_eq!(plan(false, "4-5", &[12, 11]), expected);
        let expected = [vec![6], vec![4], vec![5], vec![6], vec![6]];
        assert_eq!(plan(true, "4-6", &[11, 12]), expected);
        assert_eq!(plan(false, "4-6", &[11, 12]), expected);
        // Two vCPUs that are on their way out.
        let expected = [vec![7], vec![4], vec![7], vec![7], vec![7]];
        assert_eq!(plan(true, "4,7", &[11, 12, 13]), expected);
    }

    #[test]
    fn every_vcpu_needs_one() {
        let check = |isolate_emulator, list, vcpus| {
            let checked = pinning(isolate_emulator).check(&Cpus::parse(list).unwrap(), vcpus);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(false, "0-1", 2), Ok(()));
        assert_eq!(check(true, "0-2", 2), Ok(()));
        let error = check(true, "0-1", 2).unwrap_err();
        assert!(
            error.contains("has 2 processors to itself and needs 3")
                && error.contains("isolateEmulatorThread"),
            "{error}"
        );
        assert!(check(false, "0-1", u32::MAX).is_err());
    }
}
