//! The steps before there is a process: what is wished is checked, then opened, set up, and
//! written into a bundle.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qemu_driver::accelerator::{Detected, detect};
use qemu_driver::machine::{Accelerator, Machine, Name};
use qemu_driver::{Channels, CommandLine};
use rustix::thread::CapabilitySet;
use vm_api::Quantity;
use vm_api::contract::{DISK_DIRECTORY, KERNEL_BOOT_VOLUME, VOLUME_SIZES_ANNOTATION};
use vm_api::field::shown;
use vm_api::machine::{self, Beside, DiskBus, MachineDisk, VolumeSource};
use vm_api::v1::VirtualMachineInstanceSpec;

use super::firmware::firmware;
use super::processors::Processors;
use super::{LaunchError, Request, Size};
use crate::beneath::{Directory, check_file};
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::config::{AcceleratorChoice, NodeConfig};
use crate::credentials::{self, AgentCredentials};
use crate::disks::{self, Sources};
use crate::helper::{self, Helper};
use crate::host_devices::HostDevices;
use crate::identity::Identity;
use crate::images::ImageContainers;
use crate::jail::{self, Jail};
use crate::machine::{Names, build, clock};
use crate::mounts::PodMounts;
use crate::network::{NetworkUndo, Services};
use crate::nic::{self, PodNetwork};
use crate::overhead::{Overhead, PodLimits};
use crate::pinning::{Cpus, Pinning};
use crate::record::{Record, Step, Stop};
use crate::runtime::{Descriptors, Runtime};
use crate::seed::{Identification, TaggedDisk};
use crate::state::StateClaim;
use crate::termination::TerminationLog;
use crate::{kernel, uid, vsock, wish};

/// All that a machine needs to be started.
pub(super) struct Prepared {
    pub(super) container: Container,
    pub(super) helpers: Vec<Helper>,
    pub(super) output: OwnedFd,
    pub(super) channels: Channels,
    pub(super) networks: Vec<(Services, NetworkUndo)>,
    pub(super) accelerator: Accelerator,
    pub(super) overhead: Overhead,
    pub(super) termination_log: Option<TerminationLog>,
    pub(super) size: Size,
    pub(super) vsock_cid: Option<u32>,
    pub(super) pinning: Option<(Pinning, Cpus)>,
    /// The drives whose trays are to be opened.
    pub(super) open_trays: Vec<Name>,
    pub(super) starts_paused: bool,
    pub(super) console_is_logged: bool,
    pub(super) credentials: Option<AgentCredentials>,
    pub(super) processors: Processors,
    /// Interfaces whose cable is not plugged in.
    pub(super) unplugged: Vec<Name>,
}

/// QEMU's container, to be created.
pub(super) struct Container {
    pub(super) id: String,
    pub(super) jail: PathBuf,
    pub(super) descriptors: Descriptors,
}

