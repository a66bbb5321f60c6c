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
        match path.strip_suffix(".**").or(path.strip_suffix(".*")) {
            Some(parent) => pattern
                .strip_prefix(parent)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
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
    Field("instancetype.name"),
    Field("instancetype.kind"),
    Field("instancetype.revisionName"),
    Field("instancetype.inferFromVolume"),
    Field("instancetype.inferFromVolumeFailurePolicy"),
    Field("preference.name"),
    Field("preference.kind"),
    Field("preference.revisionName"),
    Field("preference.inferFromVolume"),
    Field("preference.inferFromVolumeFailurePolicy"),
    // Taken from the machine, whatever stands here: so does KubeVirt.
    Field("template.metadata.name"),
    Field("template.metadata.namespace"),
];

/// Fields of a replica set that work, its template's spec apart.
pub(super) const REPLICA_SET: &[Working] = &[
    Field("replicas"),
    Field("paused"),
    Field("selector.**"),
    Field("template.metadata.labels.*"),
    Field("template.metadata.annotations.*"),
    // What the names of instances begin with.
    Field("template.metadata.name"),
    Field("template.metadata.generateName"),
    // Taken from the replica set, whatever stands here: so does KubeVirt.
    Field("template.metadata.namespace"),
];

/// Fields of a pool that work, its template's spec apart.
pub(super) const POOL: &[Working] = &[
    Field("replicas"),
    Field("paused"),
    Field("selector.**"),
    Field("maxUnavailable"),
    Field("nameGeneration.appendIndexToConfigMapRefs"),
    Field("nameGeneration.appendIndexToSecretRefs"),
    Field("scaleInStrategy.unmanaged"),
    Field("scaleInStrategy.opportunistic"),
    Only(
        "scaleInStrategy.opportunistic.statePreservation",
        &["Disabled"],
    ),
    Field("scaleInStrategy.proactive"),
    Only("scaleInStrategy.proactive.statePreservation", &["Disabled"]),
    Field("scaleInStrategy.proactive.selectionPolicy.sortPolicy"),
    Field("scaleInStrategy.proactive.selectionPolicy.selectors.**"),
    Field("updateStrategy.unmanaged"),
    Field("updateStrategy.opportunistic"),
    Field("updateStrategy.proactive"),
    Field("updateStrategy.proactive.selectionPolicy.sortPolicy"),
    Field("updateStrategy.proactive.selectionPolicy.selectors.**"),
    Field("autohealing"),
    Field("autohealing.startUpFailureThreshold"),
    Field("autohealing.minFailingToStartDuration"),
    Field("virtualMachineTemplate.metadata.labels.*"),
    Field("virtualMachineTemplate.metadata.annotations.*"),
    // Taken from the pool, whatever stands here: so does KubeVirt.
    Field("virtualMachineTemplate.metadata.name"),
    Field("virtualMachineTemplate.metadata.namespace"),
];

