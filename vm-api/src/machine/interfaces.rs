//! Which network interfaces a machine has, and how each is bound to its network.

use std::fmt::Write;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::dhcp::{self, MachineDhcp};
use super::mac::MacAddress;
use crate::field::{FieldError, word};
use crate::v1::{Interface, Port, VirtualMachineInstanceSpec};
use crate::words::words;

/// Name of the interface and network of a machine whose spec lists none.
pub const DEFAULT_NETWORK: &str = "default";

/// The pod's own interface, as containerd names it.
const POD_INTERFACE: &str = "eth0";

/// The most interfaces of a machine: the places that its board keeps for them.
pub const MAX_INTERFACES: usize = 16;

/// The longest prefixes of a guest's private network, which has to hold the gateway and the guest
/// beside the addresses that stand for all.
const LONGEST_PREFIXES: (u8, u8) = (30, 126);

/// Digits of a network's digest in the name of its interface: KubeVirt's, which leaves the name
/// short enough for what is derived from it.
const DIGEST_DIGITS: usize = 11;

words! {
    /// How an interface is bound to its network.
    Binding {
        /// The guest has a private address behind the pod's.
        Masquerade = "masquerade",
        /// The guest has the pod's address.
        Bridge = "bridge",
        /// The guest has a virtual function of the node's adapter.
        Sriov = "sriov",
        /// A plugin binds it.
        Plugin = "binding",
        /// It is connected by passt.
        PasstBinding = "passtBinding",
        /// Not offered any more.
        Macvtap = "macvtap",
        /// Not offered any more.
        Passt = "passt",
        /// Not offered any more.
        Slirp = "slirp",
    }
}

words! {
    /// The device that the guest sees.
    InterfaceModel {
        /// virtio-net.
        Virtio = "virtio",
        /// Intel 82540EM.
        E1000 = "e1000",
        /// Intel 82574L.
        E1000e = "e1000e",
        /// Intel 82576.
        Igb = "igb",
        /// NE2000.
        Ne2kPci = "ne2k_pci",
        /// AMD Am79C970.
        Pcnet = "pcnet",
        /// Realtek 8139.
        Rtl8139 = "rtl8139",
    }
}

words! {
    /// Whether the interface's cable is plugged in.
    LinkState {
        /// It is.
        Up = "up",
        /// It is not.
        Down = "down",
        /// There is no such interface.
        Absent = "absent",
    }
}

/// The greatest index by which a guest can name an interface (QEMU, `hw/acpi/pcihp.c`).
pub const MAX_ACPI_INDEX: u16 = 16_383;

words! {
    /// A protocol whose ports are forwarded.
    Protocol {
        /// TCP.
        Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
    }
}

/// A port that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachinePort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: NonZeroU16,
}

/// What is forwarded to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Everything.
    All,
    /// These ports.
    Only(Vec<MachinePort>),
}

/// A network interface of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInterface<'a> {
    /// Name of interface and network.
    pub name: &'a str,
    /// How it is bound.
    pub binding: Binding,
    /// The device that the guest sees.
    pub model: InterfaceModel,
    /// Its MAC address, where the spec says so.
    pub mac: Option<MacAddress>,
    /// What is forwarded to it.
    pub inbound: Inbound,
    /// Place in the order of boot devices.
    pub boot_order: Option<NonZeroU32>,
    /// The guest's private network, where the spec says so.
    pub guest_network: Option<Ipv4Net>,
    /// The same for IPv6.
    pub guest_network6: Option<Ipv6Net>,
    /// What the guest is told by DHCP beside what the pod has.
    pub dhcp: MachineDhcp,
    /// Whether its cable is plugged in; up by default.
    pub link: LinkState,
    /// The index by which the guest names it.
    pub acpi_index: Option<NonZeroU16>,
}