/// Does so until `stop` is set.
pub(super) fn prepare(request: &Request, stop: Arc<Stop>) -> Result<Prepared, LaunchError> {
    let (node, bundle) = (&*request.node, &*request.bundle);
    let record_error = |source| LaunchError::Record {
        path: bundle.dir().to_owned(),
        source,
    };

    // What can be said without touching anything.
    check_qemu(node)?;
    uid::check(node, bundle.identity().uid)?;
    let mounts = PodMounts::of(bundle)?;
    let images = ImageContainers::of(bundle)?.roots(&request.images, &mounts)?;
    let spec = wish::read(bundle, &mounts, &images, has_disk(&request.rootfs)?)?;
    let names = Names::of(bundle, &spec);
    let wished_disks = machine::disks(&spec)?;
    let kernel_boot = machine::kernel_boot(&spec)?;
    if wished_disks.is_empty() && kernel_boot.is_none() && !boots_from_network(&spec) {
        return Err(LaunchError::NoDisk);
    }
    let directories = machine::filesystems(&spec)?;
    let mounted = wished_disks.iter();
    let mounted = mounted.filter(|disk| disk.source.is_some_and(takes_mount));
    let mounted = mounted.map(|disk| disk.name);
    let kernels = kernel_boot.iter().map(|_| KERNEL_BOOT_VOLUME);
    let shared = directories.iter().map(|directory| directory.name);
    mounts.check_referred(mounted.chain(shared).chain(kernels))?;
    let in_images = wished_disks.iter();
    let in_images =
        in_images.filter(|disk| matches!(disk.source, Some(VolumeSource::ContainerDisk(_))));
    let in_images: Vec<_> = in_images.map(|disk| disk.name).collect();
    images.check_referred(&in_images, kernel_boot.is_some())?;
    let capacities = capacities(bundle)?;
    let accelerator = accelerator(node.qemu.accelerator)?;
    let mut machine = build(bundle, &spec, &names, node, accelerator)?;
    let io_threads = machine::io_threads(&spec, &wished_disks, machine.cpu().vcpus())?;
    machine = machine.with_io_threads(io_threads.count);
    let wished_credentials = machine::credentials(&spec)?;
    mounts.check_credentials(&wished_credentials)?;
    mounts.check_state(machine::keeps_state(&spec)?)?;
    let of_kvm = machine::of_kvm(&spec);
    if accelerator == Accelerator::Tcg && !of_kvm.is_empty() {
        tracing::warn!(
            fields = of_kvm.join(", "),
            "the guest is emulated, and has this not"
        );
    }
    let pinning = Pinning::of(&spec, bundle)?;
    if let Some((pinning, cpus)) = &pinning {
        pinning.check(cpus, machine.cpu().vcpus())?;
    }
    let host_devices = HostDevices::of(&spec, bundle)?;
    for device in &host_devices.devices {
        machine.add_host_device(device.clone())?;
    }
    let mut vsock_cid = None;
    if spec.domain.devices.autoattach_vsock == Some(true) {
        let vsock = vsock::open(node)?;
        vsock_cid = Some(vsock.cid());
        machine = machine.with_vsock(vsock);
    }
    let resources = bundle.linux().resources().clone().unwrap_or_default();
    let beside = Beside {
        host_devices: machine.locks_memory(),
        ..Beside::of(&spec)
    };
    let overhead = Overhead::of(accelerator);
    let overhead = overhead.with(beside, ordinary_memory(&machine), &resources);
    let resources = overhead.add_to(&resources, pod_limits(bundle))?;

    // From here on, each step is noted before it is done.
    let record = Record::open(bundle.dir()).map_err(record_error)?;
    let mut record = record.until(stop);
    let identity = bundle.identity();
    let user = qemu_user(request, &identity, &mut record)?;
    let owner = match &request.sandbox.user_namespace {
        Some(namespace) => namespace.on_node(&user)?,
        None => user.clone(),
    };
    let seed_keys = credentials::seed_keys(&wished_credentials, &mounts, &identity)?;
    let agent_credentials = AgentCredentials::of(&wished_credentials, &mounts, &identity)?;
    let mut sources = Sources {
        rootfs: &request.rootfs,
        container: bundle.id(),
        mounts: &mounts,
        images: &images,
        identity: &identity,
        owner: &owner,
        capacities: &capacities,
        identification: Identification {
            instance_id: &names.cluster,
            hostname: &names.hostname,
            uuid: machine.uuid().to_string(),
            tagged: tagged(&wished_disks),
            keys: &seed_keys,
        },
        generated_bytes: 0,
        record: &mut record,
    };
    let queues =
        (spec.domain.devices.block_multi_queue == Some(true)).then(|| machine.cpu().vcpus());
    tracing::info_span!("open-disks").in_scope(|| {
        let disks = with_boot_order(wished_disks, &spec);
        for (wished, thread) in disks.into_iter().zip(io_threads.of_disks) {
            let mut disk = disks::open(&wished, &mut sources)?;
            if let Some(thread) = thread {
                disk = disk.with_io_thread(thread)?;
            }
            if let (Some(queues), DiskBus::Virtio) = (queues, wished.bus) {
                disk = disk.with_queues(queues)?;
            }
            machine.add_disk(disk)?;
        }
        Ok::<_, LaunchError>(())
    })?;
    if let Some(boot) = kernel_boot {
        let sources = kernel::Sources {
            rootfs: &request.rootfs,
            mounts: &mounts,
            images: &images,
            identity: &identity,
            qemu: &owner,
        };
        machine = machine.with_kernel(kernel::open(&boot, &sources)?);
    }
    let open_trays = machine.disks().iter().filter(|disk| disk.tray_open());
    let open_trays = open_trays.map(|disk| disk.name().clone()).collect();
    let state = match machine::keeps_state(&spec)? {
        true => Some(StateClaim::of(mounts.state(), &identity, bundle.id())?),
        false => None,
    };
    let firmware = firmware(&spec, request, &owner, state.as_ref(), &mut record)?;
    let mut machine = machine.with_firmware(firmware);
    let mut helpers = Vec::new();
    let mut binds = Vec::new();
    let files = helper::files_of_each(directories.len());
    for wished in &directories {
        let shared = helper::share(wished, &mounts, node, &user, bundle.dir(), files)?;
        machine.add_filesystem(shared.filesystem)?;
        helpers.push(shared.helper);
        binds.push(shared.bind);
    }
    let tpm = machine::tpm(&spec);
    let mut tpm_in_memory = tpm;
    if tpm {
        let mut directory = helper::TPM_STATE.to_owned();
        if let Some(state) = state.as_ref().filter(|_| machine::tpm_persists(&spec)) {
            let (bind, place) = state.tpm()?;
            (tpm_in_memory, directory) = (false, place);
            binds.push(bind);
        }
        let (swtpm, control) = helper::swtpm(node, &directory)?;
        machine = machine.with_tpm(control);
        helpers.push(swtpm);
    }
    let mut unplugged = Vec::new();
    let networks = tracing::info_span!("attach-networks").in_scope(|| {
        let pod = (request, &mounts, &names);
        attach_networks(&spec, pod, &mut machine, &mut unplugged, &mut record)
    })?;
    let size = Size::of(&machine);
    let processors = Processors::of(&spec, machine.cpu().model(), accelerator)?;
    // Late, since from here on it goes with the node's.
    let machine = machine.with_clock(clock(&spec)?);
    let (command_line, channels) = CommandLine::new(machine).map_err(LaunchError::Sockets)?;

    let jail = bundle.dir().join(jail::DIRECTORY);
    record
        .note(&Step::Directory { path: jail.clone() })
        .map_err(record_error)?;
    let program = node.qemu.path.as_os_str().to_owned();
    let arguments = [program].into_iter().chain(command_line.args);
    let jail_of_qemu = Jail {
        root: &node.qemu.root,
        bundle,
        sandbox: &request.sandbox,
        holder: request.holder,
        user: &user,
        owner: &owner,
        arguments: arguments
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        accelerator,
        resources,
        binds: &binds,
        helpers: &helpers,
        tpm: tpm_in_memory,
        host_devices: &host_devices,
        memory_bytes: size.max_memory_bytes,
    };
    if jail_of_qemu.binds_devices() {
        let path = jail.join(jail::DEVICES);
        record.note(&Step::Mount { path }).map_err(record_error)?;
    }
    jail_of_qemu.make(&jail)?;
    let (id, cgroups_path) = (bundle.id().to_owned(), bundle.cgroups_path());
    let runtime = Runtime::new(node, &request.namespace, cgroups_path);
    let container = Step::Container {
        id: id.clone(),
        runtime,
    };
    record.note(&container).map_err(record_error)?;
    // Undone first: a runtime that died over its group may have left it frozen.
    if let Some(path) = cgroups_path {
        let path = path.to_owned();
        record.note(&Step::Cgroup { path }).map_err(record_error)?;
    }
    let (output, qemu_output) = io::pipe().map_err(LaunchError::Pipe)?;
    let descriptors = Descriptors {
        output: Some(qemu_output.into()),
        preserved: command_line.descriptors,
    };
    Ok(Prepared {
        container: Container {
            id,
            jail,
            descriptors,
        },
        helpers,
        output: output.into(),
        channels,
        networks,
        accelerator,
        overhead,
        termination_log: TerminationLog::of(bundle, &mounts),
        size,
        vsock_cid,
        pinning,
        open_trays,
        starts_paused: machine::starts_paused(&spec),
        console_is_logged: spec.domain.devices.log_serial_console != Some(false),
        credentials: agent_credentials,
        processors,
        unplugged,
    })
}

