//! Disks: the images as block nodes, and the devices in front of them.

use serde_json::{Value, json};

use super::{Builder, devices::root_port};
use crate::machine::{
    Cache, Disk, DiskBus, DiskDevice, DiskFile, DiskImage, Format, Io, disk_node,
};
use crate::pci::{self, DISKS};

/// The virtio-scsi controller that all SCSI disks sit on.
pub(super) fn scsi_controller(build: &mut Builder) {
    build.device(&json!({
        "driver": "virtio-scsi-pci", "id": "scsi", "bus": "pcie.0", "addr": pci::SCSI,
        "disable-legacy": "on",
    }));
}

pub(super) fn describe(build: &mut Builder, disks: Vec<Disk>) {
    let (mut virtio, mut sata, mut scsi) = (0.., 0.., 0..);
    for disk in disks {
        let mut device = device(&disk);
        match disk.bus() {
            DiskBus::Virtio => {
                let place = DISKS.place(next(&mut virtio));
                build.device(&root_port(&place));
                device["bus"] = place.port.into();
            }
            DiskBus::Sata => {
                device["bus"] = format!("ide.{}", next(&mut sata)).into();
            }
            DiskBus::Scsi => {
                device["bus"] = "scsi.0".into();
                device["channel"] = 0.into();
                device["scsi-id"] = next(&mut scsi).into();
                device["lun"] = 0.into();
            }
        }
        let blockdev = blockdev(build, disk);
        build.json("-blockdev", &blockdev);
        build.device(&device);
    }
}

fn next(places: &mut std::ops::RangeFrom<usize>) -> usize {
    let place = places.start;
    places.start += 1;
    place
}

/// What the guest sees, but for its place.
fn device(disk: &Disk) -> Value {
    let driver = match (disk.bus(), disk.device()) {
        (DiskBus::Virtio, _) => "virtio-blk-pci",
        (DiskBus::Sata, DiskDevice::Cdrom) => "ide-cd",
        (DiskBus::Sata, _) => "ide-hd",
        (DiskBus::Scsi, DiskDevice::Disk) => "scsi-hd",
        (DiskBus::Scsi, DiskDevice::Cdrom) => "scsi-cd",
        (DiskBus::Scsi, DiskDevice::Lun) => "scsi-block",
    };
    let mut device = json!({
        "driver": driver,
        "id": format!("disk-{}", disk.name()),
        "drive": disk_node(disk.name()),
    });
    if disk.device() != DiskDevice::Cdrom {
        // A guest that cannot reach its disk waits for it rather than to break its file systems.
        // One that writes to a read-only disk is told so.
        device["werror"] = if disk.read_only() { "report" } else { "stop" }.into();
        device["rerror"] = "stop".into();
        device["share-rw"] = disk.shareable().into();
    }
    if disk.device() == DiskDevice::Disk {
        device["write-cache"] = match disk.cache() {
            Cache::WriteThrough => "off".into(),
            Cache::WriteBack | Cache::None => "on".into(),
        };
    }
    if let Some(index) = disk.boot_index() {
        device["bootindex"] = index.get().into();
    }
    if let Some(serial) = disk.serial() {
        device["serial"] = serial.into();
    }
    device
}

/// The node that the device reads and writes, with all that is below it.
fn blockdev(build: &mut Builder, disk: Disk) -> Value {
    let node = disk_node(disk.name());
    let (read_only, cache, io) = (disk.read_only(), disk.cache(), disk.io());
    let direct = json!({"direct": cache == Cache::None, "no-flush": false});
    let aio = match io {
        Io::Threads => "threads",
        Io::Native => "native",
    };
    let mut file = |driver: &str, file: DiskFile, read_only: bool| {
        json!({
            "driver": driver, "filename": build.pass_file(file), "read-only": read_only,
            "aio": aio, "cache": direct, "discard": "unmap",
        })
    };
    let format = |format: Format, read_only: bool, file: Value| {
        let driver = match format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        json!({
            "driver": driver, "read-only": read_only, "discard": "unmap", "cache": direct,
            "file": file,
        })
    };
    let mut top = match disk.into_image() {
        DiskImage::File {
            file: image,
            format: image_format,
        } => {
            let image = file("file", image, read_only);
            let mut node = format(image_format, read_only, image);
            if image_format == Format::Qcow2 {
                // Whatever its header says, nothing is below it.
                node["backing"] = Value::Null;
            }
            node
        }
        DiskImage::BlockDevice(device) => {
            let device = file("host_device", device, read_only);
            format(Format::Raw, read_only, device)
        }
        DiskImage::Overlay {
            base,
            base_format,
            overlay,
        } => {
            let base = file("file", base, true);
            let mut base = format(base_format, true, base);
            if base_format == Format::Qcow2 {
                base["backing"] = Value::Null;
            }
            let overlay = file("file", overlay, read_only);
            let mut overlay = format(Format::Qcow2, read_only, overlay);
            overlay["backing"] = base;
            overlay
        }
    };
    top["node-name"] = node.into();
    top
}