/// The interfaces of the spec; one to the pod network if it lists none, unless
/// `autoattachPodInterface` is off.
///
/// An interface that names no binding is bound by masquerade.
pub fn interfaces(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<MachineInterface<'_>>, Vec<FieldError>> {
    let listed = &spec.domain.devices.interfaces;
    if listed.is_empty() {
        let wanted = spec.domain.devices.autoattach_pod_interface != Some(false);
        return Ok(if wanted && spec.networks.is_empty() {
            vec![default_interface()]
        } else {
            Vec::new()
        });
    }
    let mut interfaces = Vec::new();
    let mut errors = Vec::new();
    if listed.len() > MAX_INTERFACES {
        let message = format!(
            "{} interfaces are too many: a machine has at most {MAX_INTERFACES}",
            listed.len()
        );
        errors.push(FieldError::new("domain.devices.interfaces", message));
    }
    for (index, interface) in listed.iter().enumerate() {
        match read(
            spec,
            interface,
            &format!("domain.devices.interfaces[{index}]"),
        ) {
            Ok(interface) => interfaces.push(interface),
            Err(mut wrong) => errors.append(&mut wrong),
        }
    }
    if errors.is_empty() {
        Ok(interfaces)
    } else {
        Err(errors)
    }
}

/// Names that the pod's interface to the network `name` may have, the best first: the one that the
/// controller asks Multus for, then the one that Multus gives by itself.
pub fn pod_interfaces(spec: &VirtualMachineInstanceSpec, name: &str) -> Vec<String> {
    let further = |network: &&crate::v1::Network| {
        let multus = network.multus.as_ref();
        multus.is_some_and(|multus| multus.default != Some(true))
    };
    let place = spec.networks.iter().filter(further);
    match place.map(|network| &network.name).position(|it| it == name) {
        Some(place) => vec![digested(name), format!("net{}", place + 1)],
        None => vec![POD_INTERFACE.to_owned()],
    }
}

fn digested(name: &str) -> String {
    let mut text = String::from("pod");
    for octet in Sha256::digest(name.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{octet:02x}");
    }
    text.truncate("pod".len() + DIGEST_DIGITS);
    text
}

fn default_interface() -> MachineInterface<'static> {
    MachineInterface {
        name: DEFAULT_NETWORK,
        binding: Binding::Masquerade,
        model: InterfaceModel::Virtio,
        mac: None,
        inbound: Inbound::All,
        boot_order: None,
        guest_network: None,
        guest_network6: None,
        dhcp: MachineDhcp::default(),
        link: LinkState::Up,
        acpi_index: None,
    }
}

