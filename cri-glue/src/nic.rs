//! The machine's network interfaces: the spec's wishes, the pod's networks, and the two joined.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use qemu_driver::machine::{Accelerator, MAX_QUEUES, MachineError, Name, Nic, NicModel};
use rustix::fs::OFlags;
use vm_api::field::FieldError;
use vm_api::machine::{self, Binding, InterfaceModel, LinkState, MachineInterface};
use vm_api::v1::VirtualMachineInstanceSpec;

use crate::beneath::Regular;
use crate::identity::Identity;
use crate::machine::Names;
use crate::network::{
    self, DEFAULT_INTERFACE, Dns, Inbound, NetworkError, NetworkUndo, Port, Protocol, Request,
    Services, derive_mac, set_up,
};
use crate::record::{Record, Step};

/// The most bytes of a `resolv.conf` that are read.
const MAX_RESOLV_CONF_BYTES: u64 = 64 << 10;

/// What the kernel's mover of packets between a tap and a guest is opened by.
const VHOST_DEVICE: &str = "/dev/vhost-net";

/// Why the machine has no network.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum NicError {
    #[error("interface {name}: binding {binding} is not supported: use masquerade or bridge")]
    Binding { name: String, binding: &'static str },
    #[error(
        "interface {name}: model {model} is not supported: use virtio, e1000e, e1000, rtl8139, pcnet \
         or ne2k_pci"
    )]
    Model { name: String, model: &'static str },
    #[error("cannot read the pod's resolver settings {path:?}: {source}")]
    ResolvConf {
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error("{}", vm_api::field::join(.0))]
    Fields(Vec<FieldError>),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// What the machine's network is made of.
#[derive(Debug)]
pub struct PodNetwork<'a> {
    /// The pod's network namespace.
    pub namespace: &'a Path,
    /// The pod's resolver settings on the node.
    pub resolv_conf: Option<&'a Path>,
    /// Whose rights they are read with.
    pub identity: &'a Identity,
    /// Ports of the pod's other containers.
    pub others: Vec<Port>,
    /// Names of the machine.
    pub names: &'a Names,
    /// Queues of each interface that can have several.
    pub queues: usize,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
}

/// An interface of the machine with what serves it.
#[derive(Debug)]
pub struct Attached {
    /// For the machine.
    pub nic: Nic,
    /// To be run as long as the machine does.
    pub services: Services,
    /// What further changes of the network, and its undoing, need.
    pub undo: NetworkUndo,
    /// Whether its cable is to be plugged in.
    pub link_up: bool,
}

/// Sets up the interfaces that `spec` wishes.
pub fn attach(
    spec: &VirtualMachineInstanceSpec,
    pod: &PodNetwork<'_>,
    record: &mut Record,
) -> Result<Vec<Attached>, NicError> {
    let interfaces = machine::interfaces(spec).map_err(NicError::Fields)?;
    let dns = match pod.resolv_conf {
        Some(path) if !interfaces.is_empty() => read_dns(path, pod.identity)?,
        _ => Dns::default(),
    };
    // The one that is the pod's own, wherever it stands; else the first.
    let own = |interface: &MachineInterface<'_>| {
        machine::pod_interfaces(spec, interface.name) == [DEFAULT_INTERFACE]
    };
    let primary = interfaces.iter().position(own).unwrap_or(0);
    let attach = |(index, interface): (usize, &MachineInterface<'_>)| {
        let model = model(interface)?;
        let request = Request {
            interfaces: machine::pod_interfaces(spec, interface.name),
            primary: index == primary,
            queues: queues(model, pod.queues),
            dns: dns.clone(),
            ..request(interface, pod)?
        };
        attach_one(interface, model, &request, pod, record)
    };
    interfaces.iter().enumerate().map(attach).collect()
}

/// The queues of an interface of `model` in a machine that wants so many for each that can have them.
fn queues(model: NicModel, wanted: usize) -> usize {
    match model {
        NicModel::Virtio => wanted.clamp(1, MAX_QUEUES),
        _ => 1,
    }
}