/// The disks that have a tag, for the guest's config drive.
fn tagged<'a>(disks: &[MachineDisk<'a>]) -> Vec<TaggedDisk<'a>> {
    let tagged = disks.iter().filter_map(|disk| {
        Some(TaggedDisk {
            tag: disk.tag?,
            bus: disk.bus,
            serial: disk.serial?,
        })
    });
    tagged.collect()
}

fn boots_from_network(spec: &VirtualMachineInstanceSpec) -> bool {
    let mut interfaces = spec.domain.devices.interfaces.iter();
    interfaces.any(|interface| interface.boot_order.is_some())
}

fn check_qemu(node: &NodeConfig) -> Result<(), LaunchError> {
    let (root, path) = (&node.qemu.root, &node.qemu.path);
    check_file(root, path).map_err(|source| LaunchError::NoQemu {
        root: root.clone(),
        path: path.clone(),
        source,
    })
}

fn has_disk(rootfs: &Path) -> Result<bool, LaunchError> {
    let kind = Directory::open(rootfs).and_then(|root| root.kind(Path::new(DISK_DIRECTORY)));
    let kind = kind.map_err(|source| LaunchError::Rootfs {
        rootfs: rootfs.to_owned(),
        source,
    })?;
    Ok(kind.is_some())
}

