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

/// Everything about the machines that were added.
#[derive(Default)]
pub(super) struct Machines {
    count: BTreeMap<String, u64>,
    info: Gauge,
    created: Gauge,
    timestamps: [Gauge; Group::ALL.len()],
    requests: Gauge,
    limits: Gauge,
}

impl Machines {
    /// Adds one.
    pub(super) fn add(&mut self, vm: &VirtualMachine) {
        *self.count.entry(namespace(vm).to_owned()).or_default() += 1;
        info(&mut self.info, vm);
        if let Some(time) = &vm.metadata.creation_timestamp {
            let seconds = time.0.as_duration().as_secs_f64();
            self.created.put(&own(vm), seconds);
        }
        for (gauge, of) in self.timestamps.iter_mut().zip(Group::ALL) {
            // Zero while it is in another: queries add the five up.
            let time = if group(vm) == of { changed(vm) } else { 0.0 };
            gauge.put(&own(vm), time);
        }
        requests(&mut self.requests, vm);
        limits(&mut self.limits, vm);
    }

    /// Writes it.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut count = Gauge::default();
        for (namespace, number) in &self.count {
            count.put(&[("namespace", namespace)], value(*number));
        }
        count.encode(encoder, "kubevirt_number_of_vms", "Machines by namespace")?;
        let help = "What a machine is and how it is; always 1";
        self.info.encode(encoder, "kubevirt_vm_info", help)?;
        let name = "kubevirt_vm_create_date_timestamp_seconds";
        self.created
            .encode(encoder, name, "When the machine was created")?;
        for (gauge, group) in self.timestamps.iter().zip(Group::ALL) {
            let (name, help) = group.timestamp();
            gauge.encode(encoder, name, help)?;
        }
        let help = "What a machine asks for, by where its spec says so";
        self.requests
            .encode(encoder, "kubevirt_vm_resource_requests", help)?;
        let help = "The limits of a machine, where its spec has any";
        self.limits
            .encode(encoder, "kubevirt_vm_resource_limits", help)
    }
}

fn info(gauge: &mut Gauge, vm: &VirtualMachine) {
    let template = vm.spec.template.metadata.as_ref();
    let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
    let said = |key: &str| annotations.and_then(|all| all.get(key)).map_or("", |it| it);
    let [os, workload, flavor] = SYSTEM.map(|(label, key)| (label, said(key)));
    let instance_type = vm.spec.instancetype.as_ref();
    let preference = vm.spec.preference.as_ref();
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
        ("status", status(vm).map_or("", PrintableStatus::as_str)),
        ("status_group", group(vm).label()),
    ];
    gauge.put(&labels, 1.0);
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

fn requests(gauge: &mut Gauge, vm: &VirtualMachine) {
    let Some(spec) = &vm.spec.template.spec else {
        return;
    };
    let mut put = |resource, unit, source, amount| {
        let labels = [
            ("name", name(vm)),
            ("namespace", namespace(vm)),
            ("resource", resource),
            ("unit", unit),
            ("source", source),
        ];
        gauge.put(&labels, amount);
    };
    let domain = &spec.domain;
    let guest = domain.memory.as_ref().and_then(|it| it.guest.as_ref());
    if let Some(Ok(bytes)) = guest.map(vm_api::Quantity::bytes) {
        put("memory", "bytes", "guest", value(bytes));
    }
    if let Some(bytes) = requested(spec, "memory").and_then(|it| it.bytes().ok()) {
        put("memory", "bytes", "domain", value(bytes));
    }
    if let Ok(bytes) = reading::guest_memory_bytes(spec, None) {
        put("memory", "bytes", "guest_effective", value(bytes));
    }
    if let Some(millis) = requested(spec, "cpu").and_then(|it| it.millis().ok()) {
        put("cpu", "cores", "requests", value(millis) / 1000.0);
    }
    if let Ok(topology) = reading::topology(spec, None) {
        let source = if domain.cpu.is_some() {
            "domain"
        } else {
            "default"
        };
        put("cpu", "cores", source, topology.cores.into());
        put("cpu", "sockets", source, topology.sockets.into());
        put("cpu", "threads", source, topology.threads.into());
        put("cpu", "cores", "guest_effective", topology.vcpus().into());
    }
}

fn limits(gauge: &mut Gauge, vm: &VirtualMachine) {
    let resources = vm.spec.template.spec.as_ref();
    let Some(resources) = resources.and_then(|spec| spec.domain.resources.as_ref()) else {
        return;
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
            gauge.put(&labels, amount);
        }
    }
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
