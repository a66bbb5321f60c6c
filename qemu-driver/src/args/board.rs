//! The board: machine type, accelerator, processors, memory, clock, firmware, and QEMU's own
//! behaviour.

use serde_json::json;

use super::{Builder, helpers};
use crate::machine::{
    Accelerator, Clock, ClockBase, Cpu, CpuModel, DiskBus, Features, Firmware, Kernel, Machine,
};

/// What QEMU may no longer do once it has its descriptors: no new programs, no other user, no
/// change of priorities, no system calls that only old programs make.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// MiB that TCG keeps of translated code. QEMU's own choice (up to 1 GiB) would make its memory
/// grow with the age of the machine; a Linux guest boots as fast with this.
const TCG_CACHE_MIB: u32 = 64;

/// Threads at most that clear huge pages before the guest starts: more than memory can keep up with.
const PREALLOC_THREADS: u32 = 16;

pub(super) fn describe(build: &mut Builder, machine: &Machine) {
    behaviour(build, machine);
    board(build, machine);
    accelerator(build, machine);
    let (uuid, memory) = (machine.uuid, machine.memory);
    build.option("-smp", topology(&machine.cpu));
    let mut size = format!("size={}M", memory.mib());
    if machine.memory_room > 0 {
        size += &format!(",maxmem={}M", machine.max_memory_bytes() >> 20);
    }
    build.option("-m", size);
    let mut ram = helpers::memory("ram", memory.bytes(), machine.shares_memory());
    if let Some(page) = machine.hugepages {
        ram["qom-type"] = "memory-backend-memfd".into();
        ram["hugetlb"] = true.into();
        ram["hugetlbsize"] = page.bytes().into();
        // A page that is not there when the guest needs it would end QEMU.
        ram["prealloc"] = true.into();
        ram["prealloc-threads"] = machine.cpu.vcpus().min(PREALLOC_THREADS).into();
    }
    build.json("-object", &ram);
    build.option("-uuid", uuid.to_string());
    identity(build, machine);
    clock(build, &machine.clock, machine.accelerator);
    build.option("-boot", "strict=on");
}

/// What the firmware's tables tell.
fn identity(build: &mut Builder, machine: &Machine) {
    if let Some(serial) = &machine.serial {
        build.option("-smbios", format!("type=1,serial={}", serial.escaped()));
    }
    let chassis = &machine.chassis;
    let told = [
        ("manufacturer", &chassis.manufacturer),
        ("version", &chassis.version),
        ("serial", &chassis.serial),
        ("asset", &chassis.asset),
        ("sku", &chassis.sku),
    ];
    let told = told
        .into_iter()
        .filter_map(|(key, text)| Some(format!(",{key}={}", text.as_ref()?.escaped())));
    let told: String = told.collect();
    if !told.is_empty() {
        build.option("-smbios", format!("type=3{told}"));
    }
}

fn clock(build: &mut Builder, clock: &Clock, accelerator: Accelerator) {
    let mut rtc = match clock.base {
        ClockBase::Utc => "base=utc".to_owned(),
        // As QEMU reads it: without a fraction of a second.
        ClockBase::At(time) => format!("base={}", time.strftime("%Y-%m-%dT%H:%M:%S")),
    };
    if clock.follows_guest {
        rtc.push_str(",clock=vm");
    }
    rtc.push_str(if clock.catches_up {
        ",driftfix=slew"
    } else {
        ",driftfix=none"
    });
    build.option("-rtc", rtc);
    if clock.pit_forgets && accelerator == Accelerator::Kvm {
        build.option("-global", "kvm-pit.lost_tick_policy=discard");
    }
}

fn behaviour(build: &mut Builder, machine: &Machine) {
    build.option("-name", format!("guest={},debug-threads=on", machine.name));
    build.flag("-nodefaults");
    build.flag("-no-user-config");
    build.flag("-S");
    build.option("-display", "none");
    build.option("-sandbox", SANDBOX);
    build.option("-msg", "timestamp=on");
    let mut action = "reboot=reset,shutdown=poweroff,panic=exit-failure".to_owned();
    if let Some(watchdog) = machine.watchdog {
        action += &format!(",watchdog={}", watchdog.as_str());
    }
    build.option("-action", action);
}

