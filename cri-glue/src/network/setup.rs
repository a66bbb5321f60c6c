//! Builds a machine's network in its pod's network namespace: reads what is there, decides, has the
//! undoing recorded, and only then changes anything.

use std::{io, os::fd::OwnedFd, time::Instant};

use ipnet::Ipv4Net;
use netlink_socket2::NetlinkSocket;
use tracing::{debug, warn};

use super::{
    DhcpServer, GuestNetwork, MacAddress, NetworkError, NetworkUndo, Request,
    dhcp::Lease,
    firewall::{self, Masquerade},
    link,
    namespace::Namespace,
    pod::PodInterface,
    sysctl::Sysctl,
    tap,
};

/// Smallest and largest MTU of a tap: what IPv4 demands of every link (RFC 791, 3.2), and what the
/// kernel's driver takes (65,535 octets with the Ethernet header, drivers/net/tun.c).
const TAP_MTU: (u32, u32) = (68, 65_521);

/// A machine's network, ready for QEMU.
#[derive(Debug)]
pub struct Network {
    /// The tap, for QEMU. It ends with its last descriptor: drop this one as soon as QEMU has its
    /// own.
    pub tap: OwnedFd,
    /// The address of the machine's network interface.
    pub mac: MacAddress,
    /// The MTU of the machine's network interface, in octets.
    pub mtu: u16,
    /// The addresses of guest and gateway.
    pub guest: GuestNetwork,
    /// Gives the guest its address; to be served as long as the machine runs.
    pub dhcp: DhcpServer,
    /// How to take it all down; the same that was recorded.
    pub undo: NetworkUndo,
}

/// Called with the way to undo everything, before anything is done.
pub type Record<'a> = dyn FnMut(&NetworkUndo) -> io::Result<()> + Send + 'a;

/// Sets the network of a machine up. `record` is called once, before the first change, and has to
/// make its argument outlive the shim.
///
/// Blocks for some milliseconds. The calling thread's own network namespace stays as it is.
///
/// # Errors
/// On any error, all that was changed is undone already.
pub fn set_up(request: &Request, record: &mut Record<'_>) -> Result<Network, NetworkError> {
    let started = Instant::now();
    let namespace = Namespace::open(&request.namespace)?;
    if namespace.is_own()? {
        return Err(NetworkError::HostNamespace {
            path: request.namespace.clone(),
        });
    }
    let network = namespace.run(|| {
        let mut netlink = NetlinkSocket::new();
        let plan = Plan::make(&mut netlink, request)?;
        let undo = plan.undo(&namespace)?;
        record(&undo).map_err(NetworkError::Record)?;
        let built = plan.build(&mut netlink);
        if built.is_err() {
            for error in undo.in_this_namespace(&mut netlink) {
                warn!(%error, "could not undo a part of the machine's network");
            }
        }
        let (tap, dhcp) = built?;
        Ok(Network {
            tap,
            mac: request.mac,
            mtu: plan.mtu,
            guest: plan.guest,
            dhcp,
            undo,
        })
    })?;
    debug!(guest = %network.guest.address, mac = %network.mac, mtu = network.mtu, elapsed = ?started.elapsed(), "set up the machine's network");
    Ok(network)
}

/// What is going to be built, decided from what the pod has and what was asked for.
struct Plan<'a> {
    request: &'a Request,
    pod: PodInterface,
    guest: GuestNetwork,
    tap: String,
    mtu: u16,
}

impl<'a> Plan<'a> {
    fn make(netlink: &mut NetlinkSocket, request: &'a Request) -> Result<Self, NetworkError> {
        let pod = PodInterface::read(netlink, &request.interface)?;
        let tap = tap::name_for(&pod.name);
        if link::exists(netlink, &tap)? {
            return Err(NetworkError::TapExists { tap });
        }
        let servers = request
            .dns
            .servers
            .iter()
            .map(|server| Ipv4Net::new_assert(*server, 32));
        let used: Vec<Ipv4Net> = pod
            .addresses
            .iter()
            .chain(&pod.routes)
            .copied()
            .chain(servers)
            .collect();
        let guest = GuestNetwork::choose(request.guest_network, &used)?;
        let mtu =
            u16::try_from(pod.mtu.clamp(TAP_MTU.0, TAP_MTU.1)).expect("a tap's MTU fits 16 bits");
        Ok(Self {
            request,
            pod,
            guest,
            tap,
            mtu,
        })
    }

    fn undo(&self, namespace: &Namespace) -> Result<NetworkUndo, NetworkError> {
        Ok(NetworkUndo {
            namespace: self.request.namespace.clone(),
            id: namespace.id,
            tap: self.tap.clone(),
            table: firewall::TABLE.to_owned(),
            sysctls: vec![self.pod_forwards().current()?],
        })
    }

    fn build(&self, netlink: &mut NetlinkSocket) -> Result<(OwnedFd, DhcpServer), NetworkError> {
        // The rules come first: no packet may pass without them.
        firewall::install(
            netlink,
            &Masquerade {
                pod: &self.pod.name,
                pod_addresses: &self.pod.addresses,
                tap: &self.tap,
                guest: self.guest,
                inbound: &self.request.inbound,
                others: &self.request.others,
            },
        )?;
        let tap = tap::create(&self.tap)?;
        self.tap_without_ipv6().write_if_there()?;
        for sysctl in self.tap_behaviour() {
            sysctl.write()?;
        }
        link::bring_up(
            netlink,
            &self.tap,
            self.mtu.into(),
            self.guest.gateway_on_link(),
        )?;
        self.pod_forwards().write()?;
        let dhcp = DhcpServer::open(&self.tap, self.lease())?;
        Ok((tap, dhcp))
    }

    /// Packets from the pod's network may be forwarded. The parameter of the one interface will do;
    /// the others of the pod stay as they are.
    fn pod_forwards(&self) -> Sysctl {
        Sysctl::new(format!("ipv4/conf/{}/forwarding", self.pod.name), "1")
    }

    /// Without this, a guest could send router advertisements that all containers of the pod would
    /// follow.
    fn tap_without_ipv6(&self) -> Sysctl {
        Sysctl::new(format!("ipv6/conf/{}/disable_ipv6", self.tap), "1")
    }

    /// These parameters end with the tap.
    fn tap_behaviour(&self) -> [Sysctl; 3] {
        [
            ("forwarding", "1"),
            // Connections to the pod's localhost leave by the tap with a loopback address, until
            // the rules rewrite it.
            ("route_localnet", "1"),
            // The guest does not decide on the pod's routes.
            ("accept_redirects", "0"),
        ]
        .map(|(name, value)| Sysctl::new(format!("ipv4/conf/{}/{name}", self.tap), value))
    }

    fn lease(&self) -> Lease {
        Lease {
            mac: self.request.mac,
            guest: self.guest,
            mtu: self.mtu,
            dns: self.request.dns.clone(),
            hostname: self.request.hostname.clone(),
        }
    }
}
