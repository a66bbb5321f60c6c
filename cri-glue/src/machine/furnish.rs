//! The spec's words for board, hypervisor and small devices, as those of a `Machine`.

use jiff::Timestamp;
use qemu_driver::machine::{
    Chassis, Clock, ClockBase, Display, Enlightenment, Features, FirmwareText, Hyperv, Input,
    InputBus, Machine, MachineError, Name, Sound, Vendor,
};
use vm_api::field::FieldError;
use vm_api::machine::{self, PanicModel, SoundModel, Video};
use vm_api::v1::VirtualMachineInstanceSpec;

use super::BuildError;

/// The machine with the board, the features and the devices that `spec` asks for.
pub(super) fn furnish(
    mut machine: Machine,
    spec: &VirtualMachineInstanceSpec,
) -> Result<Machine, BuildError> {
    machine = machine.with_features(features(spec)?);
    if let Some(serial) = machine::serial_number(spec)? {
        machine = machine.with_serial(FirmwareText::new("serial number", serial)?);
    }
    machine = machine.with_chassis(chassis(spec)?);
    let devices = &spec.domain.devices;
    if let Some(video) = machine::video(spec)? {
        machine = machine.with_display(display(video));
    }
    for input in machine::inputs(spec)? {
        machine.add_input(self::input(input)?)?;
    }
    if let Some(sound) = machine::sound(spec)? {
        machine = machine.with_sound(match sound {
            SoundModel::Ich9 => Sound::Ich9,
            SoundModel::Ac97 => Sound::Ac97,
        });
    }
    if machine::panic_devices(spec)?.contains(&PanicModel::Pvpanic) {
        machine = machine.with_panic_on_pci();
    }
    if devices.autoattach_serial_console == Some(false) {
        machine = machine.without_console();
    }
    if devices.autoattach_mem_balloon == Some(false) {
        machine = machine.without_balloon();
    }
    if speaks_on_serial(spec) {
        machine = machine.with_firmware_on_serial();
    }
    Ok(machine)
}

/// What the machine's clock shows now, and the timers that `spec` asks for.
pub fn clock(spec: &VirtualMachineInstanceSpec) -> Result<Clock, Vec<FieldError>> {
    let clock = machine::clock(spec)?;
    Ok(Clock {
        base: match clock.base.shown(Timestamp::now()) {
            None => ClockBase::Utc,
            Some(time) => ClockBase::At(time),
        },
        follows_guest: clock.follows_guest,
        catches_up: clock.catches_up,
        hpet: clock.hpet,
        pit: clock.pit,
        pit_forgets: clock.pit_forgets,
    })
}

fn speaks_on_serial(spec: &VirtualMachineInstanceSpec) -> bool {
    let firmware = spec.domain.firmware.as_ref();
    let bootloader = firmware.and_then(|firmware| firmware.bootloader.as_ref());
    let bios = bootloader.and_then(|bootloader| bootloader.bios.as_ref());
    bios.and_then(|bios| bios.use_serial) == Some(true)
}

fn features(spec: &VirtualMachineInstanceSpec) -> Result<Features, BuildError> {
    let wished = machine::features(spec)?;
    let clock = machine::clock(spec)?;
    let mut beside = Vec::new();
    if clock.hyperv {
        beside.push(machine::Enlightenment::Time);
    }
    if machine::panic_devices(spec)?.contains(&PanicModel::Hyperv) {
        beside.push(machine::Enlightenment::Crash);
    }
    let named = wished.hyperv.enlightenments.into_iter().chain(beside);
    let vendor = wished.hyperv.vendor.map(Vendor::new).transpose()?;
    Ok(Features {
        acpi: wished.acpi,
        smm: wished.smm,
        kvm_hidden: wished.kvm_hidden,
        kvm_clock: clock.kvm,
        kvm_spinlocks: wished.kvm_spinlocks,
        kvm_end_of_interrupt: wished.kvm_end_of_interrupt,
        hyperv: Hyperv {
            all: wished.hyperv.all,
            enlightenments: named.map(enlightenment).collect(),
            spinlocks: wished.hyperv.spinlocks,
            vendor,
        },
    })
}

