//! What is judged otherwise than by KubeVirt, and why. Nothing stands here that does not differ: the
//! replay of what KubeVirt said sees to it.

/// Objects that KubeVirt judges otherwise.
pub(crate) const VERDICTS: &[(&str, &str)] = &[
    (
        "vmi .spec.domain.devices.autoattachVSOCK=true",
        "it works here; there it waits for the feature gate VSOCK",
    ),
    (
        "vmi .spec.networks[].pod.vmIPv6NetworkCIDR=\"bogus\"",
        "it is no network: refused at once, there when the machine starts",
    ),
    (
        "vmi .spec.domain.devices.interfaces[].acpiIndex=-1",
        NO_INDEX,
    ),
    (
        "vmi .spec.domain.devices.interfaces[].acpiIndex=100000",
        NO_INDEX,
    ),
];

const NO_INDEX: &str = "QEMU has no such index: refused at once, there when the machine starts";

/// Fields that KubeVirt names and that are not named here: the beginning of the case, the field.
pub(crate) const FIELDS: &[(&str, &str, &str)] = &[
    (
        "vmi .spec.domain.devices.hostDevices",
        "spec.HostDevices",
        "devices of the node work here; there they wait for a feature gate as well",
    ),
    (
        "vmi .spec.volumes[].hostDisk",
        "spec.volumes[1]",
        "the volume itself waits for the feature gate HostDisk there",
    ),
    (
        "vmi .spec.domain.devices.disks[].name=\"\"",
        "spec.domain.devices.disks.domain.devices.disks[0].name",
        "the same field as the other that it names, misspelled",
    ),
    (
        "vmi .spec.domain.devices.interfaces[].bootOrder=0",
        "spec[0].bootOrder",
        "the schema refuses it already, by the field's own path",
    ),
    (
        "vmi .spec.domain.memory.reservedOverhead.memLock",
        "<nil>",
        "a feature gate, no field",
    ),
    (
        "vmi .spec.domain.rebootPolicy",
        "<nil>",
        "a feature gate, no field",
    ),
];

/// Fields that are named here and that KubeVirt does not name: the case, the field.
pub(crate) const MORE: &[(&str, &str, &str)] = &[
    (
        "vmi .spec.domain={}",
        "spec.domain.memory.guest",
        "it says so without a field",
    ),
    (
        "vmi .spec.domain.devices.interfaces[].bootOrder=0",
        "spec.domain.devices.interfaces[0].bootOrder",
        "the schema refuses it already, by the field's own path",
    ),
];

/// Fields that KubeVirt fills in and that are not filled in here: the case, or nothing for all; the
/// path.
pub(crate) const DEFAULTS: &[(&str, &str, &str)] = &[
    (
        "",
        ".spec.template.metadata",
        "a note on how KubeVirt lays out the PCI bus, which is laid out otherwise here",
    ),
    (
        "vm without memory {\"preference\": {\"name\": \"virtio\", \"kind\": \"VirtualMachinePreference\"}}",
        ".spec.template.spec.architecture",
        "the preference may choose it",
    ),
    (
        "vm without memory {\"preference\": {\"name\": \"virtio\", \"kind\": \"VirtualMachinePreference\"}}",
        ".spec.template.spec.domain.machine",
        "the preference may choose it",
    ),
];