/// Fields of an instance that work.
pub(super) const INSTANCE: &[Working] = &[
    Field("domain.cpu.cores"),
    Field("domain.cpu.sockets"),
    Field("domain.cpu.threads"),
    Field("domain.cpu.maxSockets"),
    Field("domain.cpu.model"),
    Field("domain.cpu.features[].name"),
    Field("domain.cpu.features[].policy"),
    Field("domain.cpu.dedicatedCpuPlacement"),
    Field("domain.cpu.isolateEmulatorThread"),
    Field("domain.memory.guest"),
    Field("domain.memory.maxGuest"),
    Only("domain.memory.hugepages.pageSize", &["2Mi", "1Gi"]),
    Field("domain.resources.requests.cpu"),
    Field("domain.resources.requests.memory"),
    Field("domain.resources.limits.cpu"),
    Field("domain.resources.limits.memory"),
    Field("domain.resources.overcommitGuestOverhead"),
    Field("domain.machine.type"),
    Field("domain.firmware.uuid"),
    Field("domain.firmware.serial"),
    Field("domain.firmware.kernelBoot.kernelArgs"),
    Field("domain.firmware.kernelBoot.container.image"),
    Field("domain.firmware.kernelBoot.container.imagePullPolicy"),
    Field("domain.firmware.kernelBoot.container.imagePullSecret"),
    Field("domain.firmware.kernelBoot.container.kernelPath"),
    Field("domain.firmware.kernelBoot.container.initrdPath"),
    Field("domain.firmware.bootloader.bios.useSerial"),
    Field("domain.firmware.bootloader.efi.secureBoot"),
    Field("domain.firmware.bootloader.efi.persistent"),
    Field("domain.chassis.**"),
    Field("domain.clock.utc"),
    Field("domain.clock.utc.offsetSeconds"),
    Field("domain.clock.timezone"),
    Field("domain.clock.timer.**"),
    Field("domain.features.acpi.enabled"),
    Field("domain.features.apic.**"),
    Field("domain.features.smm.**"),
    Field("domain.features.kvm.**"),
    Field("domain.features.pvspinlock.**"),
    Field("domain.features.hyperv.**"),
    Field("domain.features.hypervPassthrough.**"),
    Field("domain.devices.disks[].name"),
    Only(
        "domain.devices.disks[].disk.bus",
        &["", "virtio", "sata", "scsi", "usb"],
    ),
    Field("domain.devices.disks[].disk.readonly"),
    Field("domain.devices.disks[].disk.pciAddress"),
    Only(
        "domain.devices.disks[].cdrom.bus",
        &["", "sata", "scsi", "usb"],
    ),
    Field("domain.devices.disks[].cdrom.readonly"),
    Only("domain.devices.disks[].cdrom.tray", &["", "open", "closed"]),
    Only("domain.devices.disks[].lun.bus", &["", "scsi"]),
    Field("domain.devices.disks[].lun.readonly"),
    Only("domain.devices.disks[].lun.reservation", &["false"]),
    Field("domain.devices.disks[].bootOrder"),
    Field("domain.devices.disks[].cache"),
    Field("domain.devices.disks[].errorPolicy"),
    Field("domain.devices.disks[].blockSize.custom.logical"),
    Field("domain.devices.disks[].blockSize.custom.physical"),
    Field("domain.devices.disks[].blockSize.custom.discardGranularity"),
    Field("domain.devices.disks[].blockSize.matchVolume.enabled"),
    Field("domain.devices.disks[].dedicatedIOThread"),
    Field("domain.devices.disks[].tag"),
    Only("domain.devices.disks[].changedBlockTracking", &["false"]),
    Field("domain.devices.disks[].io"),
    Field("domain.devices.disks[].serial"),
    Field("domain.devices.disks[].shareable"),
    Field("domain.devices.blockMultiQueue"),
    Field("domain.ioThreadsPolicy"),
    Field("domain.ioThreads.supplementalPoolThreadCount"),
    Field("domain.devices.interfaces[].name"),
    Field("domain.devices.interfaces[].masquerade"),
    Field("domain.devices.interfaces[].bridge"),
    Only(
        "domain.devices.interfaces[].model",
        &[
            "", "virtio", "e1000", "e1000e", "rtl8139", "pcnet", "ne2k_pci",
        ],
    ),
    Field("domain.devices.interfaces[].macAddress"),
    Field("domain.devices.interfaces[].dhcpOptions.**"),
    Only("domain.devices.interfaces[].state", &["", "up", "down"]),
    Field("domain.devices.interfaces[].acpiIndex"),
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
    Field("domain.devices.tpm.persistent"),
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
    Field("domain.devices.autoattachSerialConsole"),
    Field("domain.devices.autoattachGraphicsDevice"),
    Field("domain.devices.autoattachMemBalloon"),
    Field("domain.devices.autoattachPodInterface"),
    Field("domain.devices.autoattachInputDevice"),
    Field("domain.devices.autoattachVSOCK"),
    Field("domain.devices.logSerialConsole"),
    Field("domain.devices.disableHotplug"),
    Field("domain.devices.inputs[].name"),
    Field("domain.devices.inputs[].type"),
    Field("domain.devices.inputs[].bus"),
    Field("domain.devices.video.type"),
    Field("domain.devices.sound.name"),
    Field("domain.devices.sound.model"),
    Field("domain.devices.panicDevices[].model"),
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
    Field("volumes[].dataVolume.name"),
    Only("volumes[].dataVolume.hotpluggable", &["false"]),
    Field("volumes[].ephemeral.persistentVolumeClaim.claimName"),
    Field("volumes[].ephemeral.persistentVolumeClaim.readOnly"),
    Field("volumes[].hostDisk.path"),
    Field("volumes[].hostDisk.type"),
    Field("volumes[].hostDisk.capacity"),
    Field("volumes[].hostDisk.shared"),
    Field("volumes[].emptyDisk.capacity"),
    Field("volumes[].cloudInitNoCloud.**"),
    Field("volumes[].cloudInitConfigDrive.**"),
    Field("volumes[].sysprep.configMap.name"),
    Field("volumes[].sysprep.secret.name"),
    Field("volumes[].configMap.name"),
    Field("volumes[].configMap.optional"),
    Field("volumes[].configMap.volumeLabel"),
    Field("volumes[].secret.secretName"),
    Field("volumes[].secret.optional"),
    Field("volumes[].secret.volumeLabel"),
    Field("volumes[].serviceAccount.serviceAccountName"),
    Field("volumes[].downwardAPI.fields[].**"),
    Field("volumes[].downwardAPI.volumeLabel"),
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
    // Without migration, "if possible" never is.
    Only("evictionStrategy", &["None", "LiveMigrateIfPossible"]),
    Field("startStrategy"),
    Field("accessCredentials[].**"),
    Field("readinessProbe.**"),
    Field("livenessProbe.**"),
];

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::super::hints::HINTS;
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
        for (table, schema) in [
            (MACHINE, schema(0)),
            (INSTANCE, schema(1)),
            (REPLICA_SET, schema(2)),
            (POOL, schema(3)),
        ] {
            for field in table {
                assert!(exists(&schema, field.path()), "no field {}", field.path());
            }
        }
        for (path, _) in HINTS {
            let exists = |index| exists(&schema(index), path);
            assert!((0..4).any(exists), "no field {path}");
        }
    }
}