fn enlightenment(wished: machine::Enlightenment) -> Enlightenment {
    use machine::Enlightenment as Wished;
    match wished {
        Wished::Relaxed => Enlightenment::Relaxed,
        Wished::Vapic => Enlightenment::Vapic,
        Wished::Vpindex => Enlightenment::Vpindex,
        Wished::Runtime => Enlightenment::Runtime,
        Wished::Time => Enlightenment::Time,
        Wished::Synic => Enlightenment::Synic,
        Wished::Synictimer => Enlightenment::Stimer,
        Wished::SynictimerDirect => Enlightenment::StimerDirect,
        Wished::Reset => Enlightenment::Reset,
        Wished::Frequencies => Enlightenment::Frequencies,
        Wished::Reenlightenment => Enlightenment::Reenlightenment,
        Wished::Tlbflush => Enlightenment::Tlbflush,
        Wished::TlbflushDirect => Enlightenment::TlbflushDirect,
        Wished::TlbflushExtended => Enlightenment::TlbflushExtended,
        Wished::Ipi => Enlightenment::Ipi,
        Wished::Evmcs => Enlightenment::Evmcs,
        Wished::Crash => Enlightenment::Crash,
    }
}

fn chassis(spec: &VirtualMachineInstanceSpec) -> Result<Chassis, BuildError> {
    let wished = machine::chassis(spec)?;
    let text = |text: Option<&str>| {
        text.map(|text| FirmwareText::new("text of the chassis", text))
            .transpose()
    };
    Ok(Chassis {
        manufacturer: text(wished.manufacturer)?,
        version: text(wished.version)?,
        serial: text(wished.serial)?,
        asset: text(wished.asset)?,
        sku: text(wished.sku)?,
    })
}

fn display(video: Video) -> Display {
    match video {
        Video::Vga => Display::Vga,
        Video::Virtio => Display::Virtio,
        Video::Bochs => Display::Bochs,
        Video::Cirrus => Display::Cirrus,
        Video::Ramfb => Display::Ramfb,
    }
}

fn input(wished: machine::MachineInput<'_>) -> Result<Input, MachineError> {
    Ok(Input {
        name: Name::new("input", wished.name)?,
        bus: match wished.bus {
            machine::InputBus::Usb => InputBus::Usb,
            machine::InputBus::Virtio => InputBus::Virtio,
        },
    })
}

#[cfg(test)]
mod tests {
    use qemu_driver::CommandLine;
    use qemu_driver::machine::{Accelerator, Cpu, CpuModel, MachineType, Memory, Uuid};
    use serde_json::{Value, json};

    use super::*;

