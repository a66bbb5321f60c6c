//! Which disks a machine has, and what each is to the guest.

use std::num::NonZeroU32;

use super::block_size::{BlockSize, block_size};
use super::volumes::{VolumeSource, source};
use crate::field::{FieldError, word};
use crate::v1::{Disk, VirtualMachineInstanceSpec, Volume};
use crate::words::words;

words! {
    /// The bus that a disk is on.
    DiskBus {
        /// virtio-blk.
        Virtio = "virtio",
        /// AHCI.
        Sata = "sata",
        /// virtio-scsi.
        Scsi = "scsi",
        /// USB mass storage.
        Usb = "usb",
    }
}

words! {
    /// What a disk is to the guest.
    DiskKind {
        /// An ordinary disk.
        Disk = "disk",
        /// A CD-ROM.
        Cdrom = "cdrom",
        /// A SCSI logical unit, commands passed through.
        Lun = "lun",
    }
}

words! {
    /// How writes are cached on the node.
    Cache {
        /// Not at all.
        None = "none",
        /// They are finished when they are on the medium.
        WriteThrough = "writethrough",
        /// They are finished when they are in the node's memory; flushes reach the medium.
        WriteBack = "writeback",
    }
}

words! {
    /// How QEMU reads and writes.
    Io {
        /// By the kernel's own asynchronous interface.
        Native = "native",
        /// By threads.
        Threads = "threads",
        /// By io_uring.
        IoUring = "io_uring",
    }
}

words! {
    /// What an error of the storage does.
    ErrorPolicy {
        /// It stops the guest, which tries again when it goes on.
        Stop = "stop",
        /// The guest is told.
        Report = "report",
        /// Nobody is told.
        Ignore = "ignore",
        /// Want of space stops the guest, which is told of anything else.
        Enospace = "enospace",
    }
}

words! {
    /// The state of a CD-ROM drive's tray.
    Tray {
        /// Closed.
        Closed = "closed",
        /// Open, the medium lying in it.
        Open = "open",
    }
}

/// A disk of a machine with the volume that holds its data.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineDisk<'a> {
    /// Name of volume and disk.
    pub name: &'a str,
    /// What the volume is made from; `None` for a CD-ROM drive without a medium.
    pub source: Option<VolumeSource<'a>>,
    /// What it is to the guest.
    pub kind: DiskKind,
    /// The bus that it is on; sata where the spec says nothing, as in KubeVirt.
    pub bus: DiskBus,
    /// The guest cannot write.
    pub read_only: bool,
    /// Place in the order of boot devices.
    pub boot_order: Option<NonZeroU32>,
    /// How writes are cached, where the spec says so.
    pub cache: Option<Cache>,
    /// How QEMU reads and writes, where the spec says so.
    pub io: Option<Io>,
    /// More than one machine may write to it.
    pub shareable: bool,
    /// Serial number that the guest sees.
    pub serial: Option<&'a str>,
    /// The tray of a CD-ROM drive begins open.
    pub tray_open: bool,
    /// What an error of the storage does, where the spec says so.
    pub error_policy: Option<ErrorPolicy>,
    /// Block sizes that the guest sees, where the spec says so.
    pub block_size: Option<BlockSize>,
    /// It has an I/O thread to itself.
    pub dedicated_io_thread: bool,
    /// Tag by which the guest finds it in its config drive.
    pub tag: Option<&'a str>,
    /// Where it is on the guest's PCI bus, where the spec says so.
    pub pci_address: Option<&'a str>,
}

impl MachineDisk<'_> {
    /// Whether the guest may boot from it: nothing boots from a seed, from settings, or from an empty
    /// drive.
    pub fn may_boot(&self) -> bool {
        self.source.is_some_and(|source| !source.is_generated())
    }
}

/// The disks of the spec in its order, then those of volumes that no disk or shared directory names.
pub fn disks(spec: &VirtualMachineInstanceSpec) -> Result<Vec<MachineDisk<'_>>, Vec<FieldError>> {
    let mut disks = Vec::new();
    let mut errors = Vec::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        match with_disk(spec, disk, index) {
            Ok(disk) => disks.push(disk),
            Err(error) => errors.push(error),
        }
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        if is_used(spec, volume) {
            continue;
        }
        match source(volume, index) {
            Ok(VolumeSource::MemoryDump(_)) => {}
            Ok(source) => disks.push(plain(&volume.name, Some(source))),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(disks)
    } else {
        Err(errors)
    }
}

fn is_used(spec: &VirtualMachineInstanceSpec, volume: &Volume) -> bool {
    let devices = &spec.domain.devices;
    devices.disks.iter().any(|disk| disk.name == volume.name)
        || devices
            .filesystems
            .iter()
            .any(|directory| directory.name == volume.name)
}