fn read<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    interface: &'a Interface,
    path: &str,
) -> Result<MachineInterface<'a>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let field = |name: &str| format!("{path}.{name}");
    let dhcp = dhcp::read(interface.dhcp_options.as_deref(), &field("dhcpOptions"))
        .map_err(|mut wrong| errors.append(&mut wrong))
        .unwrap_or_default();
    let mut note = |error: FieldError| errors.push(error);
    let link = word(|| field("state"), interface.state.as_deref())
        .map_err(&mut note)
        .unwrap_or_default();
    let acpi_index = acpi_index(interface.acpi_index)
        .map_err(|message| note(FieldError::new(field("acpiIndex"), message)))
        .unwrap_or_default();
    let network = spec
        .networks
        .iter()
        .enumerate()
        .find(|(_, network)| network.name == interface.name);
    if network.is_none() {
        let message = format!(
            "no network is called `{}`: add it to networks",
            interface.name
        );
        note(FieldError::new(field("name"), message));
    }
    let binding = binding(interface, path).map_err(&mut note).ok();
    let model = word(|| field("model"), interface.model.as_deref())
        .map_err(&mut note)
        .ok()
        .flatten();
    let mac = match interface.mac_address.as_deref() {
        None | Some("") => None,
        Some(text) => text
            .parse()
            .map_err(|error| note(FieldError::new(field("macAddress"), error)))
            .ok(),
    };
    let boot_order = interface.boot_order.and_then(NonZeroU32::new);
    if interface.boot_order == Some(0) {
        note(FieldError::new(
            field("bootOrder"),
            "the order of boot devices begins at 1",
        ));
    }
    let mut ports = Vec::new();
    for (number, port) in interface.ports.iter().enumerate() {
        match read_port(port, &format!("{path}.ports[{number}]")) {
            Ok(port) => ports.push(port),
            Err(error) => note(error),
        }
    }
    let inbound = if interface.ports.is_empty() {
        Inbound::All
    } else {
        Inbound::Only(ports)
    };
    let pod = network.and_then(|(index, network)| Some((index, network.pod.as_ref()?)));
    let (mut guest_network, mut guest_network6) = (None, None);
    if let Some((index, pod)) = pod {
        let field = |name: &str| format!("networks[{index}].pod.{name}");
        let (longest, longest6) = LONGEST_PREFIXES;
        let (text, text6) = (&pod.vm_network_cidr, &pod.vm_i_pv6_network_cidr);
        let prefix = |net: &Ipv4Net| net.prefix_len() <= longest;
        guest_network = cidr(text.as_deref(), "10.0.2.0/24", prefix)
            .map_err(|message| note(FieldError::new(field("vmNetworkCIDR"), message)))
            .unwrap_or_default();
        let prefix = |net: &Ipv6Net| net.prefix_len() <= longest6;
        guest_network6 = cidr(text6.as_deref(), "fd10:0:2::/120", prefix)
            .map_err(|message| note(FieldError::new(field("vmIPv6NetworkCIDR"), message)))
            .unwrap_or_default();
    }
    match (errors.is_empty(), binding) {
        (true, Some(binding)) => Ok(MachineInterface {
            name: &interface.name,
            binding,
            model: model.unwrap_or(InterfaceModel::Virtio),
            mac,
            inbound,
            boot_order,
            guest_network,
            guest_network6,
            dhcp,
            link: link.unwrap_or(LinkState::Up),
            acpi_index,
        }),
        _ => Err(errors),
    }
}

/// KubeVirt's admission lets any number pass; zero stands for none.
fn acpi_index(index: Option<i32>) -> Result<Option<NonZeroU16>, String> {
    let Some(index) = index.filter(|index| *index != 0) else {
        return Ok(None);
    };
    let number = u16::try_from(index).ok().filter(|it| *it <= MAX_ACPI_INDEX);
    match number.and_then(NonZeroU16::new) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{index} is no index: use 1 to {MAX_ACPI_INDEX}")),
    }
}

/// The network that `text` means, which must be large enough for two; what is wrong with it.
fn cidr<N: FromStr>(
    text: Option<&str>,
    example: &str,
    is_large_enough: impl Fn(&N) -> bool,
) -> Result<Option<N>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(net) if is_large_enough(&net) => Ok(Some(net)),
        Ok(_) => Err(format!(
            "`{text}` is too small for the gateway and the guest: use a shorter prefix, as in {example}"
        )),
        Err(_) => Err(format!(
            "`{text}` is not a network: use an address and a prefix length, as in {example}"
        )),
    }
}

fn binding(interface: &Interface, path: &str) -> Result<Binding, FieldError> {
    let set = [
        interface.masquerade.is_some(),
        interface.bridge.is_some(),
        interface.sriov.is_some(),
        interface.binding.is_some(),
        interface.passt_binding.is_some(),
        interface.macvtap.is_some(),
        interface.passt.is_some(),
        interface.slirp.is_some(),
    ];
    let bindings: Vec<_> = Binding::ALL
        .iter()
        .zip(set)
        .filter(|(_, set)| *set)
        .map(|(binding, _)| *binding)
        .collect();
    match bindings.as_slice() {
        [] => Ok(Binding::Masquerade),
        [binding] => Ok(*binding),
        several => {
            let names: Vec<_> = several.iter().map(|binding| binding.as_str()).collect();
            Err(FieldError::new(
                path,
                format!(
                    "{} are set together: choose one binding",
                    names.join(" and ")
                ),
            ))
        }
    }
}

