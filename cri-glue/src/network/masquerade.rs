//! A machine behind its pod's address: a network of its own between guest and pod, and translation
//! of addresses.

use std::{net::Ipv4Addr, os::fd::OwnedFd};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_socket2::NetlinkSocket;
use tracing::warn;

use super::{
    GuestNetwork, GuestNetwork6, NetworkError, NetworkUndo, Request, Services,
    dhcp::{DhcpServer, Lease},
    dhcp6::{Dhcp6Server, Lease6},
    firewall::{self, Link, Masquerade},
    forwarding::Forwarding6,
    guest::ROUTER,
    link,
    pod::PodInterface,
    relay::Relay,
    router::{Advertised, Router},
    setup::Site,
    sysctl::Sysctl,
    tap,
};

/// What is going to be built, decided from what the pod has and what was asked for.
pub(super) struct Plan<'a> {
    site: &'a Site<'a>,
    table: String,
    guest: Option<GuestNetwork>,
    guest6: Option<GuestNetwork6>,
    /// None if packets of IPv6 are forwarded already, or are not to be.
    forwarding6: Option<Forwarding6>,
}

impl<'a> Plan<'a> {
    pub(super) fn make(site: &'a Site<'a>) -> Result<Self, NetworkError> {
        let (guest, guest6) = guest_networks(site.request, &site.pod)?;
        let forwarding6 = match guest6 {
            Some(_) => Forwarding6::plan()?,
            None => None,
        };
        Ok(Self {
            site,
            table: firewall::table_for(&site.pod.name),
            guest,
            guest6,
            forwarding6,
        })
    }

    pub(super) fn undo(&self) -> Result<NetworkUndo, NetworkError> {
        Ok(NetworkUndo {
            sysctls: self.sysctls_before()?,
            ..self.site.undo(&self.table)
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

    pub(super) fn build(
        &self,
        netlink: &mut NetlinkSocket,
    ) -> Result<(Vec<OwnedFd>, Services), NetworkError> {
        let mut services = Services::default();
        // The rules come first: no packet may pass without them.
        if let Some(guest) = self.guest {
            firewall::install(netlink, &self.masquerade(Link::V4(guest)).table())?;
        }
        if let Some(guest) = self.guest6 {
            let relay = match self.site.request.primary {
                true => Some(Relay::open(
                    self.site.namespace,
                    self.site.request,
                    guest.address,
                )?),
                false => None,
            };
            let link = Link::V6 {
                guest,
                relay: relay.as_ref().map(Relay::port).transpose()?,
                forwards_for_guest: self.forwarding6.is_some(),
            };
            firewall::install(netlink, &self.masquerade(link).table())?;
            services.relay = relay;
        }
        let tap = tap::create(&self.site.tap, self.site.request.queues)?;
        self.tap_behaviour()?;
        let guest = self.guest.map(Link::V4);
        if let Some(table) = guest.and_then(|link| self.masquerade(link).link_table()) {
            firewall::install(netlink, &table)?;
        }
        let index = link::bring_up(
            netlink,
            &self.site.tap,
            self.site.mtu.into(),
            &self.tap_addresses(),
        )?;
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
        let addresses = self.site.pod.addresses.iter();
        let of_family = addresses.filter(|net| match link {
            Link::V4(_) => matches!(net, IpNet::V4(_)),
            Link::V6 { .. } => matches!(net, IpNet::V6(_)),
        });
        Masquerade {
            pod: &self.site.pod.name,
            pod_addresses: of_family.map(IpNet::addr).collect(),
            tap: &self.site.tap,
            table: &self.table,
            localhost: self.site.request.primary,
            link,
            inbound: &self.site.request.inbound,
            others: &self.site.request.others,
        }
    }

    fn open_servers(&self, index: u32, services: &mut Services) -> Result<(), NetworkError> {
        let (mac, dns) = (self.site.mac, &self.site.request.dns);
        if let Some(guest) = self.guest {
            let lease = Lease {
                mac,
                guest,
                router: self.site.request.primary.then_some(guest.gateway),
                routes: self.further_routes(guest.gateway),
                mtu: self.site.mtu,
                dns: dns.clone(),
                hostname: self.site.request.hostname.clone(),
                more: self.site.request.dhcp.clone(),
            };
            services.dhcp = Some(DhcpServer::open(&self.site.tap, lease)?);
        }
        if let Some(guest) = self.guest6 {
            let advertised = Advertised {
                guest,
                mtu: self.site.mtu,
                servers: dns.servers6.clone(),
                // All there is, or what the pod reaches by this interface.
                routes: (!self.site.request.primary).then(|| self.site.pod.ways6().collect()),
            };
            let router = Router::open(&self.site.tap, index, &advertised)?;
            let lease = Lease6 {
                mac,
                guest,
                dns: dns.clone(),
            };
            services.dhcp6 = Some(Dhcp6Server::open(&self.site.tap, index, lease)?);
            services.router = Some(router);
        }
        Ok(())
    }

    /// By a further interface, the guest reaches what the pod does, and no more: its default route
    /// is another one.
    fn further_routes(&self, gateway: Ipv4Addr) -> Vec<(Ipv4Net, Ipv4Addr)> {
        if self.site.request.primary {
            return vec![];
        }
        let ways = self.site.pod.ways.iter();
        let routes = ways.filter(|way| way.destination.prefix_len() > 0);
        routes.map(|way| (way.destination, gateway)).collect()
    }

    /// Packets from the pod's network may be forwarded. The parameter of the one interface will do;
    /// the others of the pod stay as they are.
    fn pod_forwards(&self) -> Sysctl {
        Sysctl::new(format!("ipv4/conf/{}/forwarding", self.site.pod.name), "1")
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
        let switch = |on: bool| if on { "1" } else { "0" };
        let forwards = self.guest.is_some();
        let ipv4 = [
            ("forwarding", switch(forwards)),
            // Connections to the pod's localhost leave by the tap with a loopback address, until
            // the rules rewrite it.
            (
                "route_localnet",
                switch(forwards && self.site.request.primary),
            ),
            // The guest does not decide on the pod's routes.
            ("accept_redirects", "0"),
        ];
        for (name, value) in ipv4 {
            Sysctl::new(format!("ipv4/conf/{}/{name}", self.site.tap), value).write()?;
        }
        let ipv6 =
            |(name, value)| Sysctl::new(format!("ipv6/conf/{}/{name}", self.site.tap), value);
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
    if pod.addresses.is_empty() {
        return Err(NetworkError::NoAddress {
            interface: pod.name.clone(),
        });
    }
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
