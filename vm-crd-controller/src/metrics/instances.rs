//! `kubevirt_vmi_*`: what KubeVirt's virt-controller exports about VirtualMachineInstances, by the
//! same names and labels. What a machine uses of its node is not here: kubelet exports it for the pod,
//! and the rules of the chart give it KubeVirt's names.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use vm_api::v1::{InterfaceStatus, Phase, VirtualMachineInstance};

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

/// An instance, as far as it is exported.
pub(super) struct Instance {
    node: String,
    namespace: String,
    name: String,
    phase: Phase,
    /// In the order of [`SYSTEM`].
    system: [String; 3],
    instance_type: String,
    preference: String,
    guest: Guest,
    /// The type of its machine.
    machine: String,
    evictable: bool,
    /// The name of its pod, while it runs.
    pod: String,
    addresses: Vec<Address>,
    /// Memory that it has, in bytes.
    memory: Option<u64>,
}

/// What the guest told of itself.
#[derive(Default)]
struct Guest {
    kernel: String,
    arch: String,
    name: String,
    version: String,
}

/// An interface with what leads to it.
struct Address {
    vnic: String,
    inner: String,
    address: String,
    kind: &'static str,
}

impl From<&VirtualMachineInstance> for Instance {
    fn from(instance: &VirtualMachineInstance) -> Self {
        let annotations = instance.metadata.annotations.as_ref();
        let said = |key: &str| annotations.and_then(|all| all.get(key)).cloned();
        let first = |keys: [&str; 2]| keys.into_iter().find_map(said).unwrap_or_default();
        let status = instance.status.as_ref();
        let phase = status
            .and_then(|status| status.phase)
            .unwrap_or(Phase::Pending);
        let guest = status.and_then(|status| status.guest_os_info.as_ref());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let memory = status.and_then(|status| status.memory.as_ref());
        let current = memory.and_then(|memory| memory.guest_current.as_ref());
        let interfaces = status.iter().flat_map(|status| &status.interfaces);
        Self {
            node: status
                .and_then(|status| status.node_name.clone())
                .unwrap_or_default(),
            namespace: text(&instance.metadata.namespace),
            name: text(&instance.metadata.name),
            phase,
            system: SYSTEM.map(|(_, key)| said(key).unwrap_or_default()),
            instance_type: first(INSTANCE_TYPE),
            preference: first(PREFERENCE),
            guest: guest.map_or_else(Guest::default, |guest| Guest {
                kernel: text(&guest.kernel_release),
                arch: text(&guest.machine),
                name: text(&guest.name),
                version: text(&guest.version_id),
            }),
            machine: status
                .and_then(|status| status.machine.as_ref())
                .map(|machine| text(&machine.r#type))
                .unwrap_or_default(),
            evictable: is_evictable(instance),
            pod: match phase {
                Phase::Running => render::pod_name(instance),
                _ => String::new(),
            },
            addresses: interfaces.filter_map(address).collect(),
            memory: current.and_then(|memory| memory.bytes().ok()),
        }
    }
}

impl Instance {
    fn own(&self) -> [(&'static str, &str); 3] {
        [
            ("node", &self.node),
            ("namespace", &self.namespace),
            ("name", &self.name),
        ]
    }
}

/// Writes everything about these instances.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    count(encoder, instances)?;
    info(encoder, instances)?;
    evictable(encoder, instances)?;
    addresses(encoder, instances)?;
    memory(encoder, instances)
}

fn count(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    let mut counts = BTreeMap::<(&str, Phase), u64>::new();
    for instance in instances {
        *counts.entry((&instance.node, instance.phase)).or_default() += 1;
    }
    let help = "Instances by phase and node";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vmi_phase_count", help)?;
    for ((node, phase), count) in counts {
        let phase = phase.as_str().to_lowercase();
        gauge.put(&[("node", node), ("phase", &phase)], value(count))?;
    }
    Ok(())
}

fn info(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    let help = "What an instance is and how it is; always 1";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vmi_info", help)?;
    for instance in instances {
        let [node, namespace, name] = instance.own();
        let system = |at: usize| (SYSTEM[at].0, instance.system[at].as_str());
        let [os, workload, flavor] = [0, 1, 2].map(system);
        let phase = instance.phase.as_str().to_lowercase();
        let guest = &instance.guest;
        let evictable = if instance.evictable { "true" } else { "false" };
        let labels = [
            node,
            namespace,
            name,
            ("phase", &phase),
            os,
            workload,
            flavor,
            ("instance_type", &instance.instance_type),
            ("preference", &instance.preference),
            ("guest_os_kernel_release", &guest.kernel),
            ("guest_os_machine", &instance.machine),
            ("guest_os_arch", &guest.arch),
            ("guest_os_name", &guest.name),
            ("guest_os_version_id", &guest.version),
            ("evictable", evictable),
            ("vmi_pod", &instance.pod),
        ];
        gauge.put(&labels, 1.0)?;
    }
    Ok(())
}

fn evictable(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    let help = "1 where an instance is to be migrated rather than evicted, and cannot be";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vmi_non_evictable", help)?;
    for instance in instances {
        let stuck = if instance.evictable { 0.0 } else { 1.0 };
        gauge.put(&instance.own(), stuck)?;
    }
    Ok(())
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

fn addresses(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    let help = "The addresses of an instance's interfaces; always 1";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vmi_status_addresses", help)?;
    for instance in instances {
        for address in &instance.addresses {
            let [node, namespace, name] = instance.own();
            let labels = [
                node,
                namespace,
                name,
                ("vnic_name", &address.vnic),
                ("interface_name", &address.inner),
                ("address", &address.address),
                ("type", address.kind),
            ];
            gauge.put(&labels, 1.0)?;
        }
    }
    Ok(())
}

fn address(interface: &InterfaceStatus) -> Option<Address> {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let (vnic, inner) = (of(&interface.name), of(&interface.interface_name));
    let address = of(&interface.ip_address);
    let kind = match address.as_str() {
        "" if vnic.is_empty() && inner.is_empty() => return None,
        "" => "SystemInterface",
        _ => "ExternalInterface",
    };
    Some(Address {
        vnic,
        inner,
        address,
        kind,
    })
}

fn memory(encoder: &mut DescriptorEncoder<'_>, instances: &[Instance]) -> fmt::Result {
    let help = "Memory that the machine has, in bytes";
    let mut gauge = Gauge::begin(encoder, "kubevirt_vmi_memory_domain_bytes", help)?;
    for instance in instances {
        if let Some(bytes) = instance.memory {
            gauge.put(&instance.own(), value(bytes))?;
        }
    }
    Ok(())
}
