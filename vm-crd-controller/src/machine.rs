//! What the controller fills into a spec so that a machine stays itself over its restarts, and what
//! it reports about a spec. Relies on `vm_api::machine` for every reading of a spec.

use std::hash::Hasher;

use kube::ResourceExt;
use vm_api::Quantity;
use vm_api::defaults;
use vm_api::machine::{self as reading, MacAddress};
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceSpec};

/// First byte of the MAC addresses that are made here: locally administered, one station.
const MAC_PREFIX: u8 = 0x02;

/// A short text that follows from `parts`, for names: the same on every version and machine.
pub fn digest(parts: &[&str]) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// Writes out what a spec leaves open: the defaults, and what a machine must keep over its restarts,
/// the firmware's UUID and the MAC addresses.
/// `uuid` is the UID of the object that lasts (the machine's or the lone instance's), `namespace`
/// and `name` are the instance's.
pub fn settle(spec: &mut VirtualMachineInstanceSpec, uuid: &str, namespace: &str, name: &str) {
    let firmware = spec.domain.firmware.get_or_insert_default();
    if firmware.uuid.as_deref().is_none_or(str::is_empty) {
        firmware.uuid = Some(uuid.to_owned());
    }
    defaults::instance(spec);
    for interface in &mut spec.domain.devices.interfaces {
        // With a bridge, it is the pod's, which the network may insist on.
        let own = interface.bridge.is_none();
        if own && interface.mac_address.as_deref().is_none_or(str::is_empty) {
            let mac = derived_mac(&[namespace, name, &interface.name]);
            interface.mac_address = Some(mac.to_string());
        }
    }
}

/// Writes out how far the machine can grow while it runs, where its spec leaves that open.
pub fn give_room(spec: &mut VirtualMachineInstanceSpec) {
    if let Ok(topology) = reading::topology(spec, None) {
        let sockets = reading::max_sockets(spec, topology);
        let cpu = spec.domain.cpu.get_or_insert_default();
        cpu.max_sockets.get_or_insert(sockets);
    }
    let in_hugepages = !matches!(reading::hugepages(spec), Ok(None));
    let (Ok(guest), false) = (reading::guest_memory_bytes(spec, None), in_hugepages) else {
        return;
    };
    let most = reading::room_for_memory(spec, guest).unwrap_or(guest);
    if let Some(memory) = spec.domain.memory.as_mut().filter(|_| most > guest) {
        let most = Quantity::from_bytes(most);
        memory.max_guest.get_or_insert(most);
    }
}

fn derived_mac(parts: &[&str]) -> MacAddress {
    let [a, b, c, d, e, ..] = digest(parts).to_be_bytes();
    MacAddress([MAC_PREFIX, a, b, c, d, e])
}

/// Names and MAC addresses of the interfaces of an instance's machine; empty where it is the pod's.
pub fn interfaces(instance: &VirtualMachineInstance) -> Vec<(String, String)> {
    let mut spec = instance.spec.clone();
    let namespace = instance.namespace().unwrap_or_default();
    settle(&mut spec, "", &namespace, &instance.name_any());
    let interfaces = std::mem::take(&mut spec.domain.devices.interfaces);
    interfaces
        .into_iter()
        .map(|interface| (interface.name, interface.mac_address.unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use vm_api::v1::{Empty, Firmware, Interface};

    use super::*;

    #[test]
    fn a_machine_keeps_its_identity() {
        let settled = || {
            let mut spec = VirtualMachineInstanceSpec::default();
            settle(
                &mut spec,
                "5d307ca9-b3ef-428c-8861-06e72d69f223",
                "default",
                "tl",
            );
            spec
        };
        let spec = settled();
        assert_eq!(spec, settled());
        let interface = &spec.domain.devices.interfaces[0];
        assert_eq!(interface.name, "default");
        let mac: MacAddress = interface.mac_address.as_deref().unwrap().parse().unwrap();
        assert_eq!(mac.0[0], 0x02);
        let uuid = spec
            .domain
            .firmware
            .as_ref()
            .and_then(|firmware| firmware.uuid.as_deref());
        assert_eq!(uuid, Some("5d307ca9-b3ef-428c-8861-06e72d69f223"));
    }

    #[test]
    fn a_machine_on_a_bridge_has_its_pods_address() {
        let interface = Interface {
            name: "default".into(),
            bridge: Some(Empty {}),
            ..Interface::default()
        };
        let mut spec = VirtualMachineInstanceSpec::default();
        spec.domain.devices.interfaces = vec![interface];
        settle(&mut spec, "u", "default", "tl");
        assert_eq!(spec.domain.devices.interfaces[0].mac_address, None);
    }

    #[test]
    fn what_the_user_chose_stays() {
        let mut spec = VirtualMachineInstanceSpec::default();
        spec.domain.firmware = Some(Box::new(Firmware {
            uuid: Some("u".into()),
            ..Firmware::default()
        }));
        spec.domain.devices.autoattach_pod_interface = Some(false);
        settle(&mut spec, "other", "default", "tl");
        let firmware = spec.domain.firmware.clone().unwrap();
        assert_eq!(firmware.uuid.as_deref(), Some("u"));
        assert!(spec.domain.devices.interfaces.is_empty());
        let settled = spec.clone();
        settle(&mut spec, "other", "default", "tl");
        assert_eq!(spec, settled, "once is enough");
    }

    #[test]
    fn digests_tell_parts_apart() {
        assert_ne!(digest(&["a", "bc"]), digest(&["ab", "c"]));
        assert_eq!(digest(&["a"]), digest(&["a"]));
    }
}
