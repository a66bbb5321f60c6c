//! What the pod's network namespace holds: its interface with addresses and MTU, and its routes,
//! read by rtnetlink (rtnetlink(7)).

use std::{ffi::CString, net::IpAddr};

use ipnet::Ipv4Net;
use netlink_bindings::{
    rt_addr::{self, Ifaddrmsg},
    rt_link::{self, Ifinfomsg},
    rt_route::{self, Rtmsg},
};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::NetworkError;

/// `AF_INET` as the headers of rtnetlink carry it.
pub(super) const IPV4: u8 = 2;

/// The routing table that a pod's packets take (`RT_TABLE_MAIN`, linux/rtnetlink.h).
const MAIN_TABLE: u8 = 254;

/// The pod's own end of the network.
#[derive(Clone, Debug)]
pub(super) struct PodInterface {
    pub(super) name: String,
    /// Largest packet, in octets.
    pub(super) mtu: u32,
    /// IPv4 addresses with their prefixes; never empty.
    pub(super) addresses: Vec<Ipv4Net>,
    /// Destinations that the pod has routes to, other than the default route.
    pub(super) routes: Vec<Ipv4Net>,
}

impl PodInterface {
    /// Reads the interface called `name` in the calling thread's network namespace.
    pub(super) fn read(netlink: &mut NetlinkSocket, name: &str) -> Result<Self, NetworkError> {
        let link = Link::find(netlink, name).map_err(|error| NetworkError::NoInterface {
            interface: name.to_owned(),
            source: error.into(),
        })?;
        let addresses = addresses(netlink, link.index).map_err(|source| NetworkError::Link {
            action: format!("read the addresses of the pod's interface {name}"),
            source,
        })?;
        if addresses.is_empty() {
            return Err(NetworkError::NoAddress {
                interface: name.to_owned(),
            });
        }
        let routes = routes(netlink).map_err(|source| NetworkError::Link {
            action: "read the pod's routes".into(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            mtu: link.mtu,
            addresses,
            routes,
        })
    }
}

/// A network interface's place and size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) mtu: u32,
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
        })
    }
}

/// The name as netlink wants it.
pub(super) fn interface_name(name: &str) -> Result<CString, ReplyError> {
    CString::new(name).map_err(|error| ReplyError::from(std::io::Error::from(error)))
}

fn addresses(netlink: &mut NetlinkSocket, index: i32) -> Result<Vec<Ipv4Net>, ReplyError> {
    let request = rt_addr::Request::new().op_getaddr_dump(&Ifaddrmsg {
        ifa_family: IPV4,
        ..Default::default()
    });
    let mut reply = netlink.request(&request)?;
    let mut found = Vec::new();
    while let Some(message) = reply.recv() {
        let (header, attributes) = message?;
        if i64::from(header.ifa_index) == i64::from(index)
            && let IpAddr::V4(address) = attributes.get_local()?
        {
            found.extend(Ipv4Net::new(address, header.ifa_prefixlen));
        }
    }
    Ok(found)
}

fn routes(netlink: &mut NetlinkSocket) -> Result<Vec<Ipv4Net>, ReplyError> {
    let request = rt_route::Request::new().op_getroute_dump(&Rtmsg {
        rtm_family: IPV4,
        ..Default::default()
    });
    let mut reply = netlink.request(&request)?;
    let mut found = Vec::new();
    while let Some(message) = reply.recv() {
        let (header, attributes) = message?;
        // The default route has no destination.
        if header.rtm_table == MAIN_TABLE
            && let Ok(IpAddr::V4(destination)) = attributes.get_dst()
        {
            found.extend(Ipv4Net::new(destination, header.rtm_dst_len));
        }
    }
    Ok(found)
}