/// Whether a volume is a mount or a device of the pod, or may be one.
fn takes_mount(source: VolumeSource<'_>) -> bool {
    match source {
        VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => {
            seed.secret_ref.is_some() || seed.network_data_secret_ref.is_some()
        }
        VolumeSource::EmptyDisk(_) => false,
        _ => true,
    }
}

/// Capacities in bytes of the volumes that the pod tells them of.
fn capacities(bundle: &Bundle) -> Result<BTreeMap<String, u64>, LaunchError> {
    let Some(json) = bundle.annotation(VOLUME_SIZES_ANNOTATION) else {
        return Ok(BTreeMap::new());
    };
    let wrong = |message: String| LaunchError::VolumeSizes(shown(&message));
    let sizes: BTreeMap<String, Quantity> = serde_json::from_str(json)
        .map_err(|error| wrong(format!("it is no map of sizes: {error}")))?;
    let bytes = sizes.into_iter().map(|(name, size)| match size.bytes() {
        Ok(bytes) => Ok((name, bytes)),
        Err(error) => Err(wrong(format!("{name}: {error}"))),
    });
    bytes.collect()
}

fn accelerator(choice: AcceleratorChoice) -> Result<Accelerator, LaunchError> {
    if choice == AcceleratorChoice::Tcg {
        return Ok(Accelerator::Tcg);
    }
    match (detect().map_err(LaunchError::Detect)?, choice) {
        (Detected::Tcg(reason), AcceleratorChoice::Kvm) => {
            let reason = reason.to_string();
            Err(LaunchError::Accelerator { choice, reason })
        }
        (Detected::Tcg(reason), _) => {
            tracing::warn!(%reason, "the guest is emulated");
            Ok(Accelerator::Tcg)
        }
        (Detected::Kvm, _) => Ok(Accelerator::Kvm),
    }
}

/// Bytes of the guest's memory that are no huge pages.
fn ordinary_memory(machine: &Machine) -> u64 {
    if machine.has_hugepages() {
        0
    } else {
        machine.memory().bytes()
    }
}

/// The limits of the pod. A control group that cannot be read limits nothing that is known.
fn pod_limits(bundle: &Bundle) -> PodLimits {
    let container = bundle
        .linux()
        .cgroups_path()
        .as_deref()
        .map(Cgroup::of_spec);
    let Some(pod) = container.and_then(|container| container.parent()) else {
        return PodLimits::default();
    };
    let read = |limit: Result<Option<u64>, _>| {
        limit.unwrap_or_else(|error| {
            tracing::warn!(%error, "the pod's limit is not known");
            None
        })
    };
    PodLimits {
        memory_bytes: read(pod.memory_limit()),
        cpu_millis: read(pod.cpu_limit_millis()),
    }
}

