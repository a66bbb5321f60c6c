//! What the machine's network is asked to be. The caller reads it from the OCI spec, the pod's
//! annotations and its mounts; nothing here touches the host.

use std::{fmt, num::NonZeroU16, path::PathBuf, str::FromStr};

use ipnet::{Ipv4Net, Ipv6Net};

use vm_api::machine::MachineDhcp;

use super::{Dns, MacAddress, NetworkError};

/// The pod's interface in every containerd cluster: its CRI plugin numbers interfaces from `eth0`.
pub const DEFAULT_INTERFACE: &str = "eth0";

/// Everything that [`set_up`](super::set_up) needs to know.
#[derive(Clone, Debug)]
pub struct Request {
    /// The pod's network namespace, from `linux.namespaces` of the OCI spec.
    pub namespace: PathBuf,
    /// Names of the pod's interface that the machine shares: the first one that is there.
    pub interfaces: Vec<String>,
    /// How the machine is bound to it.
    pub binding: Binding,
    /// The address of the machine's network interface; by default, that of the pod's.
    pub mac: Option<MacAddress>,
    /// Queues of the tap, at least one.
    pub queues: usize,
    /// Whether the machine's other interfaces, if there are any, are further ones: by this one, the
    /// guest has its way out, and the pod's localhost is the guest's.
    pub primary: bool,
    /// The network between guest and gateway, if the user wants a certain one; else one that
    /// nothing in the pod uses.
    pub guest_network: Option<Ipv4Net>,
    /// The same for IPv6.
    pub guest_network6: Option<Ipv6Net>,
    /// What reaches the guest from outside.
    pub inbound: Inbound,
    /// Ports that other containers of the pod declare. They are never the guest's. Ports that they
    /// listen on without declaring them cannot be told from the guest's, not even on localhost.
    pub others: Vec<Port>,
    /// The pod's resolver settings, to be handed on to the guest.
    pub dns: Dns,
    /// The pod's hostname, to be handed on to the guest; empty if the guest shall choose.
    pub hostname: String,
    /// What the guest is told by DHCP beside all that.
    pub dhcp: MachineDhcp,
}

/// How a machine is bound to its pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The guest is behind the pod's address.
    Masquerade,
    /// The guest has the pod's address. What is asked for a guest network, or of what reaches the
    /// guest, means nothing then.
    Bridge,
}

/// What reaches the guest from outside, except the ports of other containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Everything, also protocols without ports: a ping is answered by the guest.
    All,
    /// These ports and nothing else.
    Only(Vec<Port>),
}

/// A port of a transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port's number.
    pub number: NonZeroU16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.number)
    }
}

/// A transport protocol that Kubernetes knows ports of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in an IP header (IANA, assigned Internet protocol numbers).
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = NetworkError;

    /// Reads the name that Kubernetes writes: `TCP`, `UDP` or `SCTP`.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.to_string() == text)
            .ok_or_else(|| NetworkError::Protocol {
                text: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol;

    #[test]
    fn protocols_are_read_as_kubernetes_writes_them() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            assert_eq!(protocol.to_string().parse::<Protocol>().unwrap(), protocol);
        }
        let error = "tcp".parse::<Protocol>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown protocol \"tcp\" of a port: write TCP, UDP or SCTP"
        );
    }
}
