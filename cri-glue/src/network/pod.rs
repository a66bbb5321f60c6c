//! What the pod's network namespace holds: its interface with addresses and MTU, and its routes,
//! read by rtnetlink (rtnetlink(7)).

use std::{
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_bindings::{
    rt_addr::{self, Ifaddrmsg},
    rt_link::{self, IfinfoFlags, Ifinfomsg},
    rt_route::{self, Rtmsg},
};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::{MacAddress, NetworkError};

/// `AF_INET` and `AF_INET6` as the headers of rtnetlink carry them.
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

/// The routing table that a pod's packets take (`RT_TABLE_MAIN`, linux/rtnetlink.h).
pub(super) const MAIN_TABLE: u8 = 254;

/// The pod's own end of the network.
#[derive(Clone, Debug)]
pub(super) struct PodInterface {
    pub(super) name: String,
    /// Largest packet, in octets.
    pub(super) mtu: u32,
    /// The interface's number.
    pub(super) index: u32,
    mac: Vec<u8>,
    /// Whether it takes in what is sent to any group of hosts.
    pub(super) hears_all_groups: bool,
    /// Addresses with their prefixes, those that are valid on the link alone excepted.
    pub(super) addresses: Vec<IpNet>,
    /// Destinations that the pod has routes to, other than the default route.
    pub(super) routes: Vec<IpNet>,
    /// Routes of IPv4 by this interface, the default route among them.
    pub(super) ways: Vec<Way>,
    /// Destinations of IPv6 by this interface, other than its link and the default route.
    ways6: Vec<Ipv6Net>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) destination: Ipv4Net,
    /// None for what is on the link.
    pub(super) gateway: Option<Ipv4Addr>,
}

impl PodInterface {
    /// Reads the first of the interfaces called `names` that is in the calling thread's network
    /// namespace.
    pub(super) fn read(
        netlink: &mut NetlinkSocket,
        names: &[String],
    ) -> Result<Self, NetworkError> {
        let mut missing = io::Error::from(io::ErrorKind::NotFound);
        let mut found = None;
        for name in names {
            match Link::find(netlink, name) {
                Ok(link) => {
                    found = Some((name, link));
                    break;
                }
                Err(error) => missing = error.into(),
            }
        }
        let Some((name, link)) = found else {
            return Err(NetworkError::NoInterface {
                interface: names.join(" or "),
                source: missing,
            });
        };
        let addresses = addresses(netlink, link.index).map_err(|source| NetworkError::Link {
            action: format!("read the addresses of the pod's interface {name}"),
            source,
        })?;
        let routes =
            routes(netlink, link.index.cast_unsigned()).map_err(|source| NetworkError::Link {
                action: "read the pod's routes".into(),
                source,
            })?;
        Ok(Self {
            name: name.clone(),
            mtu: link.mtu,
            index: link.index.cast_unsigned(),
            mac: link.mac,
            hears_all_groups: link.hears_all_groups,
            addresses,
            routes: routes.destinations,
            ways: routes.ways,
            ways6: routes.ways6,
        })
    }

    /// Destinations of IPv6 by this interface, other than the default route.
    pub(super) fn ways6(&self) -> impl Iterator<Item = Ipv6Net> {
        self.ways6.iter().copied()
    }

    /// The interface's hardware address.
    pub(super) fn mac(&self) -> Result<MacAddress, NetworkError> {
        let bytes = <[u8; 6]>::try_from(self.mac.as_slice()).ok();
        let mac = bytes.and_then(|bytes| MacAddress::new(bytes).ok());
        mac.ok_or_else(|| NetworkError::NoMac {
            interface: self.name.clone(),
        })
    }

    /// IPv4 networks that the pod is in or has routes to.
    pub(super) fn used4(&self) -> impl Iterator<Item = Ipv4Net> {
        let used = self.addresses.iter().chain(&self.routes);
        used.filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        })
    }

    /// The same of IPv6.
    pub(super) fn used6(&self) -> impl Iterator<Item = Ipv6Net> {
        let used = self.addresses.iter().chain(&self.routes);
        used.filter_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(*net),
        })
    }
}

