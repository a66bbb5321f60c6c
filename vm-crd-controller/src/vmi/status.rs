//! The status of an instance, computed whole from what is observed.
//!
//! What the new status does not mention is gone; what an ended guest leaves behind (its node, its
//! error) is carried over from the old status.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use vm_api::machine as reading;
use vm_api::v1::{
    InterfaceStatus, Machine, MemoryStatus, Phase, PhaseTransitionTimestamp,
    VirtualMachineInstanceSpec, VirtualMachineInstanceStatus,
};

use super::asked;
use super::conditions;
use super::decide::Observed;
use super::phase::Seen;
use super::pod::{self, Progress};
use super::{resize, volumes};
use crate::conditions::{find, kind, with_times};
use crate::{clock, machine};

/// The interface of the pod's network namespace that the first network is bound to.
const POD_INTERFACE: &str = "eth0";

/// Queues that an interface has at most (as the node sees to it).
const MOST_QUEUES: u32 = 64;

/// The status of the observed instance in phase `phase`.
pub(super) fn of(
    observed: &Observed<'_>,
    phase: Phase,
    seen: &Seen,
) -> VirtualMachineInstanceStatus {
    let old = observed.instance.status.clone().unwrap_or_default();
    let spec = &observed.instance.spec;
    let mut status = VirtualMachineInstanceStatus {
        phase: Some(phase),
        phase_transition_timestamps: transitions(observed, &old, phase, seen),
        reason: conditions::failure(seen)
            .map(|complaint| complaint.reason.clone())
            .or(old.reason.clone()),
        ..old.clone()
    };
    status.interfaces = interfaces(observed, phase);
    if let Some(pod) = observed.pod {
        describe_pod(&mut status, pod);
        status.volume_status = volumes::status(spec, pod);
    }
    if phase == Phase::Running {
        if old.memory.is_none() {
            describe_machine(&mut status, spec);
        }
        resize::describe(&mut status, observed);
        status.guest_os_info = asked::guest_os_info(observed, &old);
        status.interfaces = asked::with_guests(status.interfaces, observed, &old);
    }
    let conditions = conditions::of(observed, &old, phase, seen);
    status.conditions = with_times(conditions, &old.conditions, &observed.now);
    status
}

