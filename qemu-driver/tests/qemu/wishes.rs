//! What a machine's owner may wish of its board and its small devices: QEMU takes it, and it is so.

use jiff::civil::date;
use qemu_driver::Machine;
use qemu_driver::machine::{
    Accelerator, Chassis, Clock, ClockBase, Cpu, CpuModel, CpuWord, Display, Enlightenment,
    Features, FirmwareText, Hyperv, Input, InputBus, MachineType, Memory, Sound, Uuid, Vendor,
};

use super::boot_sector::BootSector;
use super::guest::{Guest, machine_with, name};

fn text(text: &str) -> FirmwareText {
    FirmwareText::new("text", text).unwrap()
}

fn word(word: &str) -> CpuWord {
    CpuWord::new(word).unwrap()
}

/// A machine with everything that does not exclude each other, and that prints and halts.
fn furnished(display: Display, sound: Sound) -> Machine {
    let sector = BootSector::new().print("up.").halt();
    let mut machine = machine_with(sector)
        .with_serial(text("a, b"))
        .with_chassis(Chassis {
            manufacturer: Some(text("Foo, Inc. \"x\"")),
            version: Some(text("1=2")),
            serial: Some(text("S")),
            asset: Some(text("A")),
            sku: Some(text("K")),
        })
        .with_clock(Clock {
            base: ClockBase::At(date(2030, 1, 2).at(3, 4, 5, 678_000_000)),
            follows_guest: true,
            catches_up: false,
            hpet: false,
            pit: true,
            pit_forgets: true,
        })
        .with_features(Features {
            smm: true,
            kvm_hidden: true,
            hyperv: Hyperv {
                all: false,
                enlightenments: Enlightenment::ALL.iter().copied().collect(),
                spinlocks: Some(4096),
                vendor: Some(Vendor::new("KVM Hv").unwrap()),
            },
            ..Features::default()
        })
        .with_display(display)
        .with_sound(sound)
        .with_panic_on_pci()
        .without_balloon();
    for (index, bus) in [InputBus::Usb, InputBus::Virtio]
        .repeat(2)
        .into_iter()
        .enumerate()
    {
        let name = name(&format!("i{index}"));
        machine.add_input(Input { name, bus }).unwrap();
    }
    machine
}

#[tokio::test]
async fn a_furnished_machine_runs() {
    for (display, sound) in [
        (Display::Vga, Sound::Ich9),
        (Display::Virtio, Sound::Ac97),
        (Display::Bochs, Sound::Ich9),
        (Display::Cirrus, Sound::Ac97),
        (Display::Ramfb, Sound::Ich9),
    ] {
        let mut guest = Guest::booted(furnished(display, sound)).await;
        guest.await_text("up.").await;
        // Without a balloon it has what it started with.
        assert_eq!(guest.qmp.memory_bytes().await.unwrap(), 32 << 20);
        let memory = guest.qmp.guest_memory().await.unwrap();
        assert_eq!((memory.base, memory.plugged), (32 << 20, 0));
        guest.qmp.screenshot().await.unwrap();
        guest.qmp.quit().await.unwrap();
    }
}

#[tokio::test]
async fn a_machine_without_acpi_and_timer_runs() {
    let sector = BootSector::new().print("up.").halt();
    let machine = machine_with(sector)
        .with_features(Features {
            acpi: false,
            ..Features::default()
        })
        .with_clock(Clock {
            pit: false,
            ..Clock::default()
        });
    let mut guest = Guest::booted(machine).await;
    guest.await_text("up.").await;
    guest.qmp.quit().await.unwrap();
}

#[tokio::test]
async fn the_bios_speaks_on_the_console_if_it_shall() {
    let sector = BootSector::new().print("up.").halt();
    let machine = machine_with(sector)
        .with_display(Display::Vga)
        .with_firmware_on_serial();
    let mut guest = Guest::booted(machine).await;
    let said = guest.await_text("up.").await;
    assert!(said.contains("SeaBIOS"), "{said}");
    guest.qmp.quit().await.unwrap();
}

#[tokio::test]
async fn a_machine_without_a_console_prints_nowhere() {
    let sector = BootSector::new().print("up.").halt();
    let guest = Guest::booted(machine_with(sector).without_console()).await;
    let qmp = guest.qmp.clone();
    let ended = guest.end();
    let quit = async { qmp.quit().await.unwrap() };
    let ((console, _, _), ()) = tokio::join!(ended, quit);
    assert_eq!(console, b"");
}

#[tokio::test]
async fn what_the_processor_has_is_asked_of_qemu() {
    let cpu = Cpu::new(1, 1, 1, CpuModel::Named(word("Skylake-Client"))).unwrap();
    let features = vec![(word("avx512f"), true), (word("sse4_2"), false)];
    let machine = Machine::new(
        name("cpu"),
        Uuid::from_u128(1),
        MachineType::default(),
        Accelerator::Tcg,
        cpu.with_features(features),
        Memory::new(32 << 20).unwrap(),
    );
    let guest = Guest::new(machine).await;
    for (feature, has) in [("ssse3", true), ("avx512f", false), ("sse4_2", false)] {
        let found = guest.qmp.guest_has(&word(feature)).await.unwrap();
        assert_eq!(found, has, "{feature}");
    }
    assert!(guest.qmp.guest_has(&word("nonsense")).await.is_err());
    for (feature, has) in [("ssse3", true), ("avx512f", false)] {
        let found = guest.qmp.node_has(&word(feature), Accelerator::Tcg).await;
        assert_eq!(found.unwrap(), has, "{feature}");
    }
    let missing = guest.qmp.missing_features().await.unwrap();
    assert!(missing.iter().any(|it| it == "avx512f"), "{missing:?}");
}
