//! Disks, and what they are made of, that KubeVirt's admission lets pass but no machine can have.

use crate::contract::KERNEL_BOOT_VOLUME;
use crate::field::FieldError;
use crate::machine::{
    BlockSize, Cache, DiskBus, DiskKind, Io, MachineDisk, VolumeSource, disks, host_disk,
    io_threads, kernel_boot, source, topology,
};
use crate::v1::VirtualMachineInstanceSpec;

/// Bytes of the label of an ISO 9660 file system at most (ECMA-119, 8.4.7).
pub(crate) const LABEL_BYTES: usize = 32;

/// Slots of the PCI bus that nothing else of a machine's is in: `0000:00:1b.0` to `0000:00:1e.0`.
const FREE_SLOTS: [&str; 4] = [
    "0000:00:1b.0",
    "0000:00:1c.0",
    "0000:00:1d.0",
    "0000:00:1e.0",
];

pub(super) fn refused(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        if let Ok(source) = source(volume, index) {
            errors.extend(content(source, &format!("volumes[{index}]")));
        }
    }
    errors.extend(kernel(spec));
    // What cannot be read is the validation's concern.
    let Ok(disks) = disks(spec) else {
        return errors;
    };
    for (index, disk) in disks.iter().enumerate() {
        errors.extend(options(spec, disk, index));
        let others = disks.iter().take(index);
        errors.extend(address(disk, others, index));
    }
    let vcpus = topology(spec, None).map_or(1, |topology| topology.vcpus());
    errors.extend(io_threads(spec, &disks, vcpus).err());
    errors
}

/// What is wrong with the source of a volume.
fn content(source: VolumeSource<'_>, path: &str) -> Option<FieldError> {
    let label = |label: &Option<String>| {
        let label = label.as_deref().unwrap_or_default();
        let printable = label.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        (label.len() > LABEL_BYTES || !printable).then(|| {
            FieldError::new(
                format!("{path}.{}.volumeLabel", source.name()),
                format!("use at most {LABEL_BYTES} printable ASCII characters"),
            )
        })
    };
    match source {
        VolumeSource::ConfigMap(map) => label(&map.volume_label),
        VolumeSource::Secret(secret) => label(&secret.volume_label),
        VolumeSource::DownwardApi(api) => label(&api.volume_label),
        VolumeSource::HostDisk(disk) => host_disk(disk, path).err(),
        VolumeSource::Ephemeral(_) if source.claim_name().is_none_or(str::is_empty) => {
            let path = format!("{path}.ephemeral.persistentVolumeClaim");
            Some(FieldError::new(path, "name the claim that is only read"))
        }
        VolumeSource::Sysprep(sysprep) => {
            let maps = [&sysprep.config_map, &sysprep.secret];
            let named = maps.into_iter().flatten().collect::<Vec<_>>();
            let one = matches!(named.as_slice(), [one] if !one.name.is_empty());
            let message = "name either a ConfigMap or a Secret";
            (!one).then(|| FieldError::new(format!("{path}.sysprep"), message))
        }
        _ => None,
    }
}

fn kernel(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    match kernel_boot(spec) {
        Err(error) => Some(error),
        Ok(None) => None,
        Ok(Some(_)) => {
            let mut volumes = spec.volumes.iter();
            let index = volumes.position(|volume| volume.name == KERNEL_BOOT_VOLUME)?;
            let message = format!(
                "`{KERNEL_BOOT_VOLUME}` is the volume of the kernel's image: call this one otherwise"
            );
            Some(FieldError::new(format!("volumes[{index}].name"), message))
        }
    }
}

