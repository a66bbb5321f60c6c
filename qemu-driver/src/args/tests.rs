//! The arguments of several machines, as QEMU gets them.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::machine::*;

fn name(text: &str) -> Name {
    Name::new("thing", text).unwrap()
}

fn writable() -> DiskFile {
    DiskFile::new(tempfile::tempfile().unwrap()).unwrap()
}

fn read_only() -> DiskFile {
    DiskFile::new(std::fs::File::open("/proc/self/exe").unwrap()).unwrap()
}

fn tap() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn index(index: u32) -> NonZeroU32 {
    NonZeroU32::new(index).unwrap()
}

fn machine(accelerator: Accelerator, cpu: Cpu) -> Machine {
    let uuid = Uuid::parse_str("6a1a24a1-4061-4607-8bf4-a3963d0c5895").unwrap();
    let memory = Memory::new(512 << 20).unwrap();
    Machine::new(
        name("cattle-1"),
        uuid,
        MachineType::default(),
        accelerator,
        cpu,
        memory,
    )
}

fn one_cpu() -> Cpu {
    Cpu::new(1, 1, 1, CpuModel::Host).unwrap()
}

fn overlay() -> DiskImage {
    DiskImage::Overlay {
        base: read_only(),
        base_format: Format::Qcow2,
        overlay: writable(),
    }
}

fn file() -> DiskImage {
    DiskImage::File {
        file: writable(),
        format: Format::Raw,
    }
}

/// One option a line, and how many descriptors go with it.
fn rendered(machine: Machine) -> String {
    let (line, _channels) = CommandLine::new(machine).unwrap();
    let mut text = String::new();
    for arg in &line.args {
        let arg = arg.to_str().unwrap();
        text += if arg.starts_with('-') { "\n" } else { " " };
        text += &in_order(arg);
    }
    format!(
        "{}\n{} descriptors",
        text.trim_start(),
        line.descriptors.len()
    )
}

/// JSON with its keys in order, which is serde_json's own unless another crate of the same build
/// asks it for another.
fn in_order(arg: &str) -> String {
    fn sort(value: &mut Value) {
        if let Value::Object(map) = value {
            map.values_mut().for_each(sort);
            let mut entries: Vec<_> = std::mem::take(map).into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            map.extend(entries);
        }
    }
    let Ok(mut value @ Value::Object(_)) = serde_json::from_str(arg) else {
        return arg.into();
    };
    sort(&mut value);
    value.to_string()
}

#[test]
fn a_machine_without_anything() {
    insta::assert_snapshot!(rendered(machine(Accelerator::Tcg, one_cpu())));
}

#[test]
fn a_plain_pod() {
    let cpu = Cpu::new(2, 1, 1, CpuModel::Host)
        .unwrap()
        .with_max_sockets(8)
        .unwrap();
    let mut machine = machine(Accelerator::Kvm, cpu).with_max_memory(2 << 30);
    let root = Disk::new(name("root"), DiskDevice::Disk, DiskBus::Virtio, overlay()).unwrap();
    machine.add_disk(root.with_boot_index(index(1))).unwrap();
    let mac = "52:54:00:12:34:56".parse().unwrap();
    let nic = Nic::new(name("default"), vec![tap()], mac, NicModel::Virtio).unwrap();
    machine.add_nic(nic.with_mtu(1450).unwrap()).unwrap();
    insta::assert_snapshot!(rendered(machine));
}

#[test]
fn programs_beside_qemu() {
    let socket = || std::os::unix::net::UnixStream::pair().unwrap().0;
    let mut machine = machine(Accelerator::Kvm, one_cpu())
        .with_max_memory(2 << 30)
        .with_tpm(socket());
    for tag in ["settings", "data"] {
        let filesystem = Filesystem::new(name(tag), socket()).unwrap();
        machine.add_filesystem(filesystem).unwrap();
    }
    let twice = Filesystem::new(name("data"), socket()).unwrap();
    machine.add_filesystem(twice).unwrap_err();
    Filesystem::new(name(&"a".repeat(37)), socket()).unwrap_err();
    insta::assert_snapshot!(rendered(machine));
}