fn board(build: &mut Builder, machine: &Machine) {
    let sata = machine.disks.iter().any(|disk| disk.bus() == DiskBus::Sata);
    let uefi = match &machine.firmware {
        Firmware::Bios => None,
        Firmware::Uefi(uefi) => Some(uefi),
    };
    // Memory that the kernel merges tells a guest what others have (KSM).
    // System Management Mode costs a second address space and is there only to guard variables.
    let secure_boot = uefi.is_some_and(|uefi| uefi.secure_boot());
    let smm = secure_boot || machine.features.smm;
    let mut board = format!(
        "{},memory-backend=ram,usb=off,vmport=off,dump-guest-core=off,mem-merge=off,smm={},sata={}",
        machine.machine_type.as_str(),
        on_off(smm),
        on_off(sata),
    );
    let absent = [
        (machine.features.acpi, ",acpi=off"),
        (machine.clock.hpet, ",hpet=off"),
        (machine.clock.pit, ",pit=off"),
        // What SeaBIOS takes for a board that nobody looks at; the display is not affected.
        (!machine.firmware_on_serial, ",graphics=off"),
    ];
    for (_, option) in absent.iter().filter(|(there, _)| !there) {
        board.push_str(option);
    }
    if uefi.is_some() {
        board.push_str(",pflash0=uefi-code,pflash1=uefi-vars");
    }
    build.option("-machine", board);
    // A sleeping guest would be a machine that nothing in a cluster knows how to wake.
    build.option("-global", "ICH9-LPC.disable_s3=1");
    build.option("-global", "ICH9-LPC.disable_s4=1");
    if secure_boot {
        build.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
}

fn accelerator(build: &mut Builder, machine: &Machine) {
    let host = match machine.accelerator {
        Accelerator::Kvm => {
            build.option("-accel", "kvm");
            "host"
        }
        Accelerator::Tcg => {
            build.option(
                "-accel",
                format!("tcg,thread=multi,tb-size={TCG_CACHE_MIB}"),
            );
            "max"
        }
    };
    let mut cpu = match machine.cpu.model() {
        CpuModel::Host => host.to_owned(),
        CpuModel::Named(model) => model.as_str().to_owned(),
    };
    for (feature, on) in machine.cpu.features() {
        cpu += &format!(",{}={}", feature.as_str(), on_off(*on));
    }
    if machine.accelerator == Accelerator::Kvm {
        cpu += &paravirtual(&machine.features);
    }
    build.option("-cpu", cpu);
}

/// What KVM tells the guest of itself, and of Hyper-V.
fn paravirtual(features: &Features) -> String {
    let mut cpu = String::new();
    if features.kvm_hidden {
        cpu.push_str(",kvm=off");
    }
    for (feature, on) in [
        ("kvmclock", features.kvm_clock),
        ("kvm-pv-unhalt", features.kvm_spinlocks),
        ("kvm-pv-eoi", features.kvm_end_of_interrupt),
    ] {
        if let Some(on) = on {
            cpu += &format!(",{feature}={}", on_off(on));
        }
    }
    let hyperv = &features.hyperv;
    if hyperv.all {
        cpu.push_str(",hv-passthrough=on");
    }
    for enlightenment in &hyperv.enlightenments {
        cpu += &format!(",{}=on", enlightenment.as_str());
    }
    if let Some(attempts) = hyperv.spinlocks {
        cpu += &format!(",hv-spinlocks={attempts}");
    }
    if let Some(vendor) = &hyperv.vendor {
        cpu += &format!(",hv-vendor-id={}", vendor.as_str());
    }
    cpu
}

fn topology(cpu: &Cpu) -> String {
    format!(
        "cpus={},maxcpus={},sockets={},cores={},threads={}",
        cpu.vcpus(),
        cpu.max_vcpus(),
        cpu.max_sockets(),
        cpu.cores(),
        cpu.threads()
    )
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The flash chips that UEFI runs from. SeaBIOS needs nothing.
pub(super) fn firmware(build: &mut Builder, firmware: Firmware) {
    let Firmware::Uefi(uefi) = firmware else {
        return;
    };
    let (code, vars) = uefi.into_parts();
    let code = json!({
        "driver": "raw", "node-name": "uefi-code", "read-only": true,
        "file": {"driver": "file", "filename": code, "read-only": true},
    });
    build.json("-blockdev", &code);
    let path = build.pass_file(vars);
    let vars = json!({
        "driver": "raw", "node-name": "uefi-vars", "read-only": false,
        "file": {"driver": "file", "filename": path},
    });
    build.json("-blockdev", &vars);
}

/// The kernel that the firmware starts. QEMU reads it by names alone, and takes no set of descriptors
/// (`/dev/fdset`) for one: it opens anew what it has.
pub(super) fn kernel(build: &mut Builder, kernel: Kernel) {
    let (kernel, initrd, arguments) = kernel.into_parts();
    for (flag, file) in [("-kernel", Some(kernel)), ("-initrd", initrd)] {
        if let Some(file) = file {
            let number = build.descriptors.pass(file);
            build.option(flag, format!("/proc/self/fd/{number}"));
        }
    }
    if !arguments.is_empty() {
        build.option("-append", arguments);
    }
}