/// What the bus, the kind or the volume of a disk does not allow.
fn options(
    spec: &VirtualMachineInstanceSpec,
    disk: &MachineDisk<'_>,
    index: usize,
) -> Vec<FieldError> {
    let path = format!("domain.devices.disks[{index}]");
    let mut errors = Vec::new();
    let mut refuse = |field: &str, message: &str| {
        errors.push(FieldError::new(format!("{path}.{field}"), message));
    };
    if disk.read_only && disk.kind == DiskKind::Disk && disk.bus == DiskBus::Sata {
        refuse(
            "disk.bus",
            "a disk that is only read cannot be on sata: use virtio, scsi or usb, or make it a cdrom",
        );
    }
    let most = serial_characters(disk.bus);
    match disk.serial {
        Some(_) if disk.kind == DiskKind::Lun => {
            refuse(
                "serial",
                "a LUN shows the serial number of its device: leave it out",
            );
        }
        Some(serial) if serial.len() > most => {
            let message = format!("a disk on {} has at most {most} characters", disk.bus);
            refuse("serial", &message);
        }
        _ => {}
    }
    match disk.block_size {
        None => {}
        Some(_) if disk.kind != DiskKind::Disk => {
            refuse(
                "blockSize",
                "is for disks: a cdrom and a lun have their own",
            );
        }
        Some(BlockSize::OfVolume) if disk.bus == DiskBus::Sata => {
            refuse("blockSize.matchVolume", SATA_SECTORS);
        }
        Some(BlockSize::Custom { logical, .. }) if disk.bus == DiskBus::Sata && logical != 512 => {
            refuse("blockSize.custom.logical", SATA_SECTORS);
        }
        Some(_) => {}
    }
    if disk.dedicated_io_thread && disk.bus != DiskBus::Virtio {
        refuse(
            "dedicatedIOThread",
            "is for disks on virtio: use that bus, or leave it out",
        );
    }
    if disk.io == Some(Io::Native) && disk.cache.is_some_and(|cache| cache != Cache::None) {
        refuse(
            "io",
            "native needs cache none: set that, or leave one of the two out",
        );
    }
    if disk.io == Some(Io::IoUring) {
        refuse(
            "io",
            "`io_uring` is not for containers: use native or threads, or leave it out",
        );
    }
    if disk.shareable && disk.source.is_some_and(has_overlay) {
        let message = "what the guest writes is its own here: leave it out, or use a claim";
        refuse("shareable", message);
    }
    if disk.tag.is_some() {
        let drive = |volume: &crate::v1::Volume| volume.cloud_init_config_drive.is_some();
        if !spec.volumes.iter().any(drive) {
            refuse(
                "tag",
                "is told by a config drive: add cloudInitConfigDrive, or leave it out",
            );
        } else if disk.serial.is_none() {
            refuse(
                "tag",
                "the guest finds the disk by its serial number: give it a serial",
            );
        }
    }
    errors
}

const SATA_SECTORS: &str = "a disk on sata has sectors of 512 bytes: use virtio, scsi or usb";

/// Characters that the protocol of a bus carries (ATA8-ACS, 7.16.7.6; Virtio 1.2, 5.2.6; QEMU cuts
/// the others' at 36).
fn serial_characters(bus: DiskBus) -> usize {
    match bus {
        DiskBus::Virtio | DiskBus::Sata => 20,
        DiskBus::Scsi | DiskBus::Usb => 36,
    }
}

fn has_overlay(source: VolumeSource<'_>) -> bool {
    matches!(
        source,
        VolumeSource::ContainerDisk(_) | VolumeSource::Ephemeral(_)
    )
}

