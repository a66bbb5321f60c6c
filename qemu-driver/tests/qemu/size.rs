//! vCPUs and memory that come and go while the machine runs, as far as QEMU decides on it: these
//! guests take and return nothing.

use qemu_driver::Machine;
use qemu_driver::machine::{Accelerator, Cpu, CpuModel, MachineType, Memory, Uuid};
use qemu_driver::qmp::{AvailableMemory, GuestMemory, QmpError, VcpuPlace};

use super::boot_sector::BootSector;
use super::guest::{Guest, machine, machine_with, name};

const MIB: u64 = 1 << 20;

fn machine_of(cpu: Cpu, machine_type: &str) -> Machine {
    Machine::new(
        name("size"),
        Uuid::from_u128(1),
        MachineType::new(machine_type).unwrap(),
        Accelerator::Tcg,
        cpu,
        Memory::new(32 * MIB).unwrap(),
    )
}

fn taken(places: &[VcpuPlace]) -> Vec<bool> {
    places.iter().map(VcpuPlace::is_taken).collect()
}

#[tokio::test]
async fn vcpus_are_plugged_in_where_there_is_a_place() {
    let cpu = Cpu::new(1, 2, 1, CpuModel::Host).unwrap();
    let cpu = cpu.with_max_sockets(2).unwrap();
    let guest = Guest::booted(machine_of(cpu, "pc-q35-7.2")).await;
    let places = guest.qmp.vcpu_places().await.unwrap();
    assert_eq!(taken(&places), [true, true, false, false]);
    guest.qmp.plug_vcpu(&places[2]).await.unwrap();
    assert_eq!(guest.qmp.vcpu_threads().await.unwrap().len(), 3);
    let twice = guest.qmp.plug_vcpu(&places[2]).await;
    assert!(matches!(twice, Err(QmpError::Refused { .. })), "{twice:?}");
    let places = guest.qmp.vcpu_places().await.unwrap();
    assert_eq!(taken(&places), [true, true, true, false]);
    // Asked, and twice: a guest that does not listen keeps them. Without ACPI it cannot, and QEMU
    // knows.
    for place in [&places[2], &places[1], &places[1]] {
        let asked = guest.qmp.unplug_vcpu(place).await;
        assert!(
            matches!(asked, Ok(()) | Err(QmpError::Refused { .. })),
            "{asked:?}"
        );
    }
    let refused = guest.qmp.unplug_vcpu(&places[0]).await;
    assert!(
        matches!(refused, Err(QmpError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(guest.qmp.vcpu_threads().await.unwrap().len(), 3);
}

#[tokio::test]
async fn memory_is_offered_up_to_its_room() {
    let machine = machine().with_max_memory(129 * MIB);
    assert_eq!(machine.max_memory_bytes(), 128 * MIB);
    let guest = Guest::new(machine).await;
    let memory = |requested| GuestMemory {
        base: 32 * MIB,
        plugged: 0,
        requested,
    };
    assert_eq!(guest.qmp.guest_memory().await.unwrap(), memory(0));
    guest.qmp.request_memory(96 * MIB).await.unwrap();
    assert_eq!(guest.qmp.guest_memory().await.unwrap(), memory(96 * MIB));
    for impossible in [MIB, 98 * MIB] {
        let refused = guest.qmp.request_memory(impossible).await;
        assert!(
            matches!(refused, Err(QmpError::Refused { .. })),
            "{refused:?}"
        );
    }
    guest.qmp.request_memory(0).await.unwrap();
    guest.qmp.poll_available_memory(1).await.unwrap();
    let available = guest.qmp.available_memory().await.unwrap();
    assert_eq!(available, AvailableMemory::default());
    guest.qmp.balloon(16 * MIB).await.unwrap();
    assert_eq!(guest.qmp.guest_memory().await.unwrap(), memory(0));
}

#[tokio::test]
async fn a_machine_without_room_says_so() {
    let guest = Guest::new(machine()).await;
    assert_eq!(guest.qmp.guest_memory().await.unwrap().held(), 32 * MIB);
    let refused = guest.qmp.request_memory(2 * MIB).await;
    assert!(
        matches!(refused, Err(QmpError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_machine_with_room_for_everything_boots() {
    let sector = BootSector::new().print("up").power_off();
    let mut guest = Guest::booted(machine_with(sector).with_max_memory(u64::MAX)).await;
    guest.await_text("up").await;
    let (_, status, _) = guest.end().await;
    assert_eq!(status.code(), Some(0));
}
