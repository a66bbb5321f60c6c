//! PCI devices of the node.

use serde_json::json;

use super::{Builder, devices::root_port};
use crate::machine::HostDevice;
use crate::pci::HOST_DEVICES;

pub(super) fn describe(build: &mut Builder, devices: Vec<HostDevice>) {
    for (index, device) in devices.into_iter().enumerate() {
        let place = HOST_DEVICES.place(index);
        let mut port = root_port(&place);
        // Unlike virtio, such a device can need I/O ports: the firmware sees how many.
        if let Some(port) = port.as_object_mut() {
            port.remove("io-reserve");
            port.insert("hotplug".into(), false.into());
        }
        build.device(&port);
        build.device(&json!({
            "driver": "vfio-pci", "id": format!("host-{}", device.name), "bus": place.port,
            "host": device.address.to_string(),
        }));
    }
}
