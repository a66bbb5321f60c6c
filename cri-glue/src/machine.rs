//! The spec as a `Machine`: everything but its disks and its network, which have descriptors.

mod furnish;

use oci_spec::runtime::LinuxResources;
use qemu_driver::machine::{
    Accelerator, Cpu, CpuModel, CpuWord, HugePage, Machine, MachineError, MachineType, Memory,
    Name, Uuid, WatchdogAction,
};
use vm_api::contract::{DOMAIN_ANNOTATION, FIRMWARE_UUID_ANNOTATION};
use vm_api::field::{self, FieldError};
use vm_api::machine::{self, MachineCpuFeature, PageSize};
use vm_api::v1::VirtualMachineInstanceSpec;
use vm_api::validate::CpuFeaturePolicy;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::config::NodeConfig;
use crate::hugepages::{Hugepages, HugepagesError};
use crate::overhead;
use crate::pinning::Cpus;
use crate::room::{self, Node};

pub use furnish::clock;

/// The name space in which machines that bring no UUID get theirs.
const UUID_NAMESPACE: Uuid = Uuid::from_u128(0x5b1f_0c9e_7d4a_4f63_9a51_c2e8_30f7_6d14);

/// Why the spec is not a machine.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum BuildError {
    #[error(
        "the machine has no memory: give the machine container a memory limit \
         (resources.limits.memory), or domain.memory.guest in its annotation"
    )]
    NoMemory,
    #[error(
        "guest memory of {} MiB is more than the machine container's limit of {} MiB: raise \
         resources.limits.memory", guest >> 20, limit >> 20
    )]
    OverLimit { guest: u64, limit: u64 },
    #[error(
        "guest memory of {} MiB is more than the node's {} MiB", guest >> 20, node >> 20
    )]
    OverNode { guest: u64, node: u64 },
    #[error("domain.firmware.uuid or annotation {FIRMWARE_UUID_ANNOTATION}: {text:?} is no UUID")]
    Uuid { text: String },
    #[error(transparent)]
    Hugepages(#[from] HugepagesError),
    #[error("{}", field::join(.0))]
    Fields(Vec<FieldError>),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl From<Vec<FieldError>> for BuildError {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Fields(errors)
    }
}

/// Names of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Of the machine: the instance's behind the pod, or the pod's.
    pub machine: String,
    /// Of the guest as a host.
    pub hostname: String,
    /// Of the machine in the cluster, stable over its restarts: what else is derived comes from it.
    pub cluster: String,
}

impl Names {
    /// The names of the machine in `bundle`.
    pub fn of(bundle: &Bundle, spec: &VirtualMachineInstanceSpec) -> Self {
        let pod = bundle.pod();
        let machine = bundle.annotation(DOMAIN_ANNOTATION).unwrap_or(&pod.name);
        let machine: String = machine.chars().take(Name::MAX).collect();
        let machine = machine.trim_end_matches(['.', '-']).to_owned();
        let wished = spec.hostname.clone().filter(|name| !name.is_empty());
        Self {
            hostname: wished.unwrap_or_else(|| machine.clone()),
            cluster: format!("{machine}.{}", pod.namespace),
            machine,
        }
    }
}

