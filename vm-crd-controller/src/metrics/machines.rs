//! `kubevirt_vm_*`: what KubeVirt's virt-controller exports about VirtualMachines, by the same names
//! and labels (kubevirt/kubevirt, docs/observability/metrics.md).

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use vm_api::machine as reading;
use vm_api::v1::{PrintableStatus, VirtualMachine, VirtualMachineInstanceSpec};

use super::objects::{Gauge, value};

/// The annotations of a template that describe the guest, and the labels that they become.
pub(super) const SYSTEM: [(&str, &str); 3] = [
    ("os", "vm.kubevirt.io/os"),
    ("workload", "vm.kubevirt.io/workload"),
    ("flavor", "vm.kubevirt.io/flavor"),
];

/// The conditions whose last change is the machine's last change of status.
const TELLING: [&str; 3] = ["Ready", "Failure", "Paused"];

/// What a status amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Starting,
    Running,
    Migrating,
    NonRunning,
    Error,
}

impl Group {
    const ALL: [Self; 5] = [
        Self::Starting,
        Self::Running,
        Self::Migrating,
        Self::NonRunning,
        Self::Error,
    ];

    fn of(status: PrintableStatus) -> Self {
        use PrintableStatus as Status;
        match status {
            Status::Provisioning
            | Status::Starting
            | Status::WaitingForVolumeBinding
            | Status::WaitingForReceiver => Self::Starting,
            Status::Running => Self::Running,
            Status::Migrating => Self::Migrating,
            Status::Stopped | Status::Paused | Status::Stopping | Status::Terminating => {
                Self::NonRunning
            }
            _ => Self::Error,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Migrating => "migrating",
            Self::NonRunning => "non_running",
            Self::Error => "error",
        }
    }

    fn timestamp(self) -> (&'static str, &'static str) {
        match self {
            Self::Starting => (
                "kubevirt_vm_starting_status_last_transition_timestamp_seconds",
                "When the machine's status last turned to one of starting",
            ),
            Self::Running => (
                "kubevirt_vm_running_status_last_transition_timestamp_seconds",
                "When the machine's status last turned to running",
            ),
            Self::Migrating => (
                "kubevirt_vm_migrating_status_last_transition_timestamp_seconds",
                "When the machine's status last turned to migrating",
            ),
            Self::NonRunning => (
                "kubevirt_vm_non_running_status_last_transition_timestamp_seconds",
                "When the machine's status last turned to one of a guest that does not run",
            ),
            Self::Error => (
                "kubevirt_vm_error_status_last_transition_timestamp_seconds",
                "When the machine's status last turned to an error",
            ),
        }
    }
}

/// Writes everything about these machines.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    machines: &[&VirtualMachine],
) -> fmt::Result {
    count(encoder, machines)?;
    info(encoder, machines)?;
    created(encoder, machines)?;
    for group in Group::ALL {
        timestamps(encoder, machines, group)?;
    }
    requests(encoder, machines)?;
    limits(encoder, machines)
}

fn count(encoder: &mut DescriptorEncoder<'_>, machines: &[&VirtualMachine]) -> fmt::Result {
    let mut counts = BTreeMap::<&str, u64>::new();
    for vm in machines {
        *counts.entry(namespace(vm)).or_default() += 1;
    }
    let help = "Machines by namespace";
    let mut gauge = Gauge::begin(encoder, "kubevirt_number_of_vms", help)?;
    for (namespace, count) in counts {
        gauge.put(&[("namespace", namespace)], value(count))?;
    }
    Ok(())
}

fn info(encoder: &mut DescriptorEncoder<'_>, machines: &[&VirtualMachine]) -> fmt::Result {
    let help = "What a machine is and how it is; always 1";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vm_info", help)?;
    for vm in machines {
        let template = vm.spec.template.metadata.as_ref();
        let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
        let said = |key: &str| annotations.and_then(|all| all.get(key)).map_or("", |it| it);
        let [os, workload, flavor] = SYSTEM.map(|(label, key)| (label, said(key)));
        let instance_type = vm.spec.instancetype.as_ref();
        let preference = vm.spec.preference.as_ref();
        let status = status(vm);
        let labels = [
            ("name", name(vm)),
            ("namespace", namespace(vm)),
            os,
            workload,
            flavor,
            (
                "instance_type",
                instance_type
                    .and_then(|it| it.name.as_deref())
                    .unwrap_or(""),
            ),
            (
                "preference",
                preference.and_then(|it| it.name.as_deref()).unwrap_or(""),
            ),
            ("status", status.map_or("", PrintableStatus::as_str)),
            ("status_group", group(vm).label()),
        ];
        gauge.put(&labels, 1.0)?;
    }
    Ok(())
}