/// A disk of which the spec says nothing but the volume.
fn plain<'a>(name: &'a str, source: Option<VolumeSource<'a>>) -> MachineDisk<'a> {
    MachineDisk {
        name,
        source,
        kind: DiskKind::Disk,
        bus: DiskBus::Sata,
        read_only: source.is_some_and(is_read_only),
        boot_order: None,
        cache: None,
        io: None,
        shareable: matches!(source, Some(VolumeSource::HostDisk(disk)) if disk.shared == Some(true)),
        serial: None,
        tray_open: false,
        error_policy: None,
        block_size: None,
        dedicated_io_thread: false,
        tag: None,
        pci_address: None,
    }
}

fn is_read_only(source: VolumeSource<'_>) -> bool {
    matches!(source, VolumeSource::PersistentVolumeClaim(claim) if claim.read_only == Some(true))
}

fn with_disk<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    disk: &'a Disk,
    index: usize,
) -> Result<MachineDisk<'a>, FieldError> {
    let path = format!("domain.devices.disks[{index}]");
    let kind_path = |field: &str| format!("{path}.{field}");
    let source = medium(spec, disk, &path)?;
    let plain = plain(&disk.name, source);
    let (kind, bus, read_only) = target(disk, &path)?;
    let boot_order = disk.boot_order.map(NonZeroU32::new);
    if boot_order == Some(None) {
        return Err(FieldError::new(
            kind_path("bootOrder"),
            "the order of boot devices begins at 1",
        ));
    }
    let tray = disk.cdrom.as_ref().and_then(|cdrom| cdrom.tray.as_deref());
    let given = |text: &'a Option<String>| text.as_deref().filter(|text| !text.is_empty());
    Ok(MachineDisk {
        kind,
        bus: word(|| format!("{path}.{kind}.bus"), bus)?.unwrap_or(match kind {
            DiskKind::Lun => DiskBus::Scsi,
            DiskKind::Disk | DiskKind::Cdrom => DiskBus::Sata,
        }),
        read_only: read_only || plain.read_only,
        boot_order: boot_order.flatten(),
        cache: word(|| kind_path("cache"), disk.cache.as_deref())?,
        io: word(|| kind_path("io"), disk.io.as_deref())?,
        shareable: plain.shareable || disk.shareable == Some(true),
        serial: given(&disk.serial),
        // KubeVirt lets any word pass; that is the concern of `crate::support`.
        tray_open: tray == Some(Tray::Open.as_str()),
        error_policy: word(|| kind_path("errorPolicy"), disk.error_policy.as_deref())?,
        block_size: block_size(disk, &path)?,
        dedicated_io_thread: disk.dedicated_io_thread == Some(true),
        tag: given(&disk.tag),
        pci_address: disk
            .disk
            .as_ref()
            .and_then(|target| given(&target.pci_address)),
        ..plain
    })
}

/// The volume of a disk. A CD-ROM drive can do without one.
fn medium<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    disk: &Disk,
    path: &str,
) -> Result<Option<VolumeSource<'a>>, FieldError> {
    let mut volumes = spec.volumes.iter().enumerate();
    match volumes.find(|(_, volume)| volume.name == disk.name) {
        Some((number, volume)) => source(volume, number).map(Some),
        None if disk.cdrom.is_some() => Ok(None),
        None => {
            let message = format!(
                "no volume is called `{}`: add it to volumes, or leave the disk out",
                disk.name
            );
            Err(FieldError::new(format!("{path}.name"), message))
        }
    }
}