    /// The arguments of a machine on KVM with that domain.
    fn arguments(domain: Value) -> String {
        let spec = json!({ "domain": domain });
        let spec = serde_json::from_value(spec).unwrap();
        let machine = Machine::new(
            Name::new("machine", "a").unwrap(),
            Uuid::from_u128(1),
            MachineType::default(),
            Accelerator::Kvm,
            Cpu::new(1, 1, 1, CpuModel::Host).unwrap(),
            Memory::new(64 << 20).unwrap(),
        );
        let machine = furnish(machine, &spec).unwrap();
        let machine = machine.with_clock(clock(&spec).unwrap());
        let (line, _channels) = CommandLine::new(machine).unwrap();
        let words: Vec<_> = line.args.iter().map(|arg| arg.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn each_wish_becomes_what_qemu_calls_it() {
        let all = arguments(json!({
            "clock": { "utc": { "offsetSeconds": 3600 }, "timer": {
                "hpet": { "present": false }, "pit": { "tickPolicy": "discard" },
                "rtc": { "tickPolicy": "delay", "track": "guest" },
                "kvm": { "present": false }, "hyperv": {},
            } },
            "features": {
                "acpi": { "enabled": false }, "smm": {}, "kvm": { "hidden": true },
                "pvspinlock": {}, "apic": { "endOfInterrupt": false },
                "hyperv": {
                    "relaxed": {}, "spinlocks": {}, "synictimer": { "direct": {} },
                    "vendorid": { "vendorid": "KVM Hv" },
                },
            },
            "firmware": { "serial": "a, b", "bootloader": { "bios": { "useSerial": true } } },
            "chassis": { "manufacturer": "Foo, Inc." },
            "devices": {
                "autoattachInputDevice": true, "sound": { "name": "s" },
                "video": { "type": "bochs" },
                "autoattachSerialConsole": false, "autoattachMemBalloon": false,
                "panicDevices": [{ "model": "hyperv" }, { "model": "pvpanic" }],
            },
        }));
        for expected in [
            ",clock=vm,driftfix=none",
            "-rtc base=2",
            "kvm-pit.lost_tick_policy=discard",
            "smm=on,sata=off,acpi=off,hpet=off,graphics=off",
            "host,kvm=off,kvmclock=off,kvm-pv-unhalt=on,kvm-pv-eoi=off,hv-relaxed=on,hv-vpindex=on,\
             hv-time=on,hv-synic=on,hv-stimer=on,hv-stimer-direct=on,hv-crash=on,hv-spinlocks=4096,\
             hv-vendor-id=KVM Hv",
            "type=1,serial=a,, b",
            "type=3,manufacturer=Foo,, Inc.",
            "usb-tablet",
            "bochs-display",
            "hda-duplex",
            "pvpanic-pci",
        ] {
            assert!(all.contains(expected), "{expected}: {all}");
        }
        for absent in ["isa-serial", "virtio-balloon", "\"VGA\""] {
            assert!(!all.contains(absent), "{absent}: {all}");
        }
    }

    #[test]
    fn nothing_can_be_plugged_in_whether_that_is_disabled_or_not() {
        let of = |devices: Value| arguments(json!({ "devices": devices }));
        let usual = of(json!({}));
        assert!(!usual.contains("pcie-root-port"), "{usual}");
        for disabled in [true, false] {
            assert_eq!(of(json!({ "disableHotplug": disabled })), usual);
        }
    }

    #[test]
    fn each_enlightenment_is_switched_on_and_off() {
        let features = |hyperv: Value| arguments(json!({ "features": { "hyperv": hyperv } }));
        for (field, expected) in [
            ("relaxed", "hv-relaxed"),
            ("vapic", "hv-vapic"),
            ("spinlocks", "hv-spinlocks"),
            ("vpindex", "hv-vpindex"),
            ("runtime", "hv-runtime"),
            ("synic", "hv-synic"),
            ("synictimer", "hv-stimer"),
            ("reset", "hv-reset"),
            ("frequencies", "hv-frequencies"),
            ("reenlightenment", "hv-reenlightenment"),
            ("tlbflush", "hv-tlbflush"),
            ("ipi", "hv-ipi"),
            ("evmcs", "hv-evmcs"),
        ] {
            for enabled in [true, false] {
                let said = features(json!({ field: { "enabled": enabled } }));
                assert_eq!(said.contains(expected), enabled, "{field}: {said}");
            }
        }
        for (field, below, expected) in [
            ("synictimer", "direct", "hv-stimer-direct=on"),
            ("tlbflush", "direct", "hv-tlbflush-direct=on"),
            ("tlbflush", "extended", "hv-tlbflush-ext=on"),
        ] {
            for enabled in [true, false] {
                let wish = json!({ "enabled": true, below: { "enabled": enabled } });
                let said = features(json!({ field: wish }));
                assert_eq!(said.contains(expected), enabled, "{field}.{below}: {said}");
            }
        }
        for enabled in [true, false] {
            let vendor = json!({ "enabled": enabled, "vendorid": "KVM Hv" });
            let said = features(json!({ "vendorid": vendor }));
            assert_eq!(said.contains("hv-vendor-id=KVM Hv"), enabled, "{said}");
            let all = json!({ "hypervPassthrough": { "enabled": enabled } });
            let said = arguments(json!({ "features": all }));
            assert_eq!(said.contains("hv-passthrough=on"), enabled, "{said}");
        }
    }

    #[test]
    fn a_chassis_is_told_whole() {
        let said = arguments(json!({ "chassis": {
            "manufacturer": "m", "version": "v", "serial": "s", "asset": "a", "sku": "k",
        } }));
        let expected = "type=3,manufacturer=m,version=v,serial=s,asset=a,sku=k";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn devices_are_left_out_where_that_is_asked_for() {
        let plain = arguments(json!({}));
        for (field, word) in [
            ("autoattachGraphicsDevice", "\"VGA\""),
            ("autoattachMemBalloon", "virtio-balloon"),
            ("autoattachSerialConsole", "isa-serial"),
        ] {
            assert!(plain.contains(word), "{field}: {plain}");
            let without = arguments(json!({ "devices": { field: false } }));
            assert!(!without.contains(word), "{field}: {without}");
        }
        // The guest has randomness in any case.
        for devices in [json!({}), json!({ "rng": {} })] {
            let said = arguments(json!({ "devices": devices }));
            assert!(said.contains("virtio-rng"), "{said}");
        }
    }

    #[test]
    fn the_firmware_and_the_features_of_the_board_are_those_asked_for() {
        for (features, word, there) in [
            (json!({ "acpi": { "enabled": false } }), "acpi=off", true),
            (json!({ "acpi": { "enabled": true } }), "acpi=off", false),
            (json!({ "smm": { "enabled": true } }), "smm=on", true),
            (json!({ "smm": { "enabled": false } }), "smm=on", false),
            (json!({ "kvm": { "hidden": true } }), ",kvm=off", true),
            (json!({ "kvm": { "hidden": false } }), ",kvm=off", false),
            (
                json!({ "pvspinlock": { "enabled": true } }),
                "kvm-pv-unhalt=on",
                true,
            ),
            (
                json!({ "pvspinlock": { "enabled": false } }),
                "kvm-pv-unhalt=off",
                true,
            ),
            (
                json!({ "apic": { "enabled": true, "endOfInterrupt": true } }),
                "kvm-pv-eoi=on",
                true,
            ),
            (json!({ "apic": { "enabled": true } }), "kvm-pv-eoi", false),
        ] {
            let said = arguments(json!({ "features": features }));
            assert_eq!(said.contains(word), there, "{features}: {said}");
        }
        for (clock, word, there) in [
            (
                json!({ "timer": { "hpet": { "present": false } } }),
                "hpet=off",
                true,
            ),
            (
                json!({ "timer": { "hpet": { "present": true, "tickPolicy": "delay" } } }),
                "hpet=off",
                false,
            ),
            (
                json!({ "timer": { "pit": { "present": false } } }),
                "pit=off",
                true,
            ),
            (
                json!({ "timer": { "pit": { "tickPolicy": "discard" } } }),
                "lost_tick_policy=discard",
                true,
            ),
            (
                json!({ "timer": { "rtc": { "present": true, "track": "guest" } } }),
                "clock=vm",
                true,
            ),
            (
                json!({ "timer": { "rtc": { "tickPolicy": "delay" } } }),
                "driftfix=none",
                true,
            ),
            (
                json!({ "timer": { "kvm": { "present": false } } }),
                "kvmclock=off",
                true,
            ),
            (
                json!({ "timer": { "hyperv": { "present": true } } }),
                "hv-time=on",
                true,
            ),
            (
                json!({ "timer": { "hyperv": { "present": false } } }),
                "hv-time",
                false,
            ),
            (json!({ "utc": {} }), "-rtc base=utc", true),
            (
                json!({ "timezone": "Asia/Kathmandu" }),
                "-rtc base=utc",
                false,
            ),
        ] {
            let said = arguments(json!({ "clock": clock }));
            assert_eq!(said.contains(word), there, "{clock}: {said}");
        }
    }
}