#[test]
fn disks_of_every_kind() {
    let block = || {
        DiskImage::BlockDevice(DiskFile::block_device_for_test(
            tempfile::tempfile().unwrap(),
        ))
    };
    use {DiskBus::*, DiskDevice::*};
    let disk = |disk: &str, device, bus, image| {
        crate::machine::Disk::new(name(disk), device, bus, image).unwrap()
    };
    let mut machine = machine(Accelerator::Tcg, one_cpu());
    let iso = DiskImage::File {
        file: read_only(),
        format: Format::Raw,
    };
    let qcow2 = DiskImage::File {
        file: read_only(),
        format: Format::Qcow2,
    };
    for disk in [
        disk("root", Disk, Virtio, overlay()).with_boot_index(index(2)),
        disk("cd", Cdrom, Sata, iso).with_boot_index(index(1)),
        disk("data", Disk, Sata, file())
            .with_serial("D4T4")
            .unwrap(),
        disk("direct", Disk, Scsi, file())
            .with_cache(Cache::None, Io::Native)
            .unwrap(),
        disk("through", Disk, Scsi, file())
            .with_cache(Cache::WriteThrough, Io::Threads)
            .unwrap(),
        disk("shared", Disk, Virtio, block())
            .with_shareable()
            .unwrap(),
        disk("lun", Lun, Scsi, block()),
        disk("config", Disk, Virtio, qcow2),
        disk(
            "a-name-of-more-characters-than-a-node-has",
            Disk,
            Virtio,
            file(),
        ),
    ] {
        machine.add_disk(disk).unwrap();
    }
    insta::assert_snapshot!(rendered(machine));
}

