//! The devices that every machine has unless it is told otherwise.

use serde_json::{Value, json};

use super::{Builder, helpers};
use crate::channels::QemuEnds;
use crate::machine::{MEMORY_BLOCK, Vsock};
use crate::pci::{self, Place};

/// Ports of the virtio-serial controller: one for the agent, three for each command that runs in
/// the guest at the same time. The guest spends some 8 KiB on each, used or not.
pub(crate) const SERIAL_PORTS: u32 = 64;

/// The port's name by which every guest agent finds it.
const AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// QEMU's id of the device through which memory grows.
pub(crate) const MEMORY_DEVICE: &str = "memory";

/// Monitor, agent, and the console if there is one: its socket ends at once where there is none.
pub(super) fn channels(build: &mut Builder, ends: QemuEnds, has_console: bool) {
    let qmp = build.descriptors.pass(ends.qmp);
    build.option("-chardev", format!("socket,id=qmp,fd={qmp}"));
    // Not `-mon`, which QEMU 11.1 calls deprecated.
    build.option("-qmp", "chardev:qmp");
    if has_console {
        let console = build.descriptors.pass(ends.console);
        build.option("-chardev", format!("socket,id=serial0,fd={console}"));
        build.device(&json!({
            "driver": "isa-serial", "id": "serial0", "chardev": "serial0", "index": 0,
        }));
    }
    let agent = build.descriptors.pass(ends.agent);
    build.option("-chardev", format!("socket,id=agent,fd={agent}"));
    build.device(&json!({
        "driver": "virtio-serial-pci", "id": "ports", "bus": "pcie.0", "addr": pci::SERIAL_PORTS,
        "disable-legacy": "on", "max_ports": SERIAL_PORTS,
    }));
    build.device(&json!({
        "driver": "virtserialport", "id": "agent", "bus": "ports.0", "nr": 1,
        "chardev": "agent", "name": AGENT_PORT,
    }));
}

/// Random numbers of the node.
pub(super) fn randomness(build: &mut Builder) {
    build.json("-object", &json!({"qom-type": "rng-builtin", "id": "rng"}));
    build.device(&json!({
        "driver": "virtio-rng-pci", "id": "rng", "bus": "pcie.0", "addr": pci::RNG,
        "disable-legacy": "on", "rng": "rng",
    }));
}

/// The balloon. It returns freed memory, unless that is in huge pages: one that is returned could be
/// taken before the guest needs it again, which would end QEMU.
pub(super) fn balloon(build: &mut Builder, hugepages: bool) {
    build.device(&json!({
        "driver": "virtio-balloon-pci", "id": "balloon", "bus": "pcie.0", "addr": pci::BALLOON,
        "disable-legacy": "on", "free-page-reporting": !hugepages,
    }));
}

/// The devices by which the guest reports its panic.
pub(super) fn panic(build: &mut Builder, on_pci: bool) {
    build.device(&json!({"driver": "pvpanic", "id": "panic"}));
    if on_pci {
        build.device(&json!({
            "driver": "pvpanic-pci", "id": "panic-pci", "bus": "pcie.0", "addr": pci::PANIC,
        }));
    }
}

/// The watchdog, which does nothing until the guest starts it.
pub(super) fn watchdog(build: &mut Builder) {
    build.device(&json!({
        "driver": "i6300esb", "id": "watchdog", "bus": "pcie.0", "addr": pci::WATCHDOG,
    }));
}

/// The vsock. Its device is open, because QEMU may open nothing.
pub(super) fn vsock(build: &mut Builder, vsock: Vsock) {
    let cid = vsock.cid();
    let device = build.descriptors.pass(vsock.into_device()).to_string();
    build.device(&json!({
        "driver": "vhost-vsock-pci", "id": "vsock", "bus": "pcie.0", "addr": pci::VSOCK,
        "disable-legacy": "on", "guest-cid": cid, "vhostfd": device,
    }));
}

/// Memory that the guest does not have yet.
///
/// QEMU reserves nothing for it, so that it costs the node some KiB of page tables. It can cost the
/// guest: Linux that sees memory above 4 GiB, be it only possible, sets 64 MiB aside for devices that
/// reach no further (swiotlb).
pub(super) fn memory_room(build: &mut Builder, bytes: u64, shared: bool) {
    if bytes == 0 {
        return;
    }
    let mut room = helpers::memory("room", bytes, shared);
    room["reserve"] = false.into();
    build.json("-object", &room);
    build.device(&json!({
        "driver": "virtio-mem-pci", "id": MEMORY_DEVICE, "bus": "pcie.0", "addr": pci::MEMORY,
        "memdev": "room", "block-size": MEMORY_BLOCK, "requested-size": 0,
    }));
}

/// The root port at `place`. No I/O ports are set aside for what is behind it: there are few of
/// them, and virtio needs none.
pub(super) fn root_port(place: &Place) -> Value {
    json!({
        "driver": "pcie-root-port", "id": place.port, "bus": "pcie.0", "addr": place.address,
        "multifunction": place.multifunction, "chassis": place.number, "port": place.number,
        "io-reserve": 0,
    })
}