/// A place on the bus that is another's.
fn address<'a>(
    disk: &MachineDisk<'_>,
    mut others: impl Iterator<Item = &'a MachineDisk<'a>>,
    index: usize,
) -> Option<FieldError> {
    let address = disk.pci_address?;
    let message = if disk.bus != DiskBus::Virtio {
        "only a disk on virtio has an address on the PCI bus: leave it out".to_owned()
    } else if !FREE_SLOTS.contains(&address) {
        format!(
            "`{address}` is not free: use {}, or leave it out",
            FREE_SLOTS.join(", ")
        )
    } else {
        let taken = others.find(|other| other.pci_address == Some(address))?;
        format!("`{address}` is the address of `{}` already", taken.name)
    };
    let path = format!("domain.devices.disks[{index}].disk.pciAddress");
    Some(FieldError::new(path, message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(disks: Value, volumes: Value) -> Vec<String> {
        let spec = json!({ "domain": { "devices": { "disks": disks } }, "volumes": volumes });
        let errors = refused(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    /// The fields that are refused of a disk `a` with these options, on a claim.
    fn options_of(disk: Value) -> Vec<String> {
        let mut named = disk;
        named["name"] = "a".into();
        let claim = json!([{ "name": "a", "persistentVolumeClaim": { "claimName": "a" } }]);
        let prefix = "domain.devices.disks[0].";
        let paths = paths(json!([named]), claim).into_iter();
        paths.map(|path| path.replace(prefix, "")).collect()
    }

    #[test]
    fn options_that_a_bus_does_not_have_are_named() {
        let custom = |logical: u32| json!({ "custom": { "logical": logical, "physical": 4096 } });
        let on = |bus: &str| json!({ "bus": bus });
        for (disk, refused) in [
            (
                json!({ "disk": { "bus": "sata", "readonly": true } }),
                "disk.bus",
            ),
            (json!({ "disk": { "readonly": true } }), "disk.bus"),
            (
                json!({ "disk": on("virtio"), "serial": "a".repeat(21) }),
                "serial",
            ),
            (
                json!({ "disk": on("scsi"), "serial": "a".repeat(37) }),
                "serial",
            ),
            (json!({ "lun": {}, "serial": "a" }), "serial"),
            (
                json!({ "disk": on("sata"), "blockSize": custom(4096) }),
                "blockSize.custom.logical",
            ),
            (
                json!({ "blockSize": { "matchVolume": {} } }),
                "blockSize.matchVolume",
            ),
            (
                json!({ "cdrom": {}, "blockSize": custom(512) }),
                "blockSize",
            ),
            (
                json!({ "disk": on("usb"), "dedicatedIOThread": true }),
                "dedicatedIOThread",
            ),
            (
                json!({ "disk": on("virtio"), "io": "native", "cache": "writeback" }),
                "io",
            ),
            (json!({ "disk": on("virtio"), "io": "io_uring" }), "io"),
            (json!({ "disk": on("virtio"), "tag": "fast" }), "tag"),
            (
                json!({ "disk": { "bus": "scsi", "pciAddress": "0000:00:1b.0" } }),
                "disk.pciAddress",
            ),
            (
                json!({ "disk": { "bus": "virtio", "pciAddress": "0000:81:01.0" } }),
                "disk.pciAddress",
            ),
        ] {
            assert_eq!(options_of(disk.clone()), [refused], "{disk}");
        }
        for disk in [
            json!({ "disk": { "bus": "usb", "readonly": true }, "serial": "a".repeat(36) }),
            json!({ "disk": on("sata"), "blockSize": custom(512) }),
            json!({ "disk": on("scsi"), "blockSize": custom(4096), "io": "native", "cache": "none" }),
            json!({ "disk": { "bus": "virtio", "pciAddress": "0000:00:1e.0" }, "dedicatedIOThread": true }),
            json!({ "cdrom": { "bus": "usb", "tray": "open" } }),
            json!({ "lun": {}, "shareable": true }),
        ] {
            assert_eq!(options_of(disk.clone()), Vec::<String>::new(), "{disk}");
        }
    }

    #[test]
    fn two_disks_have_two_addresses() {
        let disk = |name: &str| json!({ "name": name, "disk": { "bus": "virtio", "pciAddress": "0000:00:1c.0" } });
        let volume = |name: &str| json!({ "name": name, "emptyDisk": { "capacity": "1Gi" } });
        let paths = paths(
            json!([disk("a"), disk("b")]),
            json!([volume("a"), volume("b")]),
        );
        assert_eq!(paths, ["domain.devices.disks[1].disk.pciAddress"]);
    }

    #[test]
    fn a_tag_needs_a_config_drive_and_a_serial() {
        let drive = json!([
            { "name": "a", "emptyDisk": { "capacity": "1Gi" } },
            { "name": "b", "cloudInitConfigDrive": { "userData": "x" } },
        ]);
        let disk = |serial: &str| json!([{ "name": "a", "serial": serial, "tag": "fast" }]);
        assert_eq!(
            paths(disk(""), drive.clone()),
            ["domain.devices.disks[0].tag"]
        );
        assert!(paths(disk("s"), drive).is_empty());
    }

    #[test]
    fn volumes_that_are_none_are_named() {
        let long = "x".repeat(33);
        for (volume, path) in [
            (
                json!({ "ephemeral": {} }),
                "ephemeral.persistentVolumeClaim",
            ),
            (
                json!({ "ephemeral": { "persistentVolumeClaim": { "claimName": "" } } }),
                "ephemeral.persistentVolumeClaim",
            ),
            (
                json!({ "hostDisk": { "path": "/disk.img", "type": "Disk" } }),
                "hostDisk.path",
            ),
            (json!({ "sysprep": {} }), "sysprep"),
            (
                json!({ "sysprep": { "secret": { "name": "a" }, "configMap": { "name": "b" } } }),
                "sysprep",
            ),
            (
                json!({ "configMap": { "name": "a", "volumeLabel": long } }),
                "configMap.volumeLabel",
            ),
            (
                json!({ "secret": { "secretName": "a", "volumeLabel": "ä" } }),
                "secret.volumeLabel",
            ),
            (
                json!({ "downwardAPI": { "volumeLabel": "a\n" } }),
                "downwardAPI.volumeLabel",
            ),
        ] {
            let mut named = volume;
            named["name"] = "a".into();
            assert_eq!(
                paths(json!([]), json!([named])),
                [format!("volumes[0].{path}")]
            );
        }
        let shared = json!([{ "name": "a", "shareable": true }]);
        let image = json!([{ "name": "a", "containerDisk": { "image": "x" } }]);
        assert_eq!(paths(shared, image), ["domain.devices.disks[0].shareable"]);
    }

    #[test]
    fn the_volume_of_the_kernel_is_nobody_elses() {
        let boot = json!({ "container": { "image": "x", "kernelPath": "/k" } });
        let spec = json!({
            "domain": { "firmware": { "kernelBoot": boot } },
            "volumes": [{ "name": "kernel-boot", "emptyDisk": { "capacity": "1Gi" } }],
        });
        let errors = refused(&serde_json::from_value(spec).unwrap());
        assert_eq!(errors[0].path, "volumes[0].name");
    }
}
