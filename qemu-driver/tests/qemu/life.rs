//! The life of a machine from its paused start to each of its ends.

use std::time::Duration;

use qemu_driver::machine::{Accelerator, Cpu, CpuModel, CpuWord, Display, MachineType};
use qemu_driver::qmp::{Event, QmpError, RunState};

use super::boot_sector::BootSector;
use super::guest::{Guest, LONG, machine, machine_of, machine_with, name};

fn shutdown(guest: bool, reason: &str) -> Event {
    Event::Shutdown {
        guest,
        reason: reason.into(),
    }
}

#[tokio::test]
async fn nothing_runs_before_cont() {
    let mut guest = Guest::new(machine_with(BootSector::new().print("!").power_off())).await;
    assert_eq!(guest.qmp.state().await.unwrap(), RunState::prelaunch);
    assert!(!guest.qmp.kvm().await.unwrap());
    assert!(
        guest
            .qmp
            .machine_type()
            .await
            .unwrap()
            .as_str()
            .starts_with("pc-q35-")
    );
    assert_eq!(guest.qmp.vcpu_threads().await.unwrap().len(), 1);
    let silent = tokio::time::timeout(Duration::from_millis(500), guest.await_text("!"));
    assert!(silent.await.is_err());
    guest.qmp.cont().await.unwrap();
    guest.await_text("!").await;
    guest.await_event(&Event::Resumed).await;
    guest.await_event(&shutdown(true, "guest-shutdown")).await;
    let (_, status, ending) = guest.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(ending.powered_off());
}

#[tokio::test]
async fn the_power_button_reaches_the_guest() {
    let sector = BootSector::new()
        .arm_power_button()
        .print("up\n")
        .await_power_button()
        .print("off")
        .power_off();
    let mut guest = Guest::booted(machine_with(sector)).await;
    guest.await_text("up\n").await;
    guest.qmp.system_powerdown().await.unwrap();
    guest.await_event(&Event::PowerButton).await;
    let (console, status, ending) = guest.end().await;
    assert_eq!((console.as_slice(), status.code()), (&b"off"[..], Some(0)));
    assert!(ending.powered_off());
}

#[tokio::test]
async fn a_reboot_is_no_end() {
    let sector = BootSector::new()
        .print("boot\n")
        .reboot_once()
        .print("again\n")
        .power_off();
    let mut guest = Guest::booted(machine_with(sector)).await;
    guest.await_text("boot\nboot\nagain\n").await;
    guest.await_event(&Event::Reset { guest: true }).await;
    let (_, status, ending) = guest.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(ending.powered_off());
}

#[tokio::test]
async fn a_panic_is_told_from_a_power_off() {
    let mut guest = Guest::booted(machine_with(BootSector::new().print("oops").panic())).await;
    guest.await_event(&Event::Panicked).await;
    let (console, status, ending) = guest.end().await;
    assert_eq!((console.as_slice(), status.code()), (&b"oops"[..], Some(1)));
    assert!(ending.panicked && !ending.powered_off(), "{ending:?}");
}

#[tokio::test]
async fn quit_ends_a_guest_that_does_nothing() {
    let mut guest = Guest::booted(machine_with(BootSector::new().print("up").halt())).await;
    guest.await_text("up").await;
    guest.qmp.quit().await.unwrap();
    let qmp = guest.qmp.clone();
    let (_, status, ending) = guest.end().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(ending.shutdown, Some((false, "host-qmp-quit".into())));
    assert!(!ending.powered_off());
    assert!(matches!(qmp.cont().await, Err(QmpError::Closed { .. })));
}

#[tokio::test]
async fn a_killed_qemu_ends_everything_without_a_word() {
    let mut guest = Guest::booted(machine_with(BootSector::new().print("up").halt())).await;
    guest.await_text("up").await;
    guest.child.start_kill().unwrap();
    let (_, status, ending) = guest.end().await;
    assert_eq!(status.code(), None);
    assert_eq!(ending, Default::default());
}

#[tokio::test]
async fn a_pause_stops_the_guest() {
    let mut guest = Guest::booted(machine_with(BootSector::new().echo().power_off())).await;
    guest.qmp.stop().await.unwrap();
    guest.await_event(&Event::Stopped).await;
    assert_eq!(guest.qmp.state().await.unwrap(), RunState::paused);
    guest.qmp.cont().await.unwrap();
    assert_eq!(guest.qmp.state().await.unwrap(), RunState::running);
}

