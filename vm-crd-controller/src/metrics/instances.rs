//! `kubevirt_vmi_*`: what KubeVirt's virt-controller exports about VirtualMachineInstances, by the
//! same names and labels. What a machine uses of its node is not here: kubelet exports it for the pod,
//! and the rules of the chart give it KubeVirt's names.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use vm_api::v1::{Phase, VirtualMachineInstance};

use super::machines::SYSTEM;
use super::objects::{Gauge, value};
use crate::conditions::find;
use crate::render;

/// Annotations of an instance that name its instance type, the namespaced first.
const INSTANCE_TYPE: [&str; 2] = [
    "kubevirt.io/instancetype-name",
    "kubevirt.io/cluster-instancetype-name",
];

/// The same of its preference.
const PREFERENCE: [&str; 2] = [
    "kubevirt.io/preference-name",
    "kubevirt.io/cluster-preference-name",
];

/// Everything about the instances that were added.
#[derive(Default)]
pub(super) struct Instances {
    count: BTreeMap<(String, Phase), u64>,
    info: Gauge,
    non_evictable: Gauge,
    addresses: Gauge,
    memory: Gauge,
}

impl Instances {
    /// Adds one.
    pub(super) fn add(&mut self, instance: &VirtualMachineInstance) {
        let kind = (node(instance).to_owned(), phase(instance));
        *self.count.entry(kind).or_default() += 1;
        info(&mut self.info, instance);
        let stuck = if is_evictable(instance) { 0.0 } else { 1.0 };
        self.non_evictable.put(&own(instance), stuck);
        addresses(&mut self.addresses, instance);
        let memory = instance.status.as_ref().and_then(|it| it.memory.as_ref());
        let current = memory.and_then(|memory| memory.guest_current.as_ref());
        if let Some(Ok(bytes)) = current.map(vm_api::Quantity::bytes) {
            self.memory.put(&own(instance), value(bytes));
        }
    }

    /// Writes it.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut count = Gauge::default();
        for ((node, phase), number) in &self.count {
            let phase = phase.as_str().to_lowercase();
            count.put(&[("node", node), ("phase", &phase)], value(*number));
        }
        let help = "Instances by phase and node";
        count.encode(encoder, "kubevirt_vmi_phase_count", help)?;
        let help = "What an instance is and how it is; always 1";
        self.info.encode(encoder, "kubevirt_vmi_info", help)?;
        let help = "1 where an instance is to be migrated rather than evicted, and cannot be";
        self.non_evictable
            .encode(encoder, "kubevirt_vmi_non_evictable", help)?;
        let help = "The addresses of an instance's interfaces; always 1";
        self.addresses
            .encode(encoder, "kubevirt_vmi_status_addresses", help)?;
        let help = "Memory that the machine has, in bytes";
        self.memory
            .encode(encoder, "kubevirt_vmi_memory_domain_bytes", help)
    }
}

fn info(gauge: &mut Gauge, instance: &VirtualMachineInstance) {
    let annotations = instance.metadata.annotations.as_ref();
    let said = |key: &str| annotations.and_then(|all| all.get(key));
    let [os, workload, flavor] = SYSTEM.map(|(label, key)| (label, said(key).map_or("", |it| it)));
    let first = |keys: [&str; 2]| keys.iter().find_map(|key| said(key)).map_or("", |it| it);
    let status = instance.status.as_ref();
    let guest = status.and_then(|status| status.guest_os_info.as_ref());
    let machine = status.and_then(|status| status.machine.as_ref());
    let text =
        |text: Option<&Option<String>>| -> String { text.cloned().flatten().unwrap_or_default() };
    let kernel = text(guest.map(|it| &it.kernel_release));
    let arch = text(guest.map(|it| &it.machine));
    let guest_name = text(guest.map(|it| &it.name));
    let version = text(guest.map(|it| &it.version_id));
    let machine = text(machine.map(|it| &it.r#type));
    let phase = phase(instance);
    let pod = match phase {
        Phase::Running => render::pod_name(instance),
        _ => String::new(),
    };
    let phase = phase.as_str().to_lowercase();
    let labels = [
        ("node", node(instance)),
        ("namespace", namespace(instance)),
        ("name", name(instance)),
        ("phase", &phase),
        os,
        workload,
        flavor,
        ("instance_type", first(INSTANCE_TYPE)),
        ("preference", first(PREFERENCE)),
        ("guest_os_kernel_release", &kernel),
        ("guest_os_machine", &machine),
        ("guest_os_arch", &arch),
        ("guest_os_name", &guest_name),
        ("guest_os_version_id", &version),
        (
            "evictable",
            if is_evictable(instance) {
                "true"
            } else {
                "false"
            },
        ),
        ("vmi_pod", &pod),
    ];
    gauge.put(&labels, 1.0);
}

/// Who asks for migration when its node is drained can be evicted only if it can be migrated.
fn is_evictable(instance: &VirtualMachineInstance) -> bool {
    let asks = instance.spec.eviction_strategy.as_deref() == Some("LiveMigrate");
    let conditions = instance.status.as_ref().map(|status| &status.conditions);
    let can = conditions
        .and_then(|conditions| find(conditions, "LiveMigratable"))
        .is_some_and(|condition| condition.status == "True");
    !asks || can
}

fn addresses(gauge: &mut Gauge, instance: &VirtualMachineInstance) {
    let interfaces = instance.status.iter().flat_map(|status| &status.interfaces);
    for interface in interfaces {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let (vnic, inner) = (of(&interface.name), of(&interface.interface_name));
        let address = of(&interface.ip_address);
        let kind = match address.as_str() {
            "" if vnic.is_empty() && inner.is_empty() => continue,
            "" => "SystemInterface",
            _ => "ExternalInterface",
        };
        let [node, namespace, name] = own(instance);
        let labels = [
            node,
            namespace,
            name,
            ("vnic_name", &vnic),
            ("interface_name", &inner),
            ("address", &address),
            ("type", kind),
        ];
        gauge.put(&labels, 1.0);
    }
}

fn phase(instance: &VirtualMachineInstance) -> Phase {
    let status = instance.status.as_ref();
    status
        .and_then(|status| status.phase)
        .unwrap_or(Phase::Pending)
}

fn node(instance: &VirtualMachineInstance) -> &str {
    let status = instance.status.as_ref();
    status
        .and_then(|status| status.node_name.as_deref())
        .unwrap_or_default()
}

fn name(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.name.as_deref().unwrap_or_default()
}

fn namespace(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.namespace.as_deref().unwrap_or_default()
}

fn own(instance: &VirtualMachineInstance) -> [(&'static str, &str); 3] {
    [
        ("node", node(instance)),
        ("namespace", namespace(instance)),
        ("name", name(instance)),
    ]
}