/// A network interface's place and size.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) mtu: u32,
    /// The hardware address, of whatever length.
    mac: Vec<u8>,
    hears_all_groups: bool,
}

impl Link {
    /// Looks the interface called `name` up; `ENODEV` if there is none.
    pub(super) fn find(netlink: &mut NetlinkSocket, name: &str) -> Result<Self, ReplyError> {
        let mut request = rt_link::Request::new().op_getlink_do(&Ifinfomsg::default());
        request.encode().push_ifname(&interface_name(name)?);
        let mut reply = netlink.request(&request)?;
        let (header, attributes) = reply.recv_one()?;
        Ok(Self {
            index: header.ifi_index,
            mtu: attributes.get_mtu()?,
            mac: attributes.get_address().unwrap_or_default().to_vec(),
            hears_all_groups: header.ifi_flags & IfinfoFlags::AllMulti as u32 != 0,
        })
    }
}

/// The name as netlink wants it.
pub(super) fn interface_name(name: &str) -> Result<CString, ReplyError> {
    CString::new(name).map_err(|error| ReplyError::from(std::io::Error::from(error)))
}

fn addresses(netlink: &mut NetlinkSocket, index: i32) -> Result<Vec<IpNet>, ReplyError> {
    let mut found = Vec::new();
    for family in [IPV4, IPV6] {
        let request = rt_addr::Request::new().op_getaddr_dump(&Ifaddrmsg {
            ifa_family: family,
            ..Default::default()
        });
        let mut reply = netlink.request(&request)?;
        while let Some(message) = reply.recv() {
            let (header, attributes) = message?;
            // A kernel without a family lists the addresses of all others instead.
            if header.ifa_family != family || i64::from(header.ifa_index) != i64::from(index) {
                continue;
            }
            // On a point-to-point link, the other attribute is the peer's address.
            let address = attributes
                .get_local()
                .or_else(|_| attributes.get_address())?;
            if !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
                found.extend(IpNet::new(address, header.ifa_prefixlen));
            }
        }
    }
    Ok(found)
}

/// Routes of the pod.
#[derive(Default)]
struct Routes {
    /// Of all, other than default routes.
    destinations: Vec<IpNet>,
    ways: Vec<Way>,
    ways6: Vec<Ipv6Net>,
}

/// The routes of the pod; the ways are those by the interface with the number `index`.
fn routes(netlink: &mut NetlinkSocket, index: u32) -> Result<Routes, ReplyError> {
    let mut routes = Routes::default();
    for family in [IPV4, IPV6] {
        let request = rt_route::Request::new().op_getroute_dump(&Rtmsg {
            rtm_family: family,
            ..Default::default()
        });
        let mut reply = netlink.request(&request)?;
        while let Some(message) = reply.recv() {
            let (header, attributes) = message?;
            if header.rtm_family != family || header.rtm_table != MAIN_TABLE {
                continue;
            }
            let ours = attributes.get_oif() == Ok(index);
            let size = header.rtm_dst_len;
            // The default route has no destination.
            match attributes.get_dst().ok() {
                Some(IpAddr::V6(address)) if ours && !address.is_unicast_link_local() => {
                    routes.ways6.extend(Ipv6Net::new(address, size));
                }
                Some(IpAddr::V6(_)) => {}
                destination if ours && family == IPV4 => {
                    let gateway = match attributes.get_gateway() {
                        Ok(IpAddr::V4(gateway)) => Some(gateway),
                        _ => None,
                    };
                    let address = match destination {
                        Some(IpAddr::V4(address)) => address,
                        _ => Ipv4Addr::UNSPECIFIED,
                    };
                    let ways = Ipv4Net::new(address, size).map(|destination| Way {
                        destination,
                        gateway,
                    });
                    routes.ways.extend(ways);
                }
                _ => {}
            }
            if let Ok(destination) = attributes.get_dst() {
                routes.destinations.extend(IpNet::new(destination, size));
            }
        }
    }
    Ok(routes)
}
