//! What an interface tells its guest, and what it can be beside its binding.

use std::net::Ipv4Addr;

use super::pci;
use super::words::strict;
use crate::field::FieldError;
use crate::machine::{LinkState, PRIVATE_OPTIONS};
use crate::v1::{DhcpOptions, Interface, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let listed = spec.domain.devices.interfaces.iter().enumerate();
    listed
        .flat_map(|(index, interface)| {
            one(interface, &format!("domain.devices.interfaces[{index}]"))
        })
        .collect()
}

fn one(interface: &Interface, path: &str) -> Vec<FieldError> {
    let field = |name: &str| format!("{path}.{name}");
    let mut errors = Vec::new();
    let removed = [
        ("macvtap", interface.macvtap.is_some()),
        ("passt", interface.passt.is_some()),
        ("slirp", interface.slirp.is_some()),
    ];
    for (name, _) in removed.into_iter().filter(|(_, set)| *set) {
        let message = "this binding is not offered any more: use masquerade or bridge";
        errors.push(FieldError::new(path, message));
        errors.push(FieldError::new(field(name), message));
    }
    let state = interface.state.as_deref();
    errors.extend(strict::<LinkState>(
        || field("state"),
        state.filter(|it| !it.is_empty()),
    ));
    if state == Some(LinkState::Absent.as_str()) && interface.bridge.is_none() {
        let message = "only an interface with the binding bridge can be taken away";
        errors.push(FieldError::new(field("state"), message));
    }
    if !interface.port_ranges.is_empty() && interface.passt_binding.is_none() {
        let message = "ranges of ports need the binding passtBinding: list each port in ports";
        errors.push(FieldError::new(field("portRanges"), message));
    }
    let address = interface.pci_address.as_deref();
    errors.extend(pci::address(field("pciAddress"), address));
    if let Some(options) = &interface.dhcp_options {
        errors.extend(dhcp(options, &field("dhcpOptions")));
    }
    errors
}

fn dhcp(options: &DhcpOptions, path: &str) -> Vec<FieldError> {
    let servers = options.ntp_servers.iter().enumerate();
    let servers = servers.filter(|(_, server)| server.parse::<Ipv4Addr>().is_err());
    let servers = servers.map(|(index, server)| {
        let message = format!("`{server}` is not an IPv4 address");
        FieldError::new(format!("{path}.ntpServers[{index}]"), message)
    });
    let private = options.private_options.iter().enumerate();
    let private = private.filter(|(_, it)| !PRIVATE_OPTIONS.contains(&it.option));
    let private = private.map(|(index, it)| {
        let (first, last) = (PRIVATE_OPTIONS.start(), PRIVATE_OPTIONS.end());
        let message = format!("{} is not a private option: {first} to {last}", it.option);
        FieldError::new(format!("{path}.privateOptions[{index}].option"), message)
    });
    servers.chain(private).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(interface: Value) -> Vec<String> {
        let mut whole = json!({ "name": "a" });
        let fields = interface.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(fields);
        let spec = json!({ "domain": { "devices": { "interfaces": [whole] } } });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors
            .into_iter()
            .map(|error| error.path.replace("domain.devices.interfaces[0]", ""))
            .collect()
    }

    #[test]
    fn what_an_interface_cannot_be_is_named() {
        for (interface, expected) in [
            (json!({ "masquerade": {}, "state": "down" }), &[][..]),
            (json!({ "masquerade": {}, "state": "" }), &[]),
            (json!({ "masquerade": {}, "state": "off" }), &[".state"]),
            (json!({ "masquerade": {}, "state": "absent" }), &[".state"]),
            (json!({ "bridge": {}, "state": "absent" }), &[]),
            (json!({ "slirp": {} }), &["", ".slirp"]),
            (json!({ "pciAddress": "bogus" }), &[".pciAddress"]),
            (
                json!({ "portRanges": [{ "start": 1, "end": 2, "protocol": "TCP" }] }),
                &[".portRanges"],
            ),
            (
                json!({ "dhcpOptions": { "ntpServers": ["192.0.2.1", "x", "fd00::1"] } }),
                &[".dhcpOptions.ntpServers[1]", ".dhcpOptions.ntpServers[2]"],
            ),
            (
                json!({ "dhcpOptions": { "privateOptions": [
                    { "option": 224, "value": "a" }, { "option": 255, "value": "a" },
                ] } }),
                &[".dhcpOptions.privateOptions[1].option"],
            ),
        ] {
            assert_eq!(paths(interface.clone()), expected, "{interface}");
        }
    }
}
