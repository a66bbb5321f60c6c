//! The table of fields that work.
//!
//! A path has `[]` for any item of a list and `*` for any key of a map; `.**` stands for everything
//! below.

use serde_json::Value;

/// A field that works.
pub(super) enum Working {
    /// With every value.
    Field(&'static str),
    /// With these values alone; texts as they are, others as in JSON.
    Only(&'static str, &'static [&'static str]),
}

use Working::{Field, Only};

impl Working {
    /// The path in the table.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Field(path) | Only(path, _) => path,
        }
    }

    /// Whether a field, its path without indices, is meant.
    pub(super) fn covers(&self, pattern: &str) -> bool {
        let path = self.path();
        match path.strip_suffix("**").or(path.strip_suffix('*')) {
            Some(parent) => pattern.starts_with(parent.trim_end_matches('.')),
            None => path == pattern,
        }
    }

    /// Why the value does not work, if it does not.
    pub(super) fn refusal(&self, value: &Value) -> Option<String> {
        let Only(_, allowed) = self else {
            return None;
        };
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if allowed.contains(&text.as_str()) {
            return None;
        }
        let allowed: Vec<_> = allowed
            .iter()
            .filter(|word| !word.is_empty())
            .copied()
            .collect();
        Some(format!(
            "`{text}` is not supported yet: use {}, or leave it out",
            allowed.join(", ")
        ))
    }
}

/// Fields of a machine that work, its template's spec apart.
pub(super) const MACHINE: &[Working] = &[
    Field("running"),
    Only(
        "runStrategy",
        &["Always", "RerunOnFailure", "Manual", "Once", "Halted"],
    ),
    Field("template.metadata.labels.*"),
    Field("template.metadata.annotations.*"),
    // Taken from the machine, whatever stands here: so does KubeVirt.
    Field("template.metadata.name"),
    Field("template.metadata.namespace"),
];

/// Fields of an instance that work.
pub(super) const INSTANCE: &[Working] = &[
    Field("domain.cpu.cores"),
    Field("domain.cpu.sockets"),
    Field("domain.cpu.threads"),
    Field("domain.cpu.maxSockets"),
    Field("domain.cpu.model"),
    Field("domain.cpu.dedicatedCpuPlacement"),
    Field("domain.cpu.isolateEmulatorThread"),
    Field("domain.memory.guest"),
    Field("domain.memory.maxGuest"),
    Only("domain.memory.hugepages.pageSize", &["2Mi", "1Gi"]),
    Field("domain.resources.requests.cpu"),
    Field("domain.resources.requests.memory"),
    Field("domain.resources.limits.cpu"),
    Field("domain.resources.limits.memory"),
    Field("domain.machine.type"),
    Field("domain.firmware.uuid"),
    Field("domain.firmware.serial"),
    Only("domain.firmware.bootloader.bios.useSerial", &["false"]),
    Only("domain.firmware.bootloader.efi.secureBoot", &["false"]),
    Only("domain.firmware.bootloader.efi.persistent", &["false"]),
    Field("domain.clock.utc"),
    Only("domain.clock.utc.offsetSeconds", &["0"]),
    Only("domain.features.acpi.enabled", &["true"]),
    Field("domain.devices.disks[].name"),
    Only(
        "domain.devices.disks[].disk.bus",
        &["", "virtio", "sata", "scsi"],
    ),
    Field("domain.devices.disks[].disk.readonly"),
    Only("domain.devices.disks[].cdrom.bus", &["", "sata", "scsi"]),
    Field("domain.devices.disks[].cdrom.readonly"),
    Only("domain.devices.disks[].cdrom.tray", &["", "closed"]),
    Field("domain.devices.disks[].bootOrder"),
    Field("domain.devices.disks[].cache"),
    Only("domain.devices.disks[].io", &["", "native", "threads"]),
    Field("domain.devices.disks[].serial"),
    Field("domain.devices.disks[].shareable"),
    Field("domain.devices.interfaces[].name"),
    Field("domain.devices.interfaces[].masquerade"),
    Field("domain.devices.interfaces[].bridge"),
    Only(
        "domain.devices.interfaces[].model",
        &["", "virtio", "e1000", "e1000e", "rtl8139"],
    ),
    Field("domain.devices.interfaces[].macAddress"),
    Field("domain.devices.interfaces[].ports[].name"),
    Field("domain.devices.interfaces[].ports[].port"),
    Field("domain.devices.interfaces[].ports[].protocol"),
    Field("domain.devices.interfaces[].bootOrder"),
    Field("domain.devices.networkInterfaceMultiqueue"),
    Field("domain.devices.filesystems[].name"),
    Field("domain.devices.filesystems[].virtiofs"),
    Field("domain.devices.rng"),
    Field("domain.devices.tpm"),
    Field("domain.devices.tpm.enabled"),
    Only("domain.devices.tpm.persistent", &["false"]),
    Field("domain.devices.gpus[].name"),
    Field("domain.devices.gpus[].deviceName"),
    Field("domain.devices.hostDevices[].name"),
    Field("domain.devices.hostDevices[].deviceName"),
    Field("domain.devices.watchdog.name"),
    Field("domain.devices.watchdog.i6300esb"),
    Only(
        "domain.devices.watchdog.i6300esb.action",
        &["", "reset", "poweroff", "shutdown"],
    ),
    Only("domain.devices.autoattachSerialConsole", &["true"]),
    Field("domain.devices.autoattachGraphicsDevice"),
    Only("domain.devices.autoattachMemBalloon", &["true"]),
    Field("domain.devices.autoattachPodInterface"),
    Only("domain.devices.autoattachInputDevice", &["false"]),
    Field("domain.devices.autoattachVSOCK"),
    Only("domain.devices.logSerialConsole", &["true"]),
    Field("networks[].name"),
    Field("networks[].pod.vmNetworkCIDR"),
    Field("networks[].pod.vmIPv6NetworkCIDR"),
    Field("networks[].multus.networkName"),
    Field("networks[].multus.default"),
    Field("volumes[].name"),
    Field("volumes[].containerDisk.image"),
    Field("volumes[].containerDisk.imagePullPolicy"),
    Field("volumes[].containerDisk.imagePullSecret"),
    Field("volumes[].containerDisk.path"),
    Field("volumes[].persistentVolumeClaim.claimName"),
    Field("volumes[].persistentVolumeClaim.readOnly"),
    Only("volumes[].persistentVolumeClaim.hotpluggable", &["false"]),
    Field("volumes[].emptyDisk.capacity"),
    Field("volumes[].cloudInitNoCloud.**"),
    Field("volumes[].configMap.name"),
    Field("volumes[].configMap.optional"),
    Field("volumes[].secret.secretName"),
    Field("volumes[].secret.optional"),
    Field("volumes[].serviceAccount.serviceAccountName"),
    Field("volumes[].downwardAPI.fields[].**"),
    Only("architecture", &["", "amd64"]),
    Field("hostname"),
    Field("subdomain"),
    Field("dnsPolicy"),
    Field("dnsConfig.**"),
    Field("nodeSelector.*"),
    Field("affinity.**"),
    Field("tolerations[].**"),
    Field("topologySpreadConstraints[].**"),
    Field("schedulerName"),
    Field("priorityClassName"),
    Field("terminationGracePeriodSeconds"),
    Only("evictionStrategy", &["None"]),
];

const OTHER_BINDINGS: &str = "use masquerade or bridge";

/// What to do instead of setting a field, where leaving it out is not the answer.
pub(super) const HINTS: &[(&str, &str)] = &[
    ("domain.devices.interfaces[].sriov", OTHER_BINDINGS),
    ("domain.devices.interfaces[].binding", OTHER_BINDINGS),
    ("domain.devices.interfaces[].passtBinding", OTHER_BINDINGS),
    ("domain.devices.interfaces[].passt", OTHER_BINDINGS),
    ("domain.devices.interfaces[].macvtap", OTHER_BINDINGS),
    ("domain.devices.interfaces[].slirp", OTHER_BINDINGS),
    (
        "domain.devices.interfaces[].portRanges",
        "list each port in ports",
    ),
    ("domain.devices.disks[].lun", "use disk"),
    (
        "networks[].resourceClaim",
        "use the pod network, pod, or one of Multus, multus",
    ),
    (
        "volumes[].dataVolume",
        "use persistentVolumeClaim with the claim of the same name",
    ),
    ("volumes[].ephemeral", "use persistentVolumeClaim"),
    (
        "volumes[].cloudInitConfigDrive",
        "use cloudInitNoCloud, which cloud-init reads as well",
    ),
    (
        "volumes[].hostDisk",
        "use persistentVolumeClaim: a machine cannot name a file of the node",
    ),
    (
        "instancetype",
        "set domain.cpu and domain.memory in the template",
    ),
    ("preference", "set what it would fill in in the template"),
    (
        "dataVolumeTemplates",
        "make the claim beforehand and use persistentVolumeClaim",
    ),
];

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    /// The schema of a spec, by the place of its definition.
    fn schema(index: usize) -> Value {
        let document = crate::crd::documents().swap_remove(index);
        document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    }

    fn exists(schema: &Value, path: &str) -> bool {
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        let plain = name.trim_end_matches("[]");
        let below = &schema["properties"][plain];
        let below = match (name.ends_with("[]"), below.is_object()) {
            (true, _) => &below["items"],
            (false, true) => below,
            // Any key of a map, or everything below.
            (false, false) if name == "**" => return schema.is_object(),
            (false, false) => &schema["additionalProperties"],
        };
        below.is_object() && (rest.is_empty() || exists(below, rest))
    }

    #[test]
    fn every_path_of_the_table_is_a_field() {
        for (table, schema) in [(MACHINE, schema(0)), (INSTANCE, schema(1))] {
            for field in table {
                assert!(exists(&schema, field.path()), "no field {}", field.path());
            }
        }
        for (path, _) in HINTS {
            assert!(
                exists(&schema(0), path) || exists(&schema(1), path),
                "no field {path}"
            );
        }
    }
}
