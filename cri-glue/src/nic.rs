//! The machine's network interface: the spec's wish, the pod's network, and the two joined.

use std::io::{self, Read};
use std::path::Path;

use qemu_driver::machine::{MachineError, Name, Nic, NicModel};
use rustix::fs::OFlags;
use vm_api::field::FieldError;
use vm_api::machine::{self, Binding, InterfaceModel, MachineInterface};
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
        "interface {name}: model {model} is not supported: use virtio, e1000e, e1000 or rtl8139"
    )]
    Model { name: String, model: &'static str },
    #[error("interface {second}: a machine has one interface, and {first} is it")]
    TwoInterfaces { first: String, second: String },
    #[error("interface {name}: vmNetworkCIDR {text:?} is not an IPv4 network such as 10.0.2.0/24")]
    GuestNetwork { name: String, text: String },
    #[error(
        "interface {name}: vmIPv6NetworkCIDR {text:?} is not an IPv6 network such as fd10:0:2::/120"
    )]
    GuestNetwork6 { name: String, text: String },
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
}

/// Sets up the interface that `spec` wishes; `None` if it wishes none.
pub fn attach(
    spec: &VirtualMachineInstanceSpec,
    pod: PodNetwork<'_>,
    record: &mut Record,
) -> Result<Option<Attached>, NicError> {
    let interfaces = machine::interfaces(spec).map_err(NicError::Fields)?;
    let interface = match interfaces.as_slice() {
        [] => return Ok(None),
        [interface] => interface,
        [first, second, ..] => {
            return Err(NicError::TwoInterfaces {
                first: first.name.to_owned(),
                second: second.name.to_owned(),
            });
        }
    };
    let model = model(interface)?;
    let request = request(interface, pod)?;
    let network = set_up(&request, &mut |undo| {
        record.note(&Step::Network { undo: undo.clone() })
    })?;
    let name = Name::new("interface", interface.name)?;
    let mut nic = Nic::new(name, network.tap, network.mac, model)?;
    if model == NicModel::Virtio {
        nic = nic.with_mtu(network.mtu)?;
    }
    if let Some(index) = interface.boot_order {
        nic = nic.with_boot_index(index);
    }
    let (services, undo) = (network.services, network.undo);
    Ok(Some(Attached {
        nic,
        services,
        undo,
    }))
}

fn model(interface: &MachineInterface<'_>) -> Result<NicModel, NicError> {
    match interface.model {
        InterfaceModel::Virtio => Ok(NicModel::Virtio),
        InterfaceModel::E1000 => Ok(NicModel::E1000),
        InterfaceModel::E1000e => Ok(NicModel::E1000e),
        InterfaceModel::Rtl8139 => Ok(NicModel::Rtl8139),
        other => Err(NicError::Model {
            name: interface.name.to_owned(),
            model: other.as_str(),
        }),
    }
}

fn request(interface: &MachineInterface<'_>, pod: PodNetwork<'_>) -> Result<Request, NicError> {
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
    let guest_network = interface.guest_network.map(|text| {
        text.parse().map_err(|_| NicError::GuestNetwork {
            name: name(),
            text: text.to_owned(),
        })
    });
    let guest_network6 = interface.guest_network6.map(|text| {
        text.parse().map_err(|_| NicError::GuestNetwork6 {
            name: name(),
            text: text.to_owned(),
        })
    });
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
        interface: DEFAULT_INTERFACE.to_owned(),
        binding,
        mac,
        queues: 1,
        localhost: true,
        guest_network: guest_network.transpose()?,
        guest_network6: guest_network6.transpose()?,
        inbound,
        others: pod.others,
        dns: match pod.resolv_conf {
            Some(path) => read_dns(path, pod.identity)?,
            None => Dns::default(),
        },
        hostname: pod.names.hostname.clone(),
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
