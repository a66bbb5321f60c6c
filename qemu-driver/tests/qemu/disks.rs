//! Disks of every kind, and that a base image stays as it was.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::process::Command;

use qemu_driver::image;
use qemu_driver::machine::{
    Cache, Disk, DiskBus, DiskDevice, DiskFile, DiskImage, Format, Io, MAX_SATA_DISKS,
};
use tempfile::{NamedTempFile, TempDir};

use super::boot_sector::{BootSector, SECTORS};
use super::guest::{Guest, file, machine, name, raw};

fn index(index: u32) -> NonZeroU32 {
    NonZeroU32::new(index).unwrap()
}

/// A descriptor of the same file that can only read.
fn read_only(file: &File) -> OwnedFd {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap()
        .into()
}

fn content(mut file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn disk(disk: &str, device: DiskDevice, bus: DiskBus, image: DiskImage) -> Disk {
    Disk::new(name(disk), device, bus, image).unwrap()
}

#[tokio::test]
async fn the_guest_boots_from_every_bus() {
    for (bus, letter) in [
        (DiskBus::Virtio, "v"),
        (DiskBus::Sata, "s"),
        (DiskBus::Scsi, "c"),
        (DiskBus::Usb, "u"),
    ] {
        let boot = raw(&BootSector::new().print(letter).power_off().disk(SECTORS));
        let other = raw(&BootSector::new().print("wrong").power_off().disk(SECTORS));
        let mut machine = machine();
        machine
            .add_disk(disk("a", DiskDevice::Disk, bus, other).with_boot_index(index(2)))
            .unwrap();
        machine
            .add_disk(disk("b", DiskDevice::Disk, bus, boot).with_boot_index(index(1)))
            .unwrap();
        let (console, status, _) = Guest::booted(machine).await.end().await;
        assert_eq!(
            (console.as_slice(), status.code()),
            (letter.as_bytes(), Some(0))
        );
    }
}

#[tokio::test]
async fn writes_go_to_the_overlay_and_not_to_its_base() {
    let directory = TempDir::new().unwrap();
    let sector = || {
        BootSector::new()
            .write_second_sector()
            .power_off()
            .disk(SECTORS)
    };
    for format in [Format::Raw, Format::Qcow2] {
        let base = NamedTempFile::new().unwrap();
        base.as_file().write_all(&sector()).unwrap();
        let mut path = base.path().to_owned();
        if format == Format::Qcow2 {
            path = directory.path().join("base.qcow2");
            let mut command = Command::new("qemu-img");
            command
                .args(["convert", "-c", "-f", "raw", "-O", "qcow2"])
                .arg(base.path())
                .arg(&path);
            assert!(command.status().unwrap().success());
        }
        let base = File::open(&path).unwrap();
        let before = content(&base);
        let info = image::inspect(&base).unwrap();
        assert_eq!(
            (info.format, info.virtual_size),
            (format, SECTORS as u64 * 512)
        );
        let overlay_path = directory.path().join("overlay");
        let overlay = File::create_new(&overlay_path).unwrap();
        image::create_overlay(&overlay, info.virtual_size).unwrap();
        let overlay = File::options()
            .read(true)
            .write(true)
            .open(&overlay_path)
            .unwrap();
        let mut machine = machine();
        let image = DiskImage::Overlay {
            base: DiskFile::new(base.try_clone().unwrap()).unwrap(),
            base_format: info.format,
            overlay: DiskFile::new(overlay).unwrap(),
        };
        let mut root = disk("root", DiskDevice::Disk, DiskBus::Virtio, image);
        root = root.with_serial("R00T").unwrap();
        machine.add_disk(root).unwrap();
        let guest = Guest::booted(machine).await;
        let stats = guest.qmp.disk_stats().await;
        let (console, status, _) = guest.end().await;
        assert_eq!((console.as_slice(), status.code()), (&b"w"[..], Some(0)));
        if let Ok(stats) = stats {
            assert_eq!(stats[0].0, "disk-root");
        }
        assert!(content(&base) == before, "the base was written to");
        let mut command = Command::new("qemu-io");
        command
            .args(["-r", "-c", "read -v 512 512"])
            .arg(&overlay_path);
        let seen = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(
            seen.contains("55 aa"),
            "the overlay does not hold the sector: {seen}"
        );
        std::fs::remove_file(overlay_path).unwrap();
    }
}

#[tokio::test]
async fn a_raw_file_is_written_in_place() {
    let sector = BootSector::new()
        .write_second_sector()
        .power_off()
        .disk(SECTORS);
    for cache in [Cache::WriteBack, Cache::WriteThrough] {
        let file = file(&sector);
        let image = DiskImage::File {
            file: DiskFile::new(file.try_clone().unwrap()).unwrap(),
            format: Format::Raw,
        };
        let mut machine = machine();
        let disk = disk("data", DiskDevice::Disk, DiskBus::Scsi, image);
        machine
            .add_disk(disk.with_cache(cache, Io::Threads).unwrap())
            .unwrap();
        let (console, ..) = Guest::booted(machine).await.end().await;
        assert_eq!(console, b"w");
        assert_eq!(content(&file)[512..1024], sector[..512]);
    }
}

#[tokio::test]
async fn a_read_only_disk_stays_as_it_was() {
    let sector = BootSector::new()
        .write_second_sector()
        .power_off()
        .disk(SECTORS);
    for opened_read_only in [true, false] {
        let file = file(&sector);
        let fd = if opened_read_only {
            read_only(&file)
        } else {
            file.try_clone().unwrap().into()
        };
        let image = DiskImage::File {
            file: DiskFile::new(fd).unwrap(),
            format: Format::Raw,
        };
        let mut disk = disk("data", DiskDevice::Disk, DiskBus::Virtio, image);
        if !opened_read_only {
            disk = disk.with_read_only().unwrap();
        }
        assert!(disk.read_only());
        let mut machine = machine();
        machine.add_disk(disk).unwrap();
        let (console, ..) = Guest::booted(machine).await.end().await;
        assert_eq!(console, b"e");
        assert!(content(&file) == sector);
    }
}

#[tokio::test]
async fn every_disk_of_a_full_machine_is_accepted() {
    let mut machine = machine();
    let blank = || raw(&[0; 4096]);
    for n in 0..32 {
        let name = format!("v{n}-{}", "x".repeat(50));
        let disk = disk(&name, DiskDevice::Disk, DiskBus::Virtio, blank());
        machine
            .add_disk(disk.with_serial("a+b_c.d-1").unwrap())
            .unwrap();
    }
    for n in 0..MAX_SATA_DISKS {
        let device = if n % 2 == 0 {
            DiskDevice::Disk
        } else {
            DiskDevice::Cdrom
        };
        machine
            .add_disk(disk(&format!("s{n}"), device, DiskBus::Sata, blank()))
            .unwrap();
    }
    for n in 0..64 {
        let device = if n % 2 == 0 {
            DiskDevice::Disk
        } else {
            DiskDevice::Cdrom
        };
        machine
            .add_disk(disk(&format!("c{n}"), device, DiskBus::Scsi, blank()))
            .unwrap();
    }
    for bus in [DiskBus::Virtio, DiskBus::Sata, DiskBus::Scsi] {
        let more = disk("more", DiskDevice::Disk, bus, blank());
        assert!(machine.add_disk(more).is_err());
    }
    let guest = Guest::new(machine).await;
    assert_eq!(guest.qmp.disk_stats().await.unwrap().len(), 32 + 6 + 64);
    guest.qmp.cont().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_another_machine_writes_to_is_refused_unless_shareable() {
    let file = file(&[0; 4096]);
    let image = || DiskImage::File {
        // A descriptor of its own, since QEMU's locks belong to what was opened.
        file: DiskFile::new(
            File::options()
                .read(true)
                .write(true)
                .open(format!(
                    "/proc/self/fd/{}",
                    std::os::fd::AsRawFd::as_raw_fd(&file)
                ))
                .unwrap(),
        )
        .unwrap(),
        format: Format::Raw,
    };
    let machine_of = |shareable: bool| {
        let mut disk = disk("data", DiskDevice::Disk, DiskBus::Virtio, image());
        if shareable {
            disk = disk.with_shareable().unwrap();
        }
        let mut machine = machine();
        machine.add_disk(disk).unwrap();
        machine
    };
    let first = Guest::new(machine_of(true)).await;
    let second = Guest::new(machine_of(true)).await;
    let words = Guest::refused(machine_of(false)).await;
    assert!(words.contains("lock"), "{words}");
    drop((first, second));
}

#[tokio::test]
async fn direct_input_and_output_is_accepted() {
    // Not in a tmpfs, which knows no O_DIRECT on older kernels.
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    (&file)
        .write_all(&BootSector::new().print("d").power_off().disk(SECTORS))
        .unwrap();
    for io in [Io::Threads, Io::Native] {
        let image = DiskImage::File {
            file: DiskFile::new(file.try_clone().unwrap()).unwrap(),
            format: Format::Raw,
        };
        let disk = disk("data", DiskDevice::Disk, DiskBus::Virtio, image);
        let mut machine = machine();
        machine
            .add_disk(disk.with_cache(Cache::None, io).unwrap())
            .unwrap();
        let (console, ..) = Guest::booted(machine).await.end().await;
        assert_eq!(console, b"d");
    }
}

#[tokio::test]
async fn a_tray_is_opened_before_the_guest_starts() {
    let mut machine = machine();
    let medium = || raw(&BootSector::new().print("x").power_off().disk(SECTORS));
    for (drive, bus, image) in [
        ("sata", DiskBus::Sata, medium()),
        ("scsi", DiskBus::Scsi, medium()),
        ("usb", DiskBus::Usb, medium()),
        ("empty", DiskBus::Sata, DiskImage::Empty),
    ] {
        let drive = disk(drive, DiskDevice::Cdrom, bus, image);
        machine.add_disk(drive.with_open_tray().unwrap()).unwrap();
    }
    let closed = disk("closed", DiskDevice::Cdrom, DiskBus::Sata, medium());
    machine.add_disk(closed).unwrap();
    let trays: Vec<_> = machine
        .disks()
        .iter()
        .filter(|disk| disk.tray_open())
        .map(|disk| disk.name().clone())
        .collect();
    let guest = Guest::new(machine).await;
    for drive in &trays {
        guest.qmp.open_tray(drive).await.unwrap();
    }
    let blocks = guest.qmp.execute(&qapi::qmp::query_block {}).await.unwrap();
    let mut open: Vec<_> = blocks
        .iter()
        .filter(|block| block.tray_open == Some(true))
        .filter_map(|block| block.qdev.clone())
        .collect();
    open.sort();
    assert_eq!(open, ["disk-empty", "disk-sata", "disk-scsi", "disk-usb"]);
    assert!(guest.qmp.open_tray(&name("none")).await.is_err());
    guest.qmp.quit().await.unwrap();
}