fn created(encoder: &mut DescriptorEncoder<'_>, machines: &[&VirtualMachine]) -> fmt::Result {
    let name = "kubevirt_vm_create_date_timestamp_seconds";
    let mut gauge = Gauge::begin(encoder, name, "When the machine was created")?;
    for vm in machines {
        if let Some(time) = &vm.metadata.creation_timestamp {
            gauge.put(&own(vm), time.0.as_duration().as_secs_f64())?;
        }
    }
    Ok(())
}

fn timestamps(
    encoder: &mut DescriptorEncoder<'_>,
    machines: &[&VirtualMachine],
    wanted: Group,
) -> fmt::Result {
    let (name, help) = wanted.timestamp();
    let mut gauge = Gauge::begin(encoder, name, help)?;
    for vm in machines {
        // Zero while it is in another: queries add the five up.
        let time = if group(vm) == wanted {
            changed(vm)
        } else {
            0.0
        };
        gauge.put(&own(vm), time)?;
    }
    Ok(())
}

/// When the machine's status last changed, in seconds since the epoch; 0 if nothing tells.
fn changed(vm: &VirtualMachine) -> f64 {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let times = conditions
        .filter(|condition| TELLING.contains(&condition.r#type.as_str()))
        .filter_map(|condition| condition.last_transition_time.as_ref());
    times
        .map(|time| time.0.as_duration().as_secs_f64())
        .fold(0.0, f64::max)
}

fn requests(encoder: &mut DescriptorEncoder<'_>, machines: &[&VirtualMachine]) -> fmt::Result {
    let help = "What a machine asks for, by where its spec says so";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vm_resource_requests", help)?;
    for vm in machines {
        let Some(spec) = &vm.spec.template.spec else {
            continue;
        };
        let mut put = |resource, unit, source, amount| {
            let labels = [
                ("name", name(vm)),
                ("namespace", namespace(vm)),
                ("resource", resource),
                ("unit", unit),
                ("source", source),
            ];
            gauge.put(&labels, amount)
        };
        let domain = &spec.domain;
        let guest = domain.memory.as_ref().and_then(|it| it.guest.as_ref());
        if let Some(Ok(bytes)) = guest.map(vm_api::Quantity::bytes) {
            put("memory", "bytes", "guest", value(bytes))?;
        }
        if let Some(bytes) = requested(spec, "memory").and_then(|it| it.bytes().ok()) {
            put("memory", "bytes", "domain", value(bytes))?;
        }
        if let Ok(bytes) = reading::guest_memory_bytes(spec, None) {
            put("memory", "bytes", "guest_effective", value(bytes))?;
        }
        if let Some(millis) = requested(spec, "cpu").and_then(|it| it.millis().ok()) {
            put("cpu", "cores", "requests", value(millis) / 1000.0)?;
        }
        if let Ok(topology) = reading::topology(spec, None) {
            let source = if domain.cpu.is_some() {
                "domain"
            } else {
                "default"
            };
            put("cpu", "cores", source, topology.cores.into())?;
            put("cpu", "sockets", source, topology.sockets.into())?;
            put("cpu", "threads", source, topology.threads.into())?;
            put("cpu", "cores", "guest_effective", topology.vcpus().into())?;
        }
    }
    Ok(())
}

fn limits(encoder: &mut DescriptorEncoder<'_>, machines: &[&VirtualMachine]) -> fmt::Result {
    let help = "The limits of a machine, where its spec has any";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vm_resource_limits", help)?;
    for vm in machines {
        let resources = vm.spec.template.spec.as_ref();
        let Some(resources) = resources.and_then(|spec| spec.domain.resources.as_ref()) else {
            continue;
        };
        for (resource, quantity) in &resources.limits {
            let (unit, amount) = match resource.as_str() {
                "memory" => ("bytes", quantity.bytes().map(value)),
                "cpu" => ("cores", quantity.millis().map(|it| value(it) / 1000.0)),
                _ => continue,
            };
            let labels = [
                ("name", name(vm)),
                ("namespace", namespace(vm)),
                ("resource", resource),
                ("unit", unit),
            ];
            if let Ok(amount) = amount {
                gauge.put(&labels, amount)?;
            }
        }
    }
    Ok(())
}

fn requested<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    resource: &str,
) -> Option<&'a vm_api::Quantity> {
    spec.domain.resources.as_ref()?.requests.get(resource)
}

fn status(vm: &VirtualMachine) -> Option<PrintableStatus> {
    vm.status.as_ref()?.printable_status
}

/// A machine that nobody looked at yet is on its way.
fn group(vm: &VirtualMachine) -> Group {
    status(vm).map_or(Group::Starting, Group::of)
}

fn name(vm: &VirtualMachine) -> &str {
    vm.metadata.name.as_deref().unwrap_or_default()
}

fn namespace(vm: &VirtualMachine) -> &str {
    vm.metadata.namespace.as_deref().unwrap_or_default()
}

fn own(vm: &VirtualMachine) -> [(&'static str, &str); 2] {
    [("name", name(vm)), ("namespace", namespace(vm))]
}