fn attach_one(
    interface: &MachineInterface<'_>,
    model: NicModel,
    request: &Request,
    pod: &PodNetwork<'_>,
    record: &mut Record,
) -> Result<Attached, NicError> {
    let network = set_up(request, &mut |undo| {
        record.note(&Step::Network { undo: undo.clone() })
    })?;
    let name = Name::new("interface", interface.name)?;
    let queues = network.tap.len();
    let mut nic = Nic::new(name, network.tap, network.mac, model)?;
    if model == NicModel::Virtio {
        nic = nic.with_mtu(network.mtu)?;
        let vhost = match pod.accelerator {
            Accelerator::Kvm => open_vhost(Path::new(VHOST_DEVICE), queues),
            Accelerator::Tcg => vec![],
        };
        if !vhost.is_empty() {
            nic = nic.with_vhost(vhost)?;
        }
    }
    let nic = placed(nic, interface)?;
    let (services, undo) = (network.services, network.undo);
    Ok(Attached {
        nic,
        services,
        undo,
        link_up: interface.link == LinkState::Up,
    })
}

/// The interface with the place and the index that its wish gives it.
fn placed(mut nic: Nic, interface: &MachineInterface<'_>) -> Result<Nic, MachineError> {
    if let Some(index) = interface.acpi_index {
        nic = nic.with_acpi_index(index.get())?;
    }
    if let Some(index) = interface.boot_order {
        nic = nic.with_boot_index(index);
    }
    Ok(nic)
}

/// A descriptor of the kernel's mover of packets for each of `queues`; none if the node has none, or
/// does not let it be opened: QEMU moves them then.
fn open_vhost(path: &Path, queues: usize) -> Vec<OwnedFd> {
    let open = |_| File::options().read(true).write(true).open(path);
    let opened: io::Result<Vec<_>> = (0..queues).map(open).collect();
    match opened {
        Ok(files) => files.into_iter().map(OwnedFd::from).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "QEMU moves the packets itself");
            vec![]
        }
    }
}

fn model(interface: &MachineInterface<'_>) -> Result<NicModel, NicError> {
    match interface.model {
        InterfaceModel::Virtio => Ok(NicModel::Virtio),
        InterfaceModel::E1000 => Ok(NicModel::E1000),
        InterfaceModel::E1000e => Ok(NicModel::E1000e),
        InterfaceModel::Rtl8139 => Ok(NicModel::Rtl8139),
        InterfaceModel::Pcnet => Ok(NicModel::Pcnet),
        InterfaceModel::Ne2kPci => Ok(NicModel::Ne2kPci),
        other => Err(NicError::Model {
            name: interface.name.to_owned(),
            model: other.as_str(),
        }),
    }
}

/// What follows from the interface alone.
fn request(interface: &MachineInterface<'_>, pod: &PodNetwork<'_>) -> Result<Request, NicError> {
    let name = || interface.name.to_owned();
    let binding = match interface.binding {
        Binding::Masquerade => network::Binding::Masquerade,
        Binding::Bridge => network::Binding::Bridge,
        other => {
            return Err(NicError::Binding {
                name: name(),
                binding: other.as_str(),
            });
        }
    };
    let inbound = match &interface.inbound {
        machine::Inbound::All => Inbound::All,
        machine::Inbound::Only(ports) => Inbound::Only(ports.iter().map(port).collect()),
    };
    let mac = match (interface.mac, binding) {
        (Some(mac), _) => Some(mac.to_string().parse()?),
        (None, network::Binding::Masquerade) => {
            let seed = format!("{}/{}", pod.names.cluster, interface.name);
            Some(derive_mac(&seed))
        }
        // The network may know the pod's.
        (None, network::Binding::Bridge) => None,
    };
    Ok(Request {
        namespace: pod.namespace.to_owned(),
        interfaces: vec![],
        binding,
        mac,
        queues: 1,
        primary: false,
        guest_network: interface.guest_network,
        guest_network6: interface.guest_network6,
        inbound,
        others: pod.others.clone(),
        dns: Dns::default(),
        hostname: pod.names.hostname.clone(),
        dhcp: interface.dhcp.clone(),
    })
}

fn port(port: &machine::MachinePort) -> Port {
    let protocol = match port.protocol {
        machine::Protocol::Tcp => Protocol::Tcp,
        machine::Protocol::Udp => Protocol::Udp,
    };
    Port {
        protocol,
        number: port.number,
    }
}

