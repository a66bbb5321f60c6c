//! Network interfaces on taps.

use serde_json::{Value, json};

use super::{Builder, devices::root_port};
use crate::machine::{Nic, NicModel};
use crate::pci::NICS;

pub(super) fn describe(build: &mut Builder, nics: Vec<Nic>) {
    for (index, nic) in nics.into_iter().enumerate() {
        let place = NICS.place(index);
        let id = format!("nic-{}", nic.name());
        let mut device = json!({
            "driver": driver(nic.model()), "id": id, "netdev": id, "mac": nic.mac().to_string(),
        });
        if is_express(nic.model()) {
            build.device(&root_port(&place));
            device["bus"] = place.port.into();
        } else {
            device["bus"] = "pcie.0".into();
            device["addr"] = place.address.into();
            device["multifunction"] = place.multifunction.into();
        }
        match nic.boot_index() {
            Some(index) => device["bootindex"] = index.get().into(),
            // Without a place in the boot order the card needs no boot program.
            None => device["romfile"] = "".into(),
        }
        if let Some(index) = nic.acpi_index() {
            device["acpi-index"] = index.into();
        }
        if let Some(mtu) = nic.mtu() {
            device["host_mtu"] = mtu.into();
        }
        let netdev = netdev(build, &id, nic, &mut device);
        build.json("-netdev", &netdev);
        build.device(&device);
    }
}

/// The tap behind the card; tells the card of its queues.
fn netdev(build: &mut Builder, id: &str, nic: Nic, device: &mut Value) -> Value {
    let (queues, vhost) = nic.into_descriptors();
    let count = queues.len();
    let mut numbers = |fds: Vec<_>| {
        let numbers = fds
            .into_iter()
            .map(|fd| build.descriptors.pass(fd).to_string());
        numbers.collect::<Vec<_>>().join(":")
    };
    let (queues, vhost) = (numbers(queues), numbers(vhost));
    let (fd, vhost_fd) = if count == 1 {
        ("fd", "vhostfd")
    } else {
        ("fds", "vhostfds")
    };
    let mut netdev = json!({"type": "tap", "id": id, "vhost": !vhost.is_empty()});
    netdev[fd] = queues.into();
    if !vhost.is_empty() {
        netdev[vhost_fd] = vhost.into();
    }
    if count > 1 {
        device["mq"] = true.into();
        // One interrupt for each queue's two directions, one for control, one for configuration.
        device["vectors"] = (2 * count + 2).into();
    }
    netdev
}

fn driver(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000e => "e1000e",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Pcnet => "pcnet",
        NicModel::Ne2kPci => "ne2k_pci",
    }
}

/// Whether the card is PCI Express, and so fits a root port.
fn is_express(model: NicModel) -> bool {
    match model {
        NicModel::Virtio | NicModel::E1000e => true,
        NicModel::E1000 | NicModel::Rtl8139 | NicModel::Pcnet | NicModel::Ne2kPci => false,
    }
}