/// The machine of `spec` in `bundle`, without disks and network.
pub fn build(
    bundle: &Bundle,
    spec: &VirtualMachineInstanceSpec,
    names: &Names,
    node: &NodeConfig,
    accelerator: Accelerator,
) -> Result<Machine, BuildError> {
    let resources = bundle.linux().resources().clone().unwrap_or_default();
    let wished_type = spec
        .domain
        .machine
        .as_ref()
        .and_then(|machine| machine.r#type.as_deref());
    let wished_type = wished_type.filter(|wished| !wished.is_empty());
    let has = Node::this();
    let pod = bundle.cgroups_path().map(Cgroup::of_spec);
    let pod = pod.and_then(|container| container.parent());
    let hugepages = Hugepages::of(spec, &resources, pod.as_ref())?;
    let memory = match hugepages {
        Some(pages) => huge_memory(spec, pages)?,
        None => memory(spec, &resources, has.memory_bytes)?,
    };
    let machine = Machine::new(
        Name::new("machine", names.machine.as_str())?,
        uuid(bundle, spec, &names.cluster)?,
        MachineType::new(wished_type.unwrap_or(&node.qemu.machine))?,
        accelerator,
        cpu(spec, &resources, bundle, has.processors)?,
        memory,
    );
    let machine = furnish::furnish(machine, spec)?;
    let machine = match machine::watchdog(spec)?.map(watchdog_action) {
        Some(action) => machine.with_watchdog(action),
        None => machine,
    };
    let machine = match hugepages.map(|pages| pages.size) {
        Some(PageSize::TwoMi) => machine.with_hugepages(HugePage::TwoMi)?,
        Some(PageSize::OneGi) => machine.with_hugepages(HugePage::OneGi)?,
        None => machine,
    };
    Ok(machine.with_max_memory(has.max_memory(spec, memory.bytes())?))
}

fn watchdog_action(action: machine::WatchdogAction) -> WatchdogAction {
    match action {
        machine::WatchdogAction::Reset => WatchdogAction::Reset,
        machine::WatchdogAction::Poweroff => WatchdogAction::Poweroff,
        machine::WatchdogAction::Shutdown => WatchdogAction::Shutdown,
    }
}

fn uuid(
    bundle: &Bundle,
    spec: &VirtualMachineInstanceSpec,
    cluster_name: &str,
) -> Result<Uuid, BuildError> {
    let wished = spec
        .domain
        .firmware
        .as_ref()
        .and_then(|firmware| firmware.uuid.as_deref());
    let wished = wished.filter(|text| !text.is_empty());
    match wished.or_else(|| bundle.annotation(FIRMWARE_UUID_ANNOTATION)) {
        Some(text) => Uuid::parse_str(text).map_err(|_| BuildError::Uuid {
            text: text.to_owned(),
        }),
        None => Ok(Uuid::new_v5(&UUID_NAMESPACE, cluster_name.as_bytes())),
    }
}

fn cpu(
    spec: &VirtualMachineInstanceSpec,
    resources: &LinuxResources,
    bundle: &Bundle,
    node: Option<u32>,
) -> Result<Cpu, BuildError> {
    // Kubelet from 1.33 on gives a container with processors of its own no limit of their time.
    let own = Cpus::exclusive(resources, bundle.cgroups_path());
    let limit = own.map(|cpus| cpus.count() as u64 * 1000);
    let mut limit = limit.or_else(|| overhead::cpu_limit_millis(resources));
    if machine::dedicated(spec).is_some_and(|dedicated| dedicated.isolate_emulator) {
        limit = limit.map(|millis| millis.saturating_sub(1000).max(1000));
    }
    let topology = machine::topology(spec, limit)?;
    let model = spec
        .domain
        .cpu
        .as_ref()
        .and_then(|cpu| cpu.model.as_deref());
    let model = match model.unwrap_or_default() {
        "" | "host-model" | "host-passthrough" => CpuModel::Host,
        model => CpuModel::Named(CpuWord::new(model)?),
    };
    let cpu = Cpu::new(topology.sockets, topology.cores, topology.threads, model)?;
    let features = machine::cpu_features(spec)?;
    let switch = |feature: &MachineCpuFeature<'_>| {
        let on = feature.policy != CpuFeaturePolicy::Disable;
        Ok((CpuWord::new(feature.name)?, on))
    };
    // What is forbidden is not to be had on the node, which is asked about it; QEMU would not tell of
    // what was switched off.
    let forbidden = |it: &&MachineCpuFeature<'_>| it.policy == CpuFeaturePolicy::Forbid;
    let features = features.iter().filter(|it| !forbidden(it)).map(switch);
    let cpu = cpu.with_features(features.collect::<Result<_, MachineError>>()?);
    let most = machine::max_sockets(spec, topology);
    Ok(cpu.with_max_sockets(room::sockets(topology, most, node))?)
}

fn memory(
    spec: &VirtualMachineInstanceSpec,
    resources: &LinuxResources,
    node: Option<u64>,
) -> Result<Memory, BuildError> {
    let limit = overhead::memory_limit(resources);
    let guest = match (machine::guest_memory_bytes(spec, limit), limit) {
        (Ok(guest), _) => guest,
        (Err(error), None) if error.path == "domain.memory.guest" && !names_memory(spec) => {
            return Err(BuildError::NoMemory);
        }
        (Err(error), _) => return Err(error.into()),
    };
    match (limit, node) {
        (Some(limit), _) if guest > limit => Err(BuildError::OverLimit { guest, limit }),
        (_, Some(node)) if guest > node => Err(BuildError::OverNode { guest, node }),
        _ => Ok(Memory::new(guest)?),
    }
}

/// Memory in huge pages: what the spec says, or else all that the pod may take.
fn huge_memory(spec: &VirtualMachineInstanceSpec, pages: Hugepages) -> Result<Memory, BuildError> {
    let guest = machine::guest_memory_bytes(spec, Some(pages.limit))?;
    pages.check(guest)?;
    Ok(Memory::new(guest)?)
}