/// Who QEMU is: the pod's user, or for root a uid of the machine's own, as the pod's user namespace
/// has it where it has one. Supplementary groups are left out: QEMU opens nothing that they would be good for.
fn qemu_user(
    request: &Request,
    identity: &Identity,
    record: &mut Record,
) -> Result<Identity, LaunchError> {
    let bundle = &request.bundle;
    let uid = match identity.uid {
        0 if request.sandbox.user_namespace.is_some() => uid::IN_USER_NAMESPACE,
        0 => uid::take(&request.node, &bundle.pod().sandbox_id, bundle.id(), record)?,
        uid => uid,
    };
    let gid = if identity.gid == 0 { uid } else { identity.gid };
    Ok(Identity {
        uid,
        gid,
        groups: Vec::new(),
        capabilities: CapabilitySet::empty(),
    })
}

/// The disks with an order of booting: where the spec gives nothing one, disks are tried in their
/// order, but for seeds, settings and empty drives.
fn with_boot_order<'a>(
    mut disks: Vec<MachineDisk<'a>>,
    spec: &VirtualMachineInstanceSpec,
) -> Vec<MachineDisk<'a>> {
    let interfaces = &spec.domain.devices.interfaces;
    let given = disks.iter().any(|disk| disk.boot_order.is_some())
        || interfaces
            .iter()
            .any(|interface| interface.boot_order.is_some());
    if !given {
        let bootable = disks.iter_mut().filter(|disk| disk.may_boot());
        for (disk, place) in bootable.zip(1..) {
            disk.boot_order = NonZeroU32::new(place);
        }
    }
    disks
}

fn attach_networks(
    spec: &VirtualMachineInstanceSpec,
    (request, mounts, names): (&Request, &PodMounts, &Names),
    machine: &mut Machine,
    unplugged: &mut Vec<Name>,
    record: &mut Record,
) -> Result<Vec<(Services, NetworkUndo)>, LaunchError> {
    let pod = PodNetwork {
        namespace: &request.sandbox.network_namespace,
        resolv_conf: mounts.resolv_conf(),
        identity: &request.bundle.identity(),
        others: request.reserved_ports.clone(),
        names,
        queues: if spec.domain.devices.network_interface_multiqueue == Some(true) {
            usize::try_from(machine.cpu().vcpus()).unwrap_or(usize::MAX)
        } else {
            1
        },
        accelerator: machine.accelerator(),
    };
    let mut networks = vec![];
    for attached in nic::attach(spec, &pod, record)? {
        if !attached.link_up {
            unplugged.push(attached.nic.name().clone());
        }
        machine.add_nic(attached.nic)?;
        networks.push((attached.services, attached.undo));
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn sizes(json: &str) -> Result<BTreeMap<String, u64>, String> {
        let mut spec = spec();
        spec["annotations"][VOLUME_SIZES_ANNOTATION] = json.into();
        capacities(&bundle(spec)).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_of_volumes_are_quantities() {
        let read = sizes(r#"{"a":"1Gi","b":2}"#).unwrap();
        assert_eq!(read, [("a".into(), 1 << 30), ("b".into(), 2)].into());
        assert!(
            sizes(r#"{"a":"-1"}"#)
                .unwrap_err()
                .contains("a: `-1` is below zero")
        );
        let million = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(1_000_000));
        assert_eq!(sizes(&million).unwrap().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_no_size_is_refused_on_one_line(
            name in ".{0,20}|[\n\0\u{1b}a]{1,20}",
            size in ".{0,20}|[\n\0\u{1b}1]{1,20}|[0-9]{1,30}[KMGTPE]i?",
            times in 1..2000_usize,
            text in any::<String>(),
        ) {
            let of = |name: String, size: String| serde_json::json!({ name: size }).to_string();
            for json in [of(name.repeat(times), size.clone()), of(name, size.repeat(times)), text] {
                match sizes(&json) {
                    Ok(read) => prop_assert!(read.values().all(|size| *size <= i64::MAX as u64)),
                    Err(error) => {
                        prop_assert!(error.chars().count() <= 600 && !error.contains(char::is_control));
                    }
                }
            }
        }
    }
}
