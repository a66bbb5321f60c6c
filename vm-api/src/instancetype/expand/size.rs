//! What an instance type owns: set in the template, or a conflict where the template sets it too.

use std::collections::BTreeMap;

use super::topology;
use crate::field::FieldError;
use crate::instancetype::{InstancetypeSpec, MemoryInstancetype, PreferenceSpec};
use crate::quantity::Quantity;
use crate::v1::{Cpu, Memory, VirtualMachineInstanceSpec};

/// Sets what `instancetype` owns; the errors are conflicts, paths relative to the instance's spec.
pub(super) fn apply(
    instancetype: &InstancetypeSpec,
    preference: Option<&PreferenceSpec>,
    spec: &mut VirtualMachineInstanceSpec,
) -> Vec<FieldError> {
    let mut conflicts = Conflicts::default();
    placement(instancetype, spec, &mut conflicts);
    processors(instancetype, preference, spec, &mut conflicts);
    memory(&instancetype.memory, spec, &mut conflicts);
    threads(instancetype, spec, &mut conflicts);
    devices(instancetype, spec, &mut conflicts);
    conflicts.0
}

/// Adds `annotations` to those of the template, of which none may say something else.
pub(super) fn annotate(
    annotations: &BTreeMap<String, String>,
    target: &mut BTreeMap<String, String>,
) -> Vec<FieldError> {
    let mut conflicts = Conflicts::default();
    for (key, value) in annotations {
        let there = target.entry(key.clone()).or_insert_with(|| value.clone());
        conflicts.note(
            there != value,
            &format!("template.metadata.annotations.{key}"),
        );
    }
    conflicts.0
}

/// Fields that both the instance type and the template set.
#[derive(Default)]
struct Conflicts(Vec<FieldError>);

impl Conflicts {
    fn note(&mut self, conflict: bool, path: &str) {
        if conflict {
            let message = "conflicts with the instance type, which sets it: leave it out";
            self.0.push(FieldError::new(path, message));
        }
    }

    /// Sets `field` to what the instance type says, unless the template says something.
    fn set<T: Clone>(&mut self, field: &mut Option<T>, owned: &Option<T>, set: bool, path: &str) {
        if owned.is_none() {
            return;
        }
        self.note(set, path);
        if !set {
            field.clone_from(owned);
        }
    }
}