/// The resolver settings, read with the rights of the pod's user: the pod may have mounted a file
/// of its own there. Containerd's is for everybody to read, but its directories may not be.
fn read_dns(path: &Path, identity: &Identity) -> Result<Dns, NicError> {
    let read = || {
        let found = Regular::at(path)?;
        let file = identity.run(|| found.open(OFlags::RDONLY))??;
        let mut text = String::new();
        file.take(MAX_RESOLV_CONF_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|source| NicError::ResolvConf {
        path: path.to_owned(),
        source,
    })?;
    Ok(Dns::parse(&text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::thread::CapabilitySet;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_interface_wishes_is_what_it_gets() {
        let spec = json!({
            "domain": { "devices": { "interfaces": [{
                "name": "blue", "masquerade": {}, "model": "e1000e", "state": "down",
                "macAddress": "02:00:00:00:00:07", "acpiIndex": 3, "bootOrder": 2,
                "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "port": 80 }],
                "dhcpOptions": {
                    "bootFileName": "pxelinux.0", "tftpServerName": "boot.example",
                    "ntpServers": ["192.0.2.1"],
                    "privateOptions": [{ "option": 240, "value": "a" }],
                },
            }] } },
            "networks": [{ "name": "blue", "pod": {
                "vmNetworkCIDR": "10.9.0.0/24", "vmIPv6NetworkCIDR": "fd09::/64",
            } }],
        });
        let spec = serde_json::from_value(spec).unwrap();
        let names = Names {
            machine: "a".to_owned(),
            hostname: "host".to_owned(),
            cluster: "a.default".to_owned(),
        };
        let identity = Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            capabilities: CapabilitySet::empty(),
        };
        let pod = PodNetwork {
            namespace: Path::new("/run/netns/a"),
            resolv_conf: None,
            identity: &identity,
            others: Vec::new(),
            names: &names,
            queues: 1,
            accelerator: Accelerator::Tcg,
        };
        let interface = machine::interfaces(&spec).unwrap().swap_remove(0);
        assert_eq!(model(&interface).unwrap(), NicModel::E1000e);
        assert_eq!(interface.link, LinkState::Down);
        let tap = File::open("/dev/null").unwrap().into();
        let mac = "02:00:00:00:00:07".parse().unwrap();
        let nic = Nic::new(
            Name::new("interface", "blue").unwrap(),
            vec![tap],
            mac,
            NicModel::E1000e,
        );
        let nic = placed(nic.unwrap(), &interface).unwrap();
        assert_eq!(
            (nic.acpi_index(), nic.boot_index().map(u32::from)),
            (Some(3), Some(2))
        );
        let request = request(&interface, &pod).unwrap();
        assert_eq!(request.binding, network::Binding::Masquerade);
        assert_eq!(request.mac, Some(mac));
        assert_eq!(request.guest_network, Some("10.9.0.0/24".parse().unwrap()));
        assert_eq!(request.guest_network6, Some("fd09::/64".parse().unwrap()));
        let port = |protocol, number: u16| Port {
            protocol,
            number: number.try_into().unwrap(),
        };
        let expected = [port(Protocol::Udp, 53), port(Protocol::Tcp, 80)];
        assert_eq!(request.inbound, Inbound::Only(expected.into()));
        assert_eq!(request.hostname, "host");
        let dhcp = &request.dhcp;
        assert_eq!(
            (dhcp.boot_file.as_deref(), dhcp.boot_server.as_deref()),
            (Some("pxelinux.0"), Some("boot.example"))
        );
        assert_eq!(
            dhcp.time_servers,
            ["192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap()]
        );
        assert_eq!(dhcp.private[&240], "a");
    }

    #[test]
    fn only_virtio_has_several_queues() {
        for (model, wanted, expected) in [
            (NicModel::Virtio, 0, 1),
            (NicModel::Virtio, 4, 4),
            (NicModel::Virtio, 1000, MAX_QUEUES),
            (NicModel::E1000, 4, 1),
            (NicModel::E1000e, 4, 1),
        ] {
            assert_eq!(queues(model, wanted), expected, "{model:?} {wanted}");
        }
    }

    #[test]
    fn packets_are_moved_by_the_kernel_where_it_can() {
        assert_eq!(open_vhost(Path::new("/dev/null"), 3).len(), 3);
        assert_eq!(open_vhost(Path::new("/dev/nothing-like-it"), 3).len(), 0);
        assert_eq!(open_vhost(Path::new("/"), 3).len(), 0);
    }
}
