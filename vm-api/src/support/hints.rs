//! What to do instead of setting a field that does not work.
//!
//! A path is the one by which the field is refused, written as in the table of fields that work. A field
//! without a hint is best left out.

/// What to do about a field that has no hint.
const LEAVE_OUT: &str = "leave it out";

const OTHER_BINDINGS: &str = "use masquerade or bridge";

const BY_PLUGIN: &str = "name the resource of a device plugin in deviceName";

/// What to do instead of setting a field, where leaving it out is not the answer.
pub(super) const HINTS: &[(&str, &str)] = &[
    ("domain.devices.interfaces[].sriov", OTHER_BINDINGS),
    ("domain.devices.interfaces[].binding", OTHER_BINDINGS),
    ("domain.devices.interfaces[].passtBinding", OTHER_BINDINGS),
    ("domain.devices.interfaces[].passt", OTHER_BINDINGS),
    ("domain.devices.interfaces[].macvtap", OTHER_BINDINGS),
    ("domain.devices.interfaces[].slirp", OTHER_BINDINGS),
    (
        "domain.devices.interfaces[].pciAddress",
        "leave it out: each interface has a place of its own, and acpiIndex gives it a name",
    ),
    (
        "domain.devices.interfaces[].tag",
        "leave it out: guests find interfaces by macAddress, or by acpiIndex",
    ),
    (
        "domain.devices.interfaces[].portRanges",
        "list each port in ports",
    ),
    ("domain.devices.gpus[].claimName", BY_PLUGIN),
    ("domain.devices.gpus[].requestName", BY_PLUGIN),
    (
        "domain.devices.gpus[].virtualGPUOptions",
        "leave it out: the display is domain.devices.video",
    ),
    ("domain.devices.hostDevices[].claimName", BY_PLUGIN),
    ("domain.devices.hostDevices[].requestName", BY_PLUGIN),
    ("domain.devices.watchdog.diag288", "use i6300esb"),
    (
        "domain.devices.downwardMetrics",
        "read the node's metrics where the cluster exports them",
    ),
    (
        "domain.cpu.numa",
        "leave it out: the guest has one NUMA node, which kubelet's topology manager aligns with the node's",
    ),
    (
        "domain.cpu.realtime",
        "use dedicatedCpuPlacement with isolateEmulatorThread",
    ),
    (
        "domain.devices.clientPassthrough",
        "leave it out: give the guest a file by kubectl cp, or a device of the node by hostDevices",
    ),
    (
        "domain.devices.useVirtioTransitional",
        "leave it out: guests without drivers for virtio 1.0 have e1000, sata and vga",
    ),
    (
        "domain.launchSecurity",
        "leave it out: memory is not encrypted, and root on the node can read it",
    ),
    (
        "domain.memory.reservedOverhead",
        "set the memory limit in domain.resources: what is above domain.memory.guest is QEMU's",
    ),
    (
        "domain.rebootPolicy",
        "leave it out: a guest that reboots stays in its pod",
    ),
    (
        "domain.resources.requests.*",
        "cpu and memory are requested here, devices of the node by gpus and hostDevices",
    ),
    (
        "domain.resources.limits.*",
        "cpu and memory are limited here, devices of the node by gpus and hostDevices",
    ),
    (
        "networks[].resourceClaim",
        "use the pod network, pod, or one of Multus, multus",
    ),
    (
        "resourceClaims",
        "use devices of a device plugin, by gpus or hostDevices",
    ),
    (
        "serviceAccountName",
        "use a volume of the kind serviceAccount",
    ),
    (
        "utilityVolumes",
        "list the claim in volumes, and share it with the guest (filesystems)",
    ),
    (
        "volumes[].containerPath",
        "put the files into a ConfigMap or onto a claim, and share that (filesystems)",
    ),
    (
        "volumes[].downwardMetrics",
        "read the node's metrics where the cluster exports them",
    ),
    (
        "volumes[].memoryDump",
        "take a screenshot, or dump the memory from inside the guest",
    ),
    (
        "dataVolumeTemplates",
        "make the claim beforehand and use persistentVolumeClaim",
    ),
    (
        "updateVolumesStrategy",
        "leave it out: changed volumes are there after a restart",
    ),
];

/// What to do instead of setting the field `pattern`.
pub(super) fn instead(pattern: &str) -> &'static str {
    let meant = |path: &str| match path.strip_suffix('*') {
        Some(parent) => pattern.starts_with(parent),
        None => pattern == path,
    };
    let hint = HINTS.iter().find(|(path, _)| meant(path));
    hint.map_or(LEAVE_OUT, |(_, hint)| hint)
}

/// Why a field is refused.
pub(super) fn missing(pattern: &str) -> String {
    format!("is not supported yet: {}", instead(pattern))
}
