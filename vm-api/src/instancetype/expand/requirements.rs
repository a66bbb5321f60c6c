//! What a preference requires of a machine: processors, memory, an architecture.

use super::topology;
use crate::defaults::ARCHITECTURE;
use crate::field::FieldError;
use crate::instancetype::{
    InstancetypeSpec, PreferenceSpec, PreferredCpuTopology, Requirements, SpreadAcross,
};
use crate::machine::{self, Topology};
use crate::v1::VirtualMachineInstanceSpec;

/// The first requirement that is not met, in KubeVirt's order; paths relative to the machine's spec.
pub(super) fn check(
    required: &Requirements,
    instancetype: Option<&InstancetypeSpec>,
    preference: &PreferenceSpec,
    spec: &VirtualMachineInstanceSpec,
) -> Vec<FieldError> {
    [
        processors(required, instancetype, preference, spec),
        memory(required, instancetype, spec),
        architecture(required, spec),
    ]
    .into_iter()
    .find(|errors| !errors.is_empty())
    .unwrap_or_default()
}

fn processors(
    required: &Requirements,
    instancetype: Option<&InstancetypeSpec>,
    preference: &PreferenceSpec,
    spec: &VirtualMachineInstanceSpec,
) -> Vec<FieldError> {
    let Some(required) = required.cpu.as_ref().map(|cpu| cpu.guest) else {
        return Vec::new();
    };
    if let Some(instancetype) = instancetype {
        let given = instancetype.cpu.guest;
        let message = format!(
            "has {given} processors, and the preference requires {required}: use a larger one"
        );
        return (given < required)
            .then(|| FieldError::new("instancetype", message))
            .into_iter()
            .collect();
    }
    // Amounts that cannot be read are refused by the validation of whoever gave them.
    let Ok(topology) = machine::topology(spec, None) else {
        return Vec::new();
    };
    let parts = parts_that_count(preference);
    let given = parts.iter().fold(1_u32, |product, part| {
        product.saturating_mul(count(topology, part))
    });
    if given >= required {
        return Vec::new();
    }
    let message = format!(
        "the preference requires {required} processors as {}, and the machine has {given}: set more",
        parts.join(" and ")
    );
    let error = |part| FieldError::new(format!("template.spec.domain.cpu.{part}"), &message);
    parts.iter().map(error).collect()
}

/// The parts of a topology whose product has to reach what is required.
fn parts_that_count(preference: &PreferenceSpec) -> &'static [&'static str] {
    use PreferredCpuTopology as Word;
    match topology::preferred(Some(preference)) {
        Word::Threads | Word::PreferThreads => &["threads"],
        Word::Cores | Word::PreferCores => &["cores"],
        Word::Sockets | Word::PreferSockets => &["sockets"],
        Word::Any | Word::PreferAny => &["cores", "sockets", "threads"],
        Word::Spread | Word::PreferSpread => match topology::spread(preference).1 {
            SpreadAcross::SocketsCores => &["sockets", "cores"],
            SpreadAcross::CoresThreads => &["cores", "threads"],
            SpreadAcross::SocketsCoresThreads => &["sockets", "cores", "threads"],
        },
    }
}

fn count(topology: Topology, part: &str) -> u32 {
    match part {
        "sockets" => topology.sockets,
        "cores" => topology.cores,
        _ => topology.threads,
    }
}

fn memory(
    required: &Requirements,
    instancetype: Option<&InstancetypeSpec>,
    spec: &VirtualMachineInstanceSpec,
) -> Vec<FieldError> {
    let Some(required) = required.memory.as_ref().map(|memory| &memory.guest) else {
        return Vec::new();
    };
    let Ok(least) = required.bytes() else {
        return Vec::new();
    };
    let given = machine::guest_memory_bytes(spec, None);
    if given.as_ref().is_ok_and(|given| *given >= least) {
        return Vec::new();
    }
    let path = if instancetype.is_some() {
        "instancetype"
    } else {
        "template.spec.domain.memory"
    };
    let has = given.map_or("none".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let message = format!("the preference requires {required} of memory, and there is {has}");
    vec![FieldError::new(path, message)]
}

fn architecture(required: &Requirements, spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let Some(required) = required.architecture.as_deref() else {
        return Vec::new();
    };
    let given = spec.architecture.as_deref().filter(|text| !text.is_empty());
    let given = given.unwrap_or(ARCHITECTURE);
    if given == required {
        return Vec::new();
    }
    let message = format!("the preference requires {required}, and the machine's is {given}");
    vec![FieldError::new("template.spec.architecture", message)]
}