/// `status` with the versioned machine type, if the machine told it: worth no write of its own.
pub(super) fn with_versions(
    mut status: VirtualMachineInstanceStatus,
    observed: &Observed<'_>,
) -> VirtualMachineInstanceStatus {
    if let Some(name) = observed.told.and_then(|told| told.machine_type.clone()) {
        status.machine = Some(Machine { r#type: Some(name) });
    }
    status
}

/// Whether a status says that something is wrong, so that it must not wait.
pub(super) fn tells_of_trouble(status: &VirtualMachineInstanceStatus) -> bool {
    let is_false = |kind| find(&status.conditions, kind).is_some_and(|c| c.status == "False");
    is_false(kind::SYNCHRONIZED) || is_false(kind::POD_SCHEDULED)
}

fn describe_pod(status: &mut VirtualMachineInstanceStatus, pod: &Pod) {
    let Some(node) = pod::node(pod) else {
        return;
    };
    status.node_name = Some(node.to_owned());
    if let Some(uid) = pod.uid() {
        status.active_pods = [(uid, node.to_owned())].into();
    }
    status.qos_class = pod
        .status
        .as_ref()
        .and_then(|status| status.qos_class.clone());
    let security = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    status.runtime_user = security.and_then(|context| context.run_as_user);
}

fn describe_machine(status: &mut VirtualMachineInstanceStatus, spec: &VirtualMachineInstanceSpec) {
    status.current_cpu_topology = reading::topology(spec, None).ok().map(resize::in_status);
    status.machine = spec
        .domain
        .machine
        .as_ref()
        .and_then(|machine| machine.r#type.clone())
        .map(|name| Machine { r#type: Some(name) });
    if let Ok(bytes) = vm_api::machine::guest_memory_bytes(spec, None) {
        let memory = vm_api::Quantity::from_bytes(bytes);
        status.memory = Some(MemoryStatus {
            guest_at_boot: Some(memory.clone()),
            guest_current: Some(memory.clone()),
            guest_requested: Some(memory),
            memory_overhead: None,
        });
    }
}

fn interfaces(observed: &Observed<'_>, phase: Phase) -> Vec<InterfaceStatus> {
    let Some(pod) = observed.pod.filter(|pod| pod::node(pod).is_some()) else {
        return observed
            .instance
            .status
            .as_ref()
            .filter(|_| phase.is_final())
            .map(|old| {
                old.interfaces
                    .iter()
                    .cloned()
                    .map(without_addresses)
                    .collect()
            })
            .unwrap_or_default();
    };
    let running = phase == Phase::Running;
    let addresses = if running {
        pod::addresses(pod)
    } else {
        Vec::new()
    };
    let spec = &observed.instance.spec;
    let queues = match spec.domain.devices.network_interface_multiqueue {
        Some(true) => reading::topology(spec, None).map_or(1, |topology| {
            i32::try_from(topology.vcpus().min(MOST_QUEUES)).unwrap_or(1)
        }),
        _ => 1,
    };
    machine::interfaces(observed.instance)
        .into_iter()
        .map(|(name, mac)| {
            let pod_interface = reading::pod_interfaces(spec, &name).swap_remove(0);
            // Of further networks, the pod's status knows nothing.
            let addresses = if pod_interface == POD_INTERFACE {
                guests(spec, &name, &addresses)
            } else {
                Vec::new()
            };
            let mut listed = spec.domain.devices.interfaces.iter();
            let listed = listed.find(|interface| interface.name == name);
            let state = listed.and_then(|interface| interface.state.as_deref());
            let state = state.filter(|state| !state.is_empty()).unwrap_or("up");
            InterfaceStatus {
                name: Some(name),
                pod_interface_name: Some(pod_interface),
                mac: running.then_some(mac).filter(|mac| !mac.is_empty()),
                ip_address: addresses.first().cloned(),
                ip_addresses: addresses,
                info_source: running.then(|| asked::DOMAIN.to_owned()),
                link_state: running.then(|| state.to_owned()),
                queue_count: running.then_some(queues),
                ..InterfaceStatus::default()
            }
        })
        .collect()
}

/// Those of the pod's addresses that the guest has by its interface `name`: on a bridge, it is told of
/// IPv4 alone.
fn guests(spec: &VirtualMachineInstanceSpec, name: &str, addresses: &[String]) -> Vec<String> {
    let mut interfaces = spec.domain.devices.interfaces.iter();
    let bridged = interfaces.any(|interface| interface.name == name && interface.bridge.is_some());
    let told = |address: &&String| !bridged || address.parse::<Ipv4Addr>().is_ok();
    addresses.iter().filter(told).cloned().collect()
}

fn without_addresses(interface: InterfaceStatus) -> InterfaceStatus {
    InterfaceStatus {
        ip_address: None,
        ip_addresses: Vec::new(),
        ..interface
    }
}

/// The times at which phases began, with those that were passed without being written.
fn transitions(
    observed: &Observed<'_>,
    old: &VirtualMachineInstanceStatus,
    phase: Phase,
    seen: &Seen,
) -> Vec<PhaseTransitionTimestamp> {
    let mut known = old.phase_transition_timestamps.clone();
    let mut add = |phase: Phase, time: Option<Time>| {
        if known.iter().all(|entry| entry.phase != Some(phase)) {
            let time = time.map_or_else(|| observed.now.clone(), |time| clock::whole(time.0));
            known.push(PhaseTransitionTimestamp {
                phase: Some(phase),
                phase_transition_timestamp: Some(time),
            });
        }
    };
    add(
        Phase::Pending,
        observed.instance.metadata.creation_timestamp.clone(),
    );
    let order = [Phase::Scheduling, Phase::Scheduled, Phase::Running];
    let began = began(seen);
    // A guest may have begun and ended between two looks.
    let reached = if phase.is_final() && began.is_some() {
        Phase::Running
    } else {
        phase
    };
    let passed = order
        .iter()
        .position(|&step| step == reached)
        .map_or(0, |position| position + 1);
    for &step in &order[..passed] {
        let time = match (step, observed.pod) {
            (Phase::Scheduling, Some(pod)) => pod.metadata.creation_timestamp.clone(),
            (Phase::Scheduled, Some(pod)) => pod::condition(pod, "PodScheduled")
                .and_then(|condition| condition.last_transition_time.clone()),
            (Phase::Running, _) => began.clone(),
            _ => None,
        };
        add(step, time);
    }
    if phase.is_final() {
        add(phase, None);
    }
    known
}

/// When the guest began to run, as far as the pod tells.
fn began(seen: &Seen) -> Option<Time> {
    match seen {
        Seen::Pod {
            progress:
                Progress::Running(since) | Progress::PoweredOff(since) | Progress::Failed(_, since),
            ..
        } => since.clone(),
        _ => None,
    }
}