fn read_port(port: &Port, path: &str) -> Result<MachinePort, FieldError> {
    let number = u16::try_from(port.port)
        .ok()
        .and_then(NonZeroU16::new)
        .ok_or_else(|| {
            FieldError::new(
                format!("{path}.port"),
                format!("{} is not a port: 1 to 65535", port.port),
            )
        })?;
    let protocol = word(|| format!("{path}.protocol"), port.protocol.as_deref())?;
    Ok(MachinePort {
        protocol: protocol.unwrap_or(Protocol::Tcp),
        number,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{MAX_INTERFACES, interfaces, pod_interfaces};

    #[test]
    fn a_guests_own_network_is_a_network() {
        let said = |pod: serde_json::Value| {
            let spec = json!({
                "domain": { "devices": { "interfaces": [{ "name": "a" }] } },
                "networks": [{ "name": "a", "pod": pod }]
            });
            let spec = serde_json::from_value(spec).unwrap();
            let interfaces = interfaces(&spec);
            interfaces
                .map(|all| {
                    let net = all[0].guest_network.map(|net| net.to_string());
                    net.or(all[0].guest_network6.map(|net| net.to_string()))
                })
                .map_err(|errors| errors[0].to_string())
        };
        assert_eq!(said(json!({})), Ok(None));
        assert_eq!(said(json!({ "vmNetworkCIDR": "" })), Ok(None));
        for good in ["10.0.2.0/24", "192.0.2.4/30"] {
            assert_eq!(
                said(json!({ "vmNetworkCIDR": good })),
                Ok(Some(good.into()))
            );
        }
        let good = "fd10:0:2::/126";
        assert_eq!(
            said(json!({ "vmIPv6NetworkCIDR": good })),
            Ok(Some(good.into()))
        );
        for (field, bad, expected) in [
            ("vmNetworkCIDR", "bogus", "not a network"),
            ("vmNetworkCIDR", "10.0.2.0", "not a network"),
            ("vmNetworkCIDR", "fd10::/64", "not a network"),
            ("vmNetworkCIDR", "10.0.2.0/31", "too small"),
            ("vmIPv6NetworkCIDR", "10.0.2.0/24", "not a network"),
            ("vmIPv6NetworkCIDR", "fd10::/127", "too small"),
        ] {
            let error = said(json!({ field: bad })).unwrap_err();
            let path = format!("networks[0].pod.{field}");
            assert!(error.contains(&path) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_machine_has_so_many_interfaces() {
        let count = |count: usize| {
            let names: Vec<_> = (0..count).map(|index| format!("n{index}")).collect();
            let interfaces: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
            let multus = json!({ "networkName": "x" });
            let network = |name| json!({ "name": name, "multus": multus });
            let networks: Vec<_> = names.iter().map(network).collect();
            let spec = json!({
                "domain": { "devices": { "interfaces": interfaces } }, "networks": networks
            });
            let spec = serde_json::from_value(spec).unwrap();
            super::interfaces(&spec).map(|all| all.len())
        };
        assert_eq!(count(MAX_INTERFACES), Ok(MAX_INTERFACES));
        let errors = count(MAX_INTERFACES + 1).unwrap_err();
        assert_eq!(errors.len(), 1);
        let error = errors[0].to_string();
        assert!(
            error.contains("at most 16") && error.contains("domain.devices.interfaces"),
            "{error}"
        );
    }

    #[test]
    fn interfaces_of_the_pod_are_found_by_their_networks() {
        let spec = serde_json::from_value(json!({ "domain": {}, "networks": [
            { "name": "default", "pod": {} },
            { "name": "blue", "multus": { "networkName": "a" } },
            { "name": "main", "multus": { "networkName": "b", "default": true } },
            { "name": "red", "multus": { "networkName": "c" } },
        ] }));
        let spec = spec.unwrap();
        for (name, expected) in [
            ("default", &["eth0"][..]),
            // As KubeVirt names it.
            ("blue", &["pod16477688c0e", "net1"]),
            ("main", &["eth0"]),
            ("red", &["podb1f51a511f1", "net2"]),
        ] {
            assert_eq!(pod_interfaces(&spec, name), expected);
        }
    }
}