/// The lines that say something of disks.
fn of_disks(machine: Machine) -> String {
    let rendered = rendered(machine);
    let words = ["disk-", "usb", "iothread", "\"scsi\"", "port-disk"];
    let lines = rendered
        .lines()
        .filter(|line| words.iter().any(|word| line.contains(word)));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn options_of_disks() {
    use {DiskBus::*, DiskDevice::*};
    let cpu = Cpu::new(2, 1, 1, CpuModel::Host).unwrap();
    let mut machine = machine(Accelerator::Kvm, cpu).with_io_threads(2);
    let disk = |disk: &str, device, bus, image| {
        crate::machine::Disk::new(name(disk), device, bus, image).unwrap()
    };
    let base = DiskFile::new(std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
    let overlay = DiskImage::Overlay {
        base: DiskFile::block_device_for_test(base.as_fd().try_clone_to_owned().unwrap().into()),
        base_format: Format::Raw,
        overlay: writable(),
    };
    let sizes = BlockSizes::new(4096, 8192, Some(0)).unwrap();
    for disk in [
        disk("stick", Disk, Usb, file())
            .with_serial("x".repeat(36))
            .unwrap(),
        disk("usb-cd", Cdrom, Usb, DiskImage::Empty),
        disk("cd", Cdrom, Sata, DiskImage::Empty)
            .with_open_tray()
            .unwrap(),
        disk("alone", Disk, Virtio, file())
            .with_io_thread(1)
            .unwrap()
            .with_queues(2)
            .unwrap(),
        disk("placed", Disk, Virtio, file())
            .with_slot(0x1b)
            .unwrap()
            .with_io_thread(0)
            .unwrap(),
        disk("report", Disk, Scsi, file()).with_error_policy(ErrorPolicy::Report),
        disk("ignore", Disk, Scsi, file()).with_error_policy(ErrorPolicy::Ignore),
        disk("enospace", Disk, Scsi, overlay).with_error_policy(ErrorPolicy::Enospace),
        disk("large", Disk, Virtio, file())
            .with_block_sizes(sizes)
            .unwrap(),
    ] {
        machine.add_disk(disk).unwrap();
    }
    insta::assert_snapshot!(of_disks(machine));
}

#[test]
fn options_that_a_disk_cannot_have_are_refused() {
    use {DiskBus::*, DiskDevice::*};
    let disk = |device, bus| {
        let image = match device {
            Cdrom => DiskImage::Empty,
            _ => file(),
        };
        crate::machine::Disk::new(name("d"), device, bus, image).unwrap()
    };
    let sizes = BlockSizes::new(4096, 4096, None).unwrap();
    assert!(crate::machine::Disk::new(name("d"), Disk, Usb, DiskImage::Empty).is_err());
    assert!(disk(Disk, Sata).with_block_sizes(sizes).is_err());
    assert!(disk(Cdrom, Scsi).with_block_sizes(sizes).is_err());
    assert!(disk(Disk, Scsi).with_io_thread(0).is_err());
    assert!(disk(Disk, Usb).with_queues(1).is_err());
    assert!(disk(Disk, Sata).with_slot(0x1b).is_err());
    assert!(disk(Disk, Virtio).with_slot(0x1f).is_err());
    assert!(disk(Disk, Usb).with_open_tray().is_err());
    let mut machine = machine(Accelerator::Tcg, one_cpu()).with_io_threads(1);
    let threaded = |thread| disk(Disk, Virtio).with_io_thread(thread).unwrap();
    assert!(machine.add_disk(threaded(1)).is_err());
    machine
        .add_disk(threaded(0).with_slot(0x1c).unwrap())
        .unwrap();
    let other = crate::machine::Disk::new(name("e"), Disk, Virtio, file()).unwrap();
    let error = machine.add_disk(other.with_slot(0x1c).unwrap());
    assert!(error.unwrap_err().to_string().contains("another disk's"));
    for index in 0..=MAX_USB_DISKS {
        let name = name(&format!("usb{index}"));
        let disk = crate::machine::Disk::new(name, Disk, Usb, file()).unwrap();
        assert_eq!(machine.add_disk(disk).is_ok(), index < MAX_USB_DISKS);
    }
}

#[test]
fn a_kernel_is_passed_open_and_its_words_are_one() {
    let open = || std::fs::File::open("/proc/self/exe").unwrap();
    let words = "root=/dev/vda,x -S \"a\" format=raw";
    let kernel = Kernel::new(open(), Some(open()), words).unwrap();
    let machine = machine(Accelerator::Tcg, one_cpu()).with_kernel(kernel);
    let (line, _channels) = CommandLine::new(machine).unwrap();
    let args: Vec<_> = line.args.iter().map(|arg| arg.to_str().unwrap()).collect();
    let after = |flag: &str| args[args.iter().position(|arg| *arg == flag).unwrap() + 1];
    assert_eq!(after("-append"), words);
    assert_eq!(after("-kernel"), "/proc/self/fd/3");
    assert_eq!(after("-initrd"), "/proc/self/fd/4");
    assert!(Kernel::new(open(), None, "a\nb").is_err());
    let directory = std::fs::File::open("/").unwrap();
    assert!(Kernel::new(directory, None, "").is_err());
}

#[test]
fn interfaces_of_every_kind() {
    let mut machine = machine(Accelerator::Kvm, one_cpu());
    for (n, model) in [
        NicModel::Virtio,
        NicModel::E1000e,
        NicModel::E1000,
        NicModel::Rtl8139,
    ]
    .into_iter()
    .enumerate()
    {
        let mac = MacAddress::new([2, 0, 0, 0, 0, n as u8]).unwrap();
        let nic = Nic::new(name(&format!("n{n}")), vec![tap()], mac, model).unwrap();
        let nic = if n == 0 {
            nic.with_boot_index(index(1))
        } else {
            nic
        };
        machine.add_nic(nic).unwrap();
    }
    let mac = MacAddress::new([2, 0, 0, 0, 0, 9]).unwrap();
    let nic = Nic::new(name("fast"), vec![tap(), tap()], mac, NicModel::Virtio).unwrap();
    machine
        .add_nic(nic.with_vhost(vec![tap(), tap()]).unwrap())
        .unwrap();
    insta::assert_snapshot!(rendered(machine));
}

#[test]
fn uefi_with_secure_boot() {
    let word = |word| CpuWord::new(word).unwrap();
    let features = vec![(word("vmx"), false), (word("avx2"), true)];
    let model = CpuModel::Named(word("Skylake-Client-v4"));
    let cpu = Cpu::new(1, 2, 2, model).unwrap().with_features(features);
    let uefi = Uefi::new("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", writable()).unwrap();
    let machine = machine(Accelerator::Kvm, cpu)
        .with_firmware(Firmware::Uefi(uefi.with_secure_boot()))
        .with_serial(FirmwareText::new("serial", "S3R1AL").unwrap());
    insta::assert_snapshot!(rendered(machine));
}

#[test]
fn descriptors_are_numbered_without_gaps() {
    let mut machine = machine(Accelerator::Tcg, one_cpu());
    let disk = Disk::new(name("root"), DiskDevice::Disk, DiskBus::Virtio, overlay()).unwrap();
    machine.add_disk(disk).unwrap();
    let (line, _channels) = CommandLine::new(machine).unwrap();
    let args: Vec<_> = line.args.iter().map(|arg| arg.to_str().unwrap()).collect();
    let mut numbers: Vec<usize> = args
        .iter()
        .flat_map(|arg| arg.split(','))
        .filter_map(|part| part.strip_prefix("fd=")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    // Monitor, console, agent; the base; the overlay twice.
    assert_eq!(
        numbers,
        (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + 6).collect::<Vec<_>>()
    );
    assert_eq!(line.descriptors.len(), 6);
}

#[test]
fn what_concerns_several_parts_is_checked() {
    let mut machine = machine(Accelerator::Tcg, one_cpu());
    let disk =
        |disk: &str| Disk::new(name(disk), DiskDevice::Disk, DiskBus::Virtio, file()).unwrap();
    let nic = |nic: &str, last| {
        let mac = MacAddress::new([2, 0, 0, 0, 0, last]).unwrap();
        Nic::new(name(nic), vec![tap()], mac, NicModel::Virtio).unwrap()
    };
    machine
        .add_disk(disk("a").with_boot_index(index(1)))
        .unwrap();
    machine
        .add_nic(nic("a", 1).with_boot_index(index(2)))
        .unwrap();
    for (error, expected) in [
        (
            machine.add_disk(disk("a")),
            "disk a: the machine has one of that name already",
        ),
        (
            machine.add_nic(nic("a", 2)),
            "interface a: the machine has one of that name already",
        ),
        (
            machine.add_nic(nic("b", 1)),
            "interface b: its MAC address 02:00:00:00:00:01 is another interface's already",
        ),
        (
            machine.add_nic(nic("b", 2).with_boot_index(index(1))),
            "b: boot order 1 is a's already; each place is taken once",
        ),
        (
            machine.add_disk(disk("b").with_boot_index(index(2))),
            "b: boot order 2 is a's already; each place is taken once",
        ),
    ] {
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
    for n in 2..=16 {
        machine.add_nic(nic(&format!("n{n}"), n)).unwrap();
    }
    let error = machine.add_nic(nic("more", 17)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "interface more: a machine has at most 16 interfaces"
    );
}

#[test]
fn impossible_disks_are_refused() {
    use {DiskBus::*, DiskDevice::*};
    let read_only_file = || DiskImage::File {
        file: read_only(),
        format: Format::Raw,
    };
    let base_writable = DiskImage::Overlay {
        base: writable(),
        base_format: Format::Raw,
        overlay: writable(),
    };
    let overlay_read_only = DiskImage::Overlay {
        base: read_only(),
        base_format: Format::Raw,
        overlay: read_only(),
    };
    for (device, bus, image) in [
        (Cdrom, Virtio, file()),
        (Lun, Scsi, file()),
        (Lun, Virtio, file()),
        (Disk, Sata, read_only_file()),
        (Disk, Virtio, base_writable),
        (Disk, Virtio, overlay_read_only),
        (Disk, Virtio, DiskImage::BlockDevice(writable())),
    ] {
        let error = crate::machine::Disk::new(name("d"), device, bus, image).unwrap_err();
        assert!(matches!(error, MachineError::Disk { .. }), "{error}");
    }
    let disk = || crate::machine::Disk::new(name("d"), Disk, Virtio, file()).unwrap();
    assert!(disk().with_serial("x".repeat(20)).is_ok());
    for serial in ["", "a b", "a,b", &"x".repeat(21)] {
        assert!(disk().with_serial(serial).is_err(), "{serial}");
    }
    assert!(disk().with_cache(Cache::WriteBack, Io::Native).is_err());
    let overlay = crate::machine::Disk::new(name("d"), Disk, Virtio, overlay()).unwrap();
    assert!(overlay.with_shareable().is_err());
    let sata = crate::machine::Disk::new(name("d"), Disk, Sata, file()).unwrap();
    assert!(sata.with_read_only().is_err());
}

#[test]
fn firmware_is_named_by_a_plain_path_and_has_variables_of_its_own() {
    for path in ["relative", "/a/../b", "/a/./../b", ""] {
        assert!(Uefi::new(path, writable()).is_err(), "{path}");
    }
    assert!(Uefi::new("/code.fd", read_only()).is_err());
    assert!(Uefi::new("/code,with=comma.fd", writable()).is_ok());
}

#[test]
fn a_watchdog() {
    let machine = machine(Accelerator::Kvm, one_cpu()).with_watchdog(WatchdogAction::Poweroff);
    let rendered = rendered(machine);
    let lines: Vec<_> = rendered
        .lines()
        .filter(|line| line.contains("watchdog"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// `/dev/null` stands in for the kernel's device, which the arguments only pass on.
#[test]
fn a_vsock() {
    let vsock = Vsock::new(4_000_000_000, tap());
    let rendered = rendered(machine(Accelerator::Kvm, one_cpu()).with_vsock(vsock));
    let lines = rendered.lines();
    let lines: Vec<_> = lines
        .filter(|line| line.contains("vsock") || line.contains("descriptors"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn memory_in_huge_pages() {
    let cpu = Cpu::new(2, 1, 1, CpuModel::Host).unwrap();
    let machine = machine(Accelerator::Kvm, cpu);
    let error = machine.with_hugepages(HugePage::OneGi).unwrap_err();
    assert!(error.to_string().contains("512 MiB is no multiple"));
    let cpu = Cpu::new(2, 1, 1, CpuModel::Host).unwrap();
    let machine = self::machine(Accelerator::Kvm, cpu).with_max_memory(8 << 30);
    let machine = machine.with_hugepages(HugePage::TwoMi).unwrap();
    assert_eq!(machine.max_memory_bytes(), 512 << 20);
    let machine = machine.with_max_memory(8 << 30);
    let rendered = rendered(machine);
    let lines = rendered.lines();
    let lines: Vec<_> = lines
        .filter(|line| ["-m", "ram", "balloon"].iter().any(|it| line.contains(it)))
        .filter(|line| !line.starts_with("-machine") && !line.starts_with("-msg"))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn devices_of_the_node() {
    let mut machine = machine(Accelerator::Kvm, one_cpu());
    let device = |name: &str, address: &str| {
        let name = crate::machine::Name::new("device", name).unwrap();
        HostDevice::new(name, address.parse().unwrap())
    };
    machine
        .add_host_device(device("gpu", "0000:3b:00.0"))
        .unwrap();
    machine
        .add_host_device(device("nic", "0000:5e:02.1"))
        .unwrap();
    assert!(
        machine
            .add_host_device(device("gpu", "0000:3b:00.1"))
            .is_err()
    );
    assert!(
        machine
            .add_host_device(device("other", "0000:3b:00.0"))
            .is_err()
    );
    let rendered = rendered(machine);
    let lines = rendered.lines().filter(|line| line.contains("host-"));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}