fn is_text(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

fn placement(
    instancetype: &InstancetypeSpec,
    spec: &mut VirtualMachineInstanceSpec,
    conflicts: &mut Conflicts,
) {
    if !instancetype.node_selector.is_empty() {
        conflicts.note(!spec.node_selector.is_empty(), "nodeSelector");
        spec.node_selector.clone_from(&instancetype.node_selector);
    }
    if is_text(&instancetype.scheduler_name) {
        conflicts.note(is_text(&spec.scheduler_name), "schedulerName");
        spec.scheduler_name.clone_from(&instancetype.scheduler_name);
    }
}

fn processors(
    instancetype: &InstancetypeSpec,
    preference: Option<&PreferenceSpec>,
    spec: &mut VirtualMachineInstanceSpec,
    conflicts: &mut Conflicts,
) {
    let owned = &instancetype.cpu;
    amounts(spec, "cpu", conflicts);
    let cpu: &mut Cpu = spec.domain.cpu.get_or_insert_default();
    for (part, path) in [
        (cpu.sockets, "domain.cpu.sockets"),
        (cpu.cores, "domain.cpu.cores"),
        (cpu.threads, "domain.cpu.threads"),
    ] {
        conflicts.note(part.is_some_and(|count| count > 0), path);
    }
    let set = is_text(&cpu.model);
    conflicts.set(&mut cpu.model, &owned.model, set, "domain.cpu.model");
    let set = cpu.dedicated_cpu_placement == Some(true);
    conflicts.set(
        &mut cpu.dedicated_cpu_placement,
        &owned.dedicated_cpu_placement,
        set,
        "domain.cpu.dedicatedCpuPlacement",
    );
    let set = cpu.isolate_emulator_thread == Some(true);
    conflicts.set(
        &mut cpu.isolate_emulator_thread,
        &owned.isolate_emulator_thread,
        set,
        "domain.cpu.isolateEmulatorThread",
    );
    let set = cpu.numa.is_some();
    conflicts.set(&mut cpu.numa, &owned.numa, set, "domain.cpu.numa");
    let set = cpu.realtime.is_some();
    conflicts.set(
        &mut cpu.realtime,
        &owned.realtime,
        set,
        "domain.cpu.realtime",
    );
    let set = cpu.max_sockets.is_some_and(|count| count > 0);
    conflicts.set(
        &mut cpu.max_sockets,
        &owned.max_sockets,
        set,
        "domain.cpu.maxSockets",
    );
    match topology::arrange(owned.guest, preference) {
        Ok(topology) => {
            cpu.sockets = Some(topology.sockets);
            cpu.cores = Some(topology.cores);
            cpu.threads = Some(topology.threads);
        }
        Err(error) => conflicts.0.push(error),
    }
}

/// Requests and limits of a resource that follows from the instance type.
fn amounts(spec: &VirtualMachineInstanceSpec, resource: &str, conflicts: &mut Conflicts) {
    let Some(resources) = &spec.domain.resources else {
        return;
    };
    for (name, amounts) in [
        ("requests", &resources.requests),
        ("limits", &resources.limits),
    ] {
        let path = format!("domain.resources.{name}.{resource}");
        conflicts.note(amounts.contains_key(resource), &path);
    }
}

fn memory(
    owned: &MemoryInstancetype,
    spec: &mut VirtualMachineInstanceSpec,
    conflicts: &mut Conflicts,
) {
    amounts(spec, "memory", conflicts);
    let memory: &mut Memory = spec.domain.memory.get_or_insert_default();
    conflicts.note(memory.guest.is_some(), "domain.memory.guest");
    memory.guest = Some(owned.guest.clone());
    let set = memory.hugepages.is_some();
    conflicts.set(
        &mut memory.hugepages,
        &owned.hugepages,
        set,
        "domain.memory.hugepages",
    );
    let set = memory.max_guest.is_some();
    conflicts.set(
        &mut memory.max_guest,
        &owned.max_guest,
        set,
        "domain.memory.maxGuest",
    );
    let percent = u64::try_from(owned.overcommit_percent.unwrap_or_default()).unwrap_or_default();
    if percent == 0 {
        return;
    }
    // The amount was validated before.
    if let Ok(bytes) = owned.guest.bytes() {
        let requested = u128::from(bytes) * u128::from(100_u64.saturating_sub(percent)) / 100;
        let requested = Quantity::from_bytes(u64::try_from(requested).unwrap_or(u64::MAX));
        let resources = spec.domain.resources.get_or_insert_default();
        resources.requests.insert("memory".to_owned(), requested);
    }
}

fn threads(
    instancetype: &InstancetypeSpec,
    spec: &mut VirtualMachineInstanceSpec,
    conflicts: &mut Conflicts,
) {
    let domain = &mut spec.domain;
    let set = is_text(&domain.io_threads_policy);
    conflicts.set(
        &mut domain.io_threads_policy,
        &instancetype.io_threads_policy,
        set,
        "domain.ioThreadsPolicy",
    );
    let owned = instancetype
        .io_threads
        .as_ref()
        .and_then(|threads| threads.supplemental_pool_thread_count);
    if owned.is_some() {
        let threads = domain.io_threads.get_or_insert_default();
        let count = &mut threads.supplemental_pool_thread_count;
        let set = count.is_some();
        conflicts.set(
            count,
            &owned,
            set,
            "domain.ioThreads.supplementalPoolThreadCount",
        );
    }
    let set = domain.launch_security.is_some();
    conflicts.set(
        &mut domain.launch_security,
        &instancetype.launch_security,
        set,
        "domain.launchSecurity",
    );
}

fn devices(
    instancetype: &InstancetypeSpec,
    spec: &mut VirtualMachineInstanceSpec,
    conflicts: &mut Conflicts,
) {
    let devices = &mut spec.domain.devices;
    if !instancetype.gpus.is_empty() {
        conflicts.note(!devices.gpus.is_empty(), "domain.devices.gpus");
        devices.gpus.clone_from(&instancetype.gpus);
    }
    if !instancetype.host_devices.is_empty() {
        conflicts.note(
            !devices.host_devices.is_empty(),
            "domain.devices.hostDevices",
        );
        devices.host_devices.clone_from(&instancetype.host_devices);
    }
}
