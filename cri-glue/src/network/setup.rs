//! Builds a machine's network in its pod's network namespace: reads what is there, decides, has the
//! undoing recorded, and only then changes anything.

use std::{io, os::fd::OwnedFd, time::Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_socket2::NetlinkSocket;
use tracing::{debug, warn};

use super::{
    GuestNetwork, GuestNetwork6, MacAddress, NetworkError, NetworkUndo, Request, Services,
    dhcp::{DhcpServer, Lease},
    dhcp6::{Dhcp6Server, Lease6},
    firewall::{self, Link, Masquerade},
    forwarding::Forwarding6,
    guest::ROUTER,
    link,
    namespace::Namespace,
    pod::PodInterface,
    relay::Relay,
    router::Router,
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
    /// The addresses of guest and gateway, if the pod has IPv4.
    pub guest: Option<GuestNetwork>,
    /// The same of IPv6.
    pub guest6: Option<GuestNetwork6>,
    /// Gives the guest its addresses, among other things; to be served as long as the machine runs.
    pub services: Services,
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
        let built = plan.build(&mut netlink, &namespace);
        if built.is_err() {
            for error in undo.in_this_namespace(&mut netlink) {
                warn!(%error, "could not undo a part of the machine's network");
            }
        }
        let (tap, services) = built?;
        Ok(Network {
            tap,
            mac: request.mac,
            mtu: plan.mtu,
            guest: plan.guest,
            guest6: plan.guest6,
            services,
            undo,
        })
    })?;
    debug!(guest = ?network.guest, guest6 = ?network.guest6, mac = %network.mac, mtu = network.mtu, elapsed = ?started.elapsed(), "set up the machine's network");
    Ok(network)
}