fn names_memory(spec: &VirtualMachineInstanceSpec) -> bool {
    spec.domain
        .memory
        .as_ref()
        .is_some_and(|memory| memory.guest.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    const MIB: u64 = 1 << 20;

    fn machine(change: impl FnOnce(&mut Value), wish: Value) -> Result<Machine, BuildError> {
        let mut spec = spec();
        change(&mut spec);
        let bundle = bundle(spec);
        let wish = serde_json::from_value(wish).unwrap();
        let names = Names::of(&bundle, &wish);
        build(
            &bundle,
            &wish,
            &names,
            &NodeConfig::default(),
            Accelerator::Tcg,
        )
    }

    #[test]
    fn a_plain_pods_limits_are_the_machines() {
        let machine = machine(|_| {}, json!({})).unwrap();
        assert_eq!(machine.memory().bytes(), 256 * MIB);
        assert_eq!(machine.cpu().vcpus(), 2);
        assert!(machine.cpu().max_vcpus() <= 8);
        assert_eq!(machine.name().as_str(), "pod-a");
    }

    #[test]
    fn the_uuid_is_stable_or_given() {
        let plain = || machine(|_| {}, json!({})).unwrap().uuid();
        assert_eq!(plain(), plain());
        let given = "11111111-2222-3333-4444-555555555555";
        let annotated =
            |spec: &mut Value| spec["annotations"][FIRMWARE_UUID_ANNOTATION] = given.into();
        assert_eq!(
            machine(annotated, json!({})).unwrap().uuid().to_string(),
            given
        );
        let wish = json!({"domain": {"firmware": {"uuid": "x"}}});
        assert!(matches!(
            machine(|_| {}, wish),
            Err(BuildError::Uuid { .. })
        ));
    }

    #[test]
    fn board_and_processors_are_those_of_the_spec() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let built = machine(
            |_| {},
            json!({ "domain": {
                "machine": { "type": "pc-q35-7.2" },
                "firmware": { "uuid": uuid },
                "cpu": {
                    "sockets": 2, "cores": 1, "threads": 1, "maxSockets": 3, "model": "qemu64",
                    "features": [{ "name": "svm", "policy": "disable" }],
                },
            } }),
        );
        let built = built.unwrap();
        assert_eq!(built.uuid().to_string(), uuid);
        assert_eq!(built.cpu().vcpus(), 2);
        let (line, _channels) = qemu_driver::CommandLine::new(built).unwrap();
        let words: Vec<_> = line.args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let words = words.join(" ");
        for expected in [
            "-machine pc-q35-7.2,",
            "-cpu qemu64,",
            "svm=off",
            "cores=1,threads=1",
        ] {
            assert!(words.contains(expected), "{expected}: {words}");
        }
        // On a node with many processors, room is left as the spec says, or for four times as many.
        let room = |max: Value| {
            let wish = json!({ "domain": { "cpu": { "sockets": 2, "maxSockets": max } } });
            let wish = serde_json::from_value(wish).unwrap();
            let resources = LinuxResources::default();
            let cpu = cpu(&wish, &resources, &bundle(spec()), Some(16)).unwrap();
            (cpu.vcpus(), cpu.max_sockets())
        };
        assert_eq!((room(json!(3)), room(json!(null))), ((2, 3), (2, 8)));
    }

    #[test]
    fn memory_is_bounded_by_limit_and_node() {
        let wish = |guest: &str| json!({"domain": {"memory": {"guest": guest}}});
        let error = machine(|_| {}, wish("512Mi")).unwrap_err().to_string();
        assert!(
            error.contains("512 MiB") && error.contains("256 MiB"),
            "{error}"
        );
        let no_limit = |spec: &mut Value| spec["linux"]["resources"]["memory"] = json!({});
        assert!(matches!(
            machine(no_limit, json!({})),
            Err(BuildError::NoMemory)
        ));
        assert!(matches!(
            machine(no_limit, wish("900Gi")),
            Err(BuildError::OverNode { .. })
        ));
        assert!(machine(|_| {}, wish("1Mi")).is_err());
        assert!(machine(no_limit, wish("64Mi")).is_ok());
    }

    #[test]
    fn names_come_from_the_instance_the_pod_or_the_spec() {
        let long = "a".repeat(62) + "-" + &"b".repeat(100);
        let mut given = spec();
        given["annotations"]["io.kubernetes.cri.sandbox-name"] = long.into();
        let names = Names::of(
            &bundle(given.clone()),
            &VirtualMachineInstanceSpec::default(),
        );
        assert_eq!(names.machine, "a".repeat(62));
        given["annotations"][DOMAIN_ANNOTATION] = "vm1".into();
        let wish = serde_json::from_value(json!({"hostname": "web"})).unwrap();
        let names = Names::of(&bundle(given), &wish);
        assert_eq!(
            (names.machine.as_str(), names.hostname.as_str()),
            ("vm1", "web")
        );
        assert_eq!(names.cluster, "vm1.default");
    }
}
