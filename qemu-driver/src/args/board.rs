//! The board: machine type, accelerator, processors, memory, clock, firmware, and QEMU's own
//! behaviour.

use serde_json::json;

use super::{Builder, helpers};
use crate::machine::{Accelerator, Cpu, CpuModel, DiskBus, Firmware, Machine};

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
    if let Some(serial) = &machine.serial {
        build.option("-smbios", format!("type=1,serial={serial}"));
    }
    build.option("-rtc", "base=utc,driftfix=slew");
    build.option("-boot", "strict=on");
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
    let smm = uefi.is_some_and(|uefi| uefi.secure_boot());
    let mut board = format!(
        "{},memory-backend=ram,usb=off,vmport=off,dump-guest-core=off,mem-merge=off,smm={},sata={}",
        machine.machine_type.as_str(),
        on_off(smm),
        on_off(sata),
    );
    if uefi.is_some() {
        board.push_str(",pflash0=uefi-code,pflash1=uefi-vars");
    }
    build.option("-machine", board);
    // A sleeping guest would be a machine that nothing in a cluster knows how to wake.
    build.option("-global", "ICH9-LPC.disable_s3=1");
    build.option("-global", "ICH9-LPC.disable_s4=1");
    if smm {
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
    let cpu = match machine.cpu.model() {
        CpuModel::Host => host.to_owned(),
        CpuModel::Named { model, features } => features
            .iter()
            .fold(model.as_str().to_owned(), |cpu, (feature, on)| {
                format!("{cpu},{}={}", feature.as_str(), on_off(*on))
            }),
    };
    build.option("-cpu", cpu);
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