#[tokio::test]
async fn memory_comes_in_all_sizes() {
    // Anonymous memory is not touched by QEMU itself: large guests cost little here.
    for mib in [4u64, 5, 16, 255, 2048, 3000, 8 << 10] {
        let guest = Guest::new(machine_of(mib << 20)).await;
        let command = qapi::qmp::query_memory_size_summary {};
        assert_eq!(
            guest.qmp.execute(&command).await.unwrap().base_memory,
            mib << 20
        );
    }
}

#[tokio::test]
async fn a_machine_can_have_every_topology() {
    let word = |word| CpuWord::new(word).unwrap();
    let model = CpuModel::Named(word("qemu64"));
    let features = vec![(word("sse4.2"), true), (word("svm"), false)];
    for (cpu, vcpus) in [
        (
            Cpu::new(2, 1, 1, CpuModel::Host)
                .unwrap()
                .with_max_sockets(4)
                .unwrap(),
            2,
        ),
        (Cpu::new(1, 3, 2, model).unwrap().with_features(features), 6),
    ] {
        let memory = qemu_driver::machine::Memory::new(32 << 20).unwrap();
        let machine = qemu_driver::Machine::new(
            name("cpus"),
            Default::default(),
            MachineType::new("pc-q35-7.2").unwrap(),
            Accelerator::Tcg,
            cpu,
            memory,
        );
        let guest = Guest::new(machine).await;
        assert_eq!(guest.qmp.vcpu_threads().await.unwrap().len(), vcpus);
        assert_eq!(
            guest.qmp.machine_type().await.unwrap().as_str(),
            "pc-q35-7.2"
        );
    }
}

#[tokio::test]
async fn what_qemu_refuses_it_says() {
    let cpu = CpuModel::Named(CpuWord::new("no-such-cpu").unwrap());
    let cpu = Cpu::new(1, 1, 1, cpu).unwrap();
    let memory = qemu_driver::machine::Memory::new(32 << 20).unwrap();
    let of = |machine_type: &str, cpu| {
        let machine_type = MachineType::new(machine_type).unwrap();
        let uuid = Default::default();
        qemu_driver::Machine::new(name("a"), uuid, machine_type, Accelerator::Tcg, cpu, memory)
    };
    let words = Guest::refused(of("q35", cpu)).await;
    assert!(words.contains("no-such-cpu"), "{words}");
    let cpu = Cpu::new(1, 1, 1, CpuModel::Host).unwrap();
    let words = Guest::refused(of("pc-q35-99.9", cpu)).await;
    assert!(words.contains("unsupported machine type"), "{words}");
}

#[tokio::test]
async fn the_monitor_reports_refusals_and_late_answers_do_no_harm() {
    let guest = Guest::new(machine()).await;
    let command = qapi::qmp::device_del {
        id: "no-such-device".into(),
    };
    let error = guest.qmp.execute(&command).await.unwrap_err();
    assert!(error.to_string().contains("no-such-device"), "{error}");
    // A call that is given up once it is sent: its answer comes all the same, and is nobody's.
    let qmp = guest.qmp.clone();
    let given_up = tokio::spawn(async move { qmp.state().await });
    tokio::task::yield_now().await;
    given_up.abort();
    assert_eq!(guest.qmp.state().await.unwrap(), RunState::prelaunch);
    assert!(!guest.qmp.has_display().await.unwrap());
    let states = (0..50).map(|_| {
        let qmp = guest.qmp.clone();
        tokio::spawn(async move { qmp.state().await.unwrap() })
    });
    for state in states.collect::<Vec<_>>() {
        tokio::time::timeout(LONG, state).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn pictures_are_read_a_few_at_a_time() {
    let guest = Guest::booted(machine().with_display(Display::Vga)).await;
    let mut first = guest.qmp.screenshot().await.unwrap();
    let second = guest.qmp.screenshot().await.unwrap();
    let error = guest.qmp.screenshot().await.unwrap_err().to_string();
    assert!(
        error.contains("2 pictures of the display are being read"),
        "{error}"
    );
    let mut begin = [0; 8];
    std::io::Read::read_exact(&mut first, &mut begin).unwrap();
    assert_eq!(&begin, b"\x89PNG\r\n\x1a\n");
    drop(second);
    guest.qmp.screenshot().await.unwrap();
    assert!(guest.qmp.has_display().await.unwrap());
}