/// Kind, bus and whether the guest may only read; a disk that says nothing is an ordinary disk.
fn target<'a>(disk: &'a Disk, path: &str) -> Result<(DiskKind, Option<&'a str>, bool), FieldError> {
    let mut targets = Vec::new();
    if let Some(target) = &disk.disk {
        targets.push((
            DiskKind::Disk,
            target.bus.as_deref(),
            target.readonly == Some(true),
        ));
    }
    if let Some(target) = &disk.cdrom {
        targets.push((
            DiskKind::Cdrom,
            target.bus.as_deref(),
            target.readonly != Some(false),
        ));
    }
    if let Some(target) = &disk.lun {
        targets.push((
            DiskKind::Lun,
            target.bus.as_deref(),
            target.readonly == Some(true),
        ));
    }
    match targets.as_slice() {
        [] => Ok((DiskKind::Disk, None, false)),
        [target] => Ok(*target),
        _ => Err(FieldError::new(path, "choose one of disk, cdrom and lun")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(disks: serde_json::Value, volumes: serde_json::Value) -> VirtualMachineInstanceSpec {
        let spec = json!({ "domain": { "devices": { "disks": disks } }, "volumes": volumes });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn disks_come_in_the_order_of_the_spec_then_volumes_without_a_disk() {
        let spec = read(
            json!([{ "name": "b", "disk": { "bus": "virtio" }, "bootOrder": 1 }, { "name": "c", "cdrom": {} }]),
            json!([
                { "name": "a", "emptyDisk": { "capacity": "1Gi" } },
                { "name": "b", "containerDisk": { "image": "x" } },
                { "name": "c", "persistentVolumeClaim": { "claimName": "c" } },
            ]),
        );
        let disks = disks(&spec).unwrap();
        let seen: Vec<_> = disks
            .iter()
            .map(|d| {
                (
                    d.name,
                    d.kind,
                    d.bus,
                    d.read_only,
                    d.boot_order.map(u32::from),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("b", DiskKind::Disk, DiskBus::Virtio, false, Some(1)),
                ("c", DiskKind::Cdrom, DiskBus::Sata, true, None),
                ("a", DiskKind::Disk, DiskBus::Sata, false, None),
            ]
        );
    }

    #[test]
    fn each_wrong_disk_is_named() {
        let spec = read(
            json!([
                { "name": "gone" },
                { "name": "a", "disk": {}, "cdrom": {} },
                { "name": "a", "disk": { "bus": "ide" } },
                { "name": "a", "bootOrder": 0 },
                { "name": "a", "cache": "default" },
            ]),
            json!([{ "name": "a", "containerDisk": { "image": "x" } }]),
        );
        let paths: Vec<_> = disks(&spec)
            .unwrap_err()
            .into_iter()
            .map(|error| error.path)
            .collect();
        assert_eq!(
            paths,
            [
                "domain.devices.disks[0].name",
                "domain.devices.disks[1]",
                "domain.devices.disks[2].disk.bus",
                "domain.devices.disks[3].bootOrder",
                "domain.devices.disks[4].cache",
            ]
        );
    }

    #[test]
    fn a_drive_can_be_empty_and_a_disk_cannot() {
        let spec = read(
            json!([{ "name": "cd", "cdrom": { "tray": "open" }, "bootOrder": 1 }]),
            json!([{ "name": "a", "configMap": { "name": "a" } }]),
        );
        let disks = disks(&spec).unwrap();
        assert_eq!(disks[0].source, None);
        assert!(disks[0].tray_open && !disks[1].tray_open);
        assert!(!disks[0].may_boot() && !disks[1].may_boot());
    }

    #[test]
    fn options_are_read() {
        let custom = json!({ "custom": { "logical": 4096, "physical": 8192 } });
        let spec = read(
            json!([{
                "name": "a", "disk": { "bus": "virtio", "pciAddress": "0000:00:1b.0" },
                "errorPolicy": "enospace", "blockSize": custom, "dedicatedIOThread": true,
                "tag": "fast", "io": "threads", "cache": "writeback",
            }]),
            json!([{ "name": "a", "hostDisk": { "path": "/a/b", "type": "Disk", "shared": true } }]),
        );
        let disk = disks(&spec).unwrap().swap_remove(0);
        assert_eq!(disk.error_policy, Some(ErrorPolicy::Enospace));
        assert_eq!(
            (disk.tag, disk.pci_address),
            (Some("fast"), Some("0000:00:1b.0"))
        );
        assert!(disk.dedicated_io_thread && disk.shareable && disk.may_boot());
        assert!(disk.block_size.is_some());
    }

    #[test]
    fn who_may_write_is_told() {
        let with = |disk: serde_json::Value| {
            let mut named = disk;
            named["name"] = "a".into();
            let claim = json!([{ "name": "a", "persistentVolumeClaim": { "claimName": "a" } }]);
            let spec = read(json!([named]), claim);
            let disk = disks(&spec).unwrap().swap_remove(0);
            (disk.read_only, disk.shareable)
        };
        for (disk, expected) in [
            (json!({ "disk": { "bus": "virtio" } }), (false, false)),
            (
                json!({ "disk": { "bus": "virtio", "readonly": true } }),
                (true, false),
            ),
            (
                json!({ "disk": { "bus": "virtio" }, "shareable": true }),
                (false, true),
            ),
            (json!({ "lun": { "bus": "scsi" } }), (false, false)),
            (
                json!({ "lun": { "bus": "scsi", "readonly": true } }),
                (true, false),
            ),
            (json!({ "cdrom": { "bus": "sata" } }), (true, false)),
            (
                json!({ "cdrom": { "bus": "sata", "readonly": false } }),
                (false, false),
            ),
        ] {
            assert_eq!(with(disk.clone()), expected, "{disk}");
        }
    }

    #[test]
    fn a_claim_that_is_only_read_makes_a_disk_that_is_only_read() {
        let claim = json!([{ "name": "a", "persistentVolumeClaim": { "claimName": "a", "readOnly": true } }]);
        assert!(disks(&read(json!([]), claim.clone())).unwrap()[0].read_only);
        assert!(disks(&read(json!([{ "name": "a", "disk": {} }]), claim)).unwrap()[0].read_only);
    }
}