/// What is going to be built, decided from what the pod has and what was asked for.
struct Plan<'a> {
    request: &'a Request,
    pod: PodInterface,
    guest: Option<GuestNetwork>,
    guest6: Option<GuestNetwork6>,
    /// None if packets of IPv6 are forwarded already, or are not to be.
    forwarding6: Option<Forwarding6>,
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
        let (guest, guest6) = guest_networks(request, &pod)?;
        let forwarding6 = match guest6 {
            Some(_) => Forwarding6::plan()?,
            None => None,
        };
        let mtu =
            u16::try_from(pod.mtu.clamp(TAP_MTU.0, TAP_MTU.1)).expect("a tap's MTU fits 16 bits");
        Ok(Self {
            request,
            pod,
            guest,
            guest6,
            forwarding6,
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
            sysctls: self.sysctls_before()?,
        })
    }

    fn sysctls_before(&self) -> Result<Vec<Sysctl>, NetworkError> {
        let mut before = vec![];
        if self.guest.is_some() {
            before.push(self.pod_forwards().current()?);
        }
        if let Some(forwarding) = &self.forwarding6 {
            before.extend(forwarding.before().iter().cloned());
        }
        Ok(before)
    }

    fn build(
        &self,
        netlink: &mut NetlinkSocket,
        namespace: &Namespace,
    ) -> Result<(OwnedFd, Services), NetworkError> {
        let mut services = Services::default();
        // The rules come first: no packet may pass without them.
        if let Some(guest) = self.guest {
            firewall::install(netlink, &self.masquerade(Link::V4(guest)))?;
        }
        if let Some(guest) = self.guest6 {
            let relay = Relay::open(namespace, guest.address)?;
            let link = Link::V6 {
                guest,
                relay: relay.port()?,
                forwards_for_guest: self.forwarding6.is_some(),
            };
            firewall::install(netlink, &self.masquerade(link))?;
            services.relay = Some(relay);
        }
        let tap = tap::create(&self.tap)?;
        self.tap_behaviour()?;
        let index = link::bring_up(netlink, &self.tap, self.mtu.into(), &self.tap_addresses())?;
        if self.guest.is_some() {
            self.pod_forwards().write()?;
        }
        if let Some(forwarding) = &self.forwarding6 {
            forwarding.switch_on()?;
        }
        self.open_servers(index, &mut services)?;
        Ok((tap, services))
    }

    fn masquerade(&self, link: Link) -> Masquerade<'_> {
        let addresses = self.pod.addresses.iter();
        let of_family = addresses.filter(|net| match link {
            Link::V4(_) => matches!(net, IpNet::V4(_)),
            Link::V6 { .. } => matches!(net, IpNet::V6(_)),
        });
        Masquerade {
            pod: &self.pod.name,
            pod_addresses: of_family.map(IpNet::addr).collect(),
            tap: &self.tap,
            link,
            inbound: &self.request.inbound,
            others: &self.request.others,
        }
    }

    fn open_servers(&self, index: u32, services: &mut Services) -> Result<(), NetworkError> {
        let Request { mac, dns, .. } = self.request;
        if let Some(guest) = self.guest {
            let lease = Lease {
                mac: *mac,
                guest,
                mtu: self.mtu,
                dns: dns.clone(),
                hostname: self.request.hostname.clone(),
            };
            services.dhcp = Some(DhcpServer::open(&self.tap, lease)?);
        }
        if let Some(guest) = self.guest6 {
            let router = Router::open(&self.tap, index, &guest, self.mtu, dns)?;
            let lease = Lease6 {
                mac: *mac,
                guest,
                dns: dns.clone(),
            };
            services.dhcp6 = Some(Dhcp6Server::open(&self.tap, index, lease)?);
            services.router = Some(router);
        }
        Ok(())
    }

    /// Packets from the pod's network may be forwarded. The parameter of the one interface will do;
    /// the others of the pod stay as they are.
    fn pod_forwards(&self) -> Sysctl {
        Sysctl::new(format!("ipv4/conf/{}/forwarding", self.pod.name), "1")
    }

    fn tap_addresses(&self) -> Vec<IpNet> {
        let router = Ipv6Net::new_assert(ROUTER, 64);
        let ipv4 = self.guest.map(|guest| guest.gateway_on_link().into());
        let ipv6 = self
            .guest6
            .map(|guest| [router.into(), guest.gateway_on_link().into()]);
        ipv4.into_iter().chain(ipv6.into_iter().flatten()).collect()
    }

    /// Kernel parameters of the tap, which end with it.
    fn tap_behaviour(&self) -> Result<(), NetworkError> {
        let forwards = if self.guest.is_some() { "1" } else { "0" };
        let ipv4 = [
            ("forwarding", forwards),
            // Connections to the pod's localhost leave by the tap with a loopback address, until
            // the rules rewrite it.
            ("route_localnet", forwards),
            // The guest does not decide on the pod's routes.
            ("accept_redirects", "0"),
        ];
        for (name, value) in ipv4 {
            Sysctl::new(format!("ipv4/conf/{}/{name}", self.tap), value).write()?;
        }
        let ipv6 = |(name, value)| Sysctl::new(format!("ipv6/conf/{}/{name}", self.tap), value);
        if self.guest6.is_none() {
            // Without rules, a guest could send router advertisements that all containers of the
            // pod would follow.
            return ipv6(("disable_ipv6", "1")).write_if_there();
        }
        [
            // No address but those that it is given (`IN6_ADDR_GEN_MODE_NONE`).
            ("addr_gen_mode", "1"),
            // The guest does not decide on the pod's routes and addresses.
            ("accept_ra", "0"),
            ("accept_redirects", "0"),
            // A pod may have switched IPv6 off for interfaces to come.
            ("disable_ipv6", "0"),
        ]
        .map(ipv6)
        .iter()
        .try_for_each(Sysctl::write)
    }
}

/// The networks between guest and gateway: one of each family that the pod has an address of.
fn guest_networks(
    request: &Request,
    pod: &PodInterface,
) -> Result<(Option<GuestNetwork>, Option<GuestNetwork6>), NetworkError> {
    let dns = &request.dns;
    let servers = dns.servers.iter();
    let servers = servers.map(|server| Ipv4Net::new_assert(*server, 32));
    let servers6 = dns.servers6.iter();
    let servers6 = servers6.map(|server| Ipv6Net::new_assert(*server, 128));
    let has = |family: fn(&IpNet) -> bool| pod.addresses.iter().any(family);
    let guest = if has(|net| matches!(net, IpNet::V4(_))) {
        let used: Vec<_> = pod.used4().chain(servers).collect();
        Some(GuestNetwork::choose(request.guest_network, &used)?)
    } else {
        None
    };
    let guest6 = if has(|net| matches!(net, IpNet::V6(_))) {
        let used: Vec<_> = pod.used6().chain(servers6).collect();
        Some(GuestNetwork6::choose(request.guest_network6, &used)?)
    } else {
        None
    };
    if guest.is_none() && !dns.servers.is_empty() || guest6.is_none() && !dns.servers6.is_empty() {
        warn!(
            ?dns,
            "left out name servers of the pod: it has no address of their family"
        );
    }
    Ok((guest, guest6))
}
