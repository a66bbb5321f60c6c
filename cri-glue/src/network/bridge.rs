//! A machine that has its pod's address: the guest is on the pod's wire, and is told its addresses by
//! DHCP where the network plugin gave any. The pod itself keeps a link to the guest, for what dials
//! its `localhost`.

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
};

use ipnet::{IpNet, Ipv4Net};
use netlink_socket2::NetlinkSocket;

use super::{
    GuestNetwork, NetworkError, NetworkUndo, Services,
    dhcp::{DhcpServer, Lease},
    firewall::{self, Bridge, Local},
    link::{self, LocalAddress},
    pod::Way,
    setup::Site,
    sysctl::Sysctl,
    tap,
};

/// The pod's own end of the link to the guest, and the guest's DHCP server: an address that is valid
/// on one link alone (RFC 3927), the one that KubeVirt takes.
const POD: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// What is going to be built.
pub(super) struct Plan<'a> {
    site: &'a Site<'a>,
    table: String,
    /// What the guest takes over, if there is anything.
    address: Option<Ipv4Net>,
}

impl<'a> Plan<'a> {
    pub(super) fn make(site: &'a Site<'a>) -> Self {
        let mut addresses = site.pod.addresses.iter();
        Self {
            site,
            table: firewall::table_for(&site.pod.name),
            // DHCP gives one.
            address: addresses.find_map(|net| match net {
                IpNet::V4(net) => Some(*net),
                IpNet::V6(_) => None,
            }),
        }
    }

    pub(super) fn undo(&self) -> NetworkUndo {
        NetworkUndo {
            addresses: self.taken_over().into_iter().collect(),
            listening: self.starts_to_listen().then(|| self.site.pod.name.clone()),
            ..self.site.undo(&self.table)
        }
    }

    /// Some interfaces (macvlan) take in only what is for their own host, and for the groups that it
    /// has joined.
    fn starts_to_listen(&self) -> bool {
        !self.site.pod.hears_all_groups
    }

    fn taken_over(&self) -> Option<LocalAddress> {
        self.address.map(|net| LocalAddress {
            address: net.addr(),
            interface: self.site.pod.name.clone(),
        })
    }

    pub(super) fn build(
        &self,
        netlink: &mut NetlinkSocket,
    ) -> Result<(Vec<OwnedFd>, Services), NetworkError> {
        let site = self.site;
        let tap = tap::create(&site.tap, site.request.queues)?;
        self.tap_behaviour()?;
        // The rules come first: until the tap is up, nothing passes it.
        let index = link::index(netlink, &site.tap)?;
        let addresses: Vec<IpAddr> = site.pod.addresses.iter().map(IpNet::addr).collect();
        let rules = Bridge {
            table: &self.table,
            pod: (&site.pod.name, site.pod.index),
            tap: (&site.tap, index),
            mac: site.mac,
            addresses: &addresses,
            local: self.address.map(|net| Local {
                pod: POD,
                guest: net.addr(),
            }),
            localhost: site.request.primary,
            others: &site.request.others,
        };
        for table in rules.tables() {
            firewall::install(netlink, &table)?;
        }
        if self.starts_to_listen() {
            link::hear_all_groups(netlink, &site.pod.name, true)?;
        }
        let own: &[IpNet] = match self.address {
            Some(_) => &[IpNet::V4(Ipv4Net::new_assert(POD, 32))],
            None => &[],
        };
        link::bring_up(netlink, &site.tap, site.mtu.into(), own)?;
        let mut services = Services::default();
        if let (Some(net), Some(taken_over)) = (self.address, self.taken_over()) {
            link::hand_over(netlink, &taken_over, index, POD)?;
            services.dhcp = Some(DhcpServer::open(&site.tap, self.lease(net))?);
        }
        Ok((tap, services))
    }

    /// Kernel parameters of the tap, which end with it: it is for `localhost` alone.
    fn tap_behaviour(&self) -> Result<(), NetworkError> {
        let tap = &self.site.tap;
        let localhost = if self.site.request.primary { "1" } else { "0" };
        for (name, value) in [
            ("forwarding", "0"),
            ("route_localnet", localhost),
            // The guest's address is still written on the pod's interface.
            ("accept_local", "1"),
            ("accept_redirects", "0"),
        ] {
            Sysctl::new(format!("ipv4/conf/{tap}/{name}"), value).write()?;
        }
        Sysctl::new(format!("ipv6/conf/{tap}/disable_ipv6"), "1").write_if_there()
    }

    /// What the network plugin told the pod. Who shares the address's prefix is a neighbour of the
    /// guest's only where the pod says so: plugins that make a link to their node alone (ptp, Calico)
    /// route that prefix too.
    fn lease(&self, net: Ipv4Net) -> Lease {
        let ways = &self.site.pod.ways;
        let default = ways.iter().find(|way| way.destination.prefix_len() == 0);
        let router = default.and_then(|way| way.gateway);
        let is_link = |way: &&Way| way.destination == net.trunc() && way.gateway.is_none();
        let network = match ways.iter().find(is_link) {
            Some(link) => link.destination,
            None => Ipv4Net::new_assert(net.addr(), 32),
        };
        let mut others = ways.iter().filter(|way| !is_link(way));
        let plain = others.clone().all(|way| way.destination.prefix_len() == 0);
        let on_link = router.is_none_or(|router| network.contains(&router));
        let routes = if plain && on_link {
            vec![]
        } else {
            // With these, clients ignore the router option (RFC 3442); 0.0.0.0 is the link itself.
            let gateway = |gateway: Option<Ipv4Addr>| gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let routes = others
                .by_ref()
                .map(|way| (way.destination, gateway(way.gateway)));
            let mut routes: Vec<_> = routes.collect();
            // Clients take them in this order: the way to a gateway comes before what goes by it.
            routes.sort_by_key(|(destination, _)| Reverse(destination.prefix_len()));
            routes
        };
        Lease {
            mac: self.site.mac,
            guest: GuestNetwork {
                network,
                gateway: POD,
                address: net.addr(),
            },
            router,
            routes,
            mtu: self.site.mtu,
            dns: self.site.request.dns.clone(),
            hostname: self.site.request.hostname.clone(),
            more: self.site.request.dhcp.clone(),
        }
    }
}
