//! Disks: the images as block nodes, and the devices in front of them.

use serde_json::{Value, json};

use super::{Builder, devices::root_port};
use crate::machine::{
    Cache, Disk, DiskBus, DiskDevice, DiskFile, DiskImage, Format, Io, disk_node,
};
use crate::pci::{self, DISKS};

/// QEMU's id of the I/O thread `index`.
fn io_thread(index: usize) -> String {
    format!("io-{index}")
}

/// The threads that do the input and output of disks.
pub(super) fn io_threads(build: &mut Builder, count: usize) {
    for index in 0..count {
        build.json(
            "-object",
            &json!({"qom-type": "iothread", "id": io_thread(index)}),
        );
    }
}

/// The controller that all USB disks sit on.
pub(super) fn usb_controller(build: &mut Builder) {
    build.device(&json!({
        "driver": "qemu-xhci", "id": "usb", "bus": "pcie.0", "addr": pci::USB,
        "p2": pci::USB_PORTS, "p3": pci::USB_PORTS,
    }));
}

/// The virtio-scsi controller that all SCSI disks sit on.
pub(super) fn scsi_controller(build: &mut Builder) {
    build.device(&json!({
        "driver": "virtio-scsi-pci", "id": "scsi", "bus": "pcie.0", "addr": pci::SCSI,
        "disable-legacy": "on",
    }));
}

pub(super) fn describe(build: &mut Builder, disks: Vec<Disk>) {
    let (mut virtio, mut sata, mut scsi, mut usb) = (0.., 0.., 0.., 0..);
    for disk in disks {
        let mut device = device(&disk);
        match disk.bus() {
            DiskBus::Virtio if disk.slot().is_some() => {
                device["bus"] = "pcie.0".into();
                device["addr"] = disk.slot().map(|slot| format!("{slot:02x}.0")).into();
            }
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
            DiskBus::Usb => {
                let bridge = format!("usb-{}", disk.name());
                build.device(&json!({
                    "driver": "usb-bot", "id": bridge, "bus": "usb.0",
                    "port": (pci::USB_PORTS - next(&mut usb)).to_string(),
                }));
                device["bus"] = format!("{bridge}.0").into();
                device["scsi-id"] = 0.into();
                device["lun"] = 0.into();
            }
        }
        if let Some(blockdev) = blockdev(build, disk) {
            build.json("-blockdev", &blockdev);
        }
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
        (DiskBus::Scsi | DiskBus::Usb, DiskDevice::Disk) => "scsi-hd",
        (DiskBus::Scsi | DiskBus::Usb, DiskDevice::Cdrom) => "scsi-cd",
        (DiskBus::Scsi | DiskBus::Usb, DiskDevice::Lun) => "scsi-block",
    };
    let mut device = json!({
        "driver": driver,
        "id": format!("disk-{}", disk.name()),
    });
    if !disk.is_empty() {
        device["drive"] = disk_node(disk.name()).into();
    }
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
    if let Some(policy) = disk.error_policy() {
        let (write, read) = policy.words();
        // QEMU takes no other answer for writes that never come.
        device["werror"] = if disk.read_only() { "report" } else { write }.into();
        device["rerror"] = read.into();
    }
    if let Some(sizes) = disk.block_sizes() {
        device["logical_block_size"] = sizes.logical().into();
        device["physical_block_size"] = sizes.physical().into();
        if let Some(bytes) = sizes.discard_granularity() {
            device["discard_granularity"] = bytes.into();
        }
    }
    if let Some(thread) = disk.io_thread() {
        device["iothread"] = io_thread(thread).into();
    }
    if let Some(queues) = disk.queues() {
        device["num-queues"] = queues.into();
    }
    if let Some(index) = disk.boot_index() {
        device["bootindex"] = index.get().into();
    }
    if let Some(serial) = disk.serial() {
        device["serial"] = serial.into();
    }
    device
}

/// The node that the device reads and writes, with all that is below it; an empty drive has none.
fn blockdev(build: &mut Builder, disk: Disk) -> Option<Value> {
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
        DiskImage::Empty => return None,
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
            let driver = if base.is_block_device() {
                "host_device"
            } else {
                "file"
            };
            let base = file(driver, base, true);
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
    Some(top)
}
