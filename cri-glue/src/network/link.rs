//! Changes to network interfaces by rtnetlink: the tap gets the gateway's address and comes up, and
//! goes again.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_bindings::{
    rt_addr::{self, Ifaddrmsg},
    rt_link::{self, IfinfoFlags, Ifinfomsg},
    rt_route::{self, Rtmsg},
};
use netlink_socket2::{NetlinkSocket, ReplyError};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{
    NetworkError,
    pod::{IPV4, IPV6, Link, MAIN_TABLE, interface_name},
};

/// `IFA_F_NODAD` (linux/if_addr.h), which means nothing for IPv4.
const NO_DUPLICATE_DETECTION: u8 = 0x02;

/// Whether there is an interface called `name`.
pub(super) fn exists(netlink: &mut NetlinkSocket, name: &str) -> Result<bool, NetworkError> {
    match Link::find(netlink, name) {
        Ok(_) => Ok(true),
        Err(error) if is(&error, Errno::NODEV) => Ok(false),
        Err(source) => Err(NetworkError::Link {
            action: format!("look for the interface {name}"),
            source,
        }),
    }
}

/// The number of the interface called `name`.
pub(super) fn index(netlink: &mut NetlinkSocket, name: &str) -> Result<u32, NetworkError> {
    let found = Link::find(netlink, name).map_err(|source| NetworkError::Link {
        action: format!("look for the interface {name}"),
        source,
    })?;
    Ok(found.index.cast_unsigned())
}

/// Gives the interface `name` its MTU, brings it up and gives it its addresses; returns its number.
pub(super) fn bring_up(
    netlink: &mut NetlinkSocket,
    name: &str,
    mtu: u32,
    addresses: &[IpNet],
) -> Result<u32, NetworkError> {
    let mut steps = || {
        let index = Link::find(netlink, name)?.index;
        set_up(netlink, index, mtu)?;
        for address in addresses {
            add_address(netlink, index, *address)?;
        }
        Ok(index.cast_unsigned())
    };
    steps().map_err(|source| NetworkError::Link {
        action: format!("bring up {name} with an MTU of {mtu} and its addresses"),
        source,
    })
}

fn add_address(netlink: &mut NetlinkSocket, index: i32, address: IpNet) -> Result<(), ReplyError> {
    let header = Ifaddrmsg {
        ifa_family: match address {
            IpNet::V4(_) => IPV4,
            IpNet::V6(_) => IPV6,
        },
        ifa_prefixlen: address.prefix_len(),
        ifa_index: index.cast_unsigned(),
        // Ours is the link; nobody else on it can have the address first.
        ifa_flags: NO_DUPLICATE_DETECTION,
        ..Default::default()
    };
    let mut request = rt_addr::Request::new()
        .set_create()
        .set_excl()
        .op_newaddr_do(&header);
    request
        .encode()
        .push_local(address.addr())
        .push_address(address.addr());
    netlink.request(&request)?.recv_ack()
}

fn set_up(netlink: &mut NetlinkSocket, index: i32, mtu: u32) -> Result<(), ReplyError> {
    let up = IfinfoFlags::Up as u32;
    let mut request = rt_link::Request::new().op_setlink_do(&Ifinfomsg {
        ifi_index: index,
        ifi_flags: up,
        ifi_change: up,
        ..Default::default()
    });
    request.encode().push_mtu(mtu);
    netlink.request(&request)?.recv_ack()
}

/// Lets the interface `name` take in what is sent to any group of hosts, as a port of a bridge does, or
/// no longer: which groups a guest has joined, it does not know. An interface that is gone takes in
/// nothing.
pub(super) fn hear_all_groups(
    netlink: &mut NetlinkSocket,
    name: &str,
    all: bool,
) -> Result<(), NetworkError> {
    let mut step = || {
        let flag = IfinfoFlags::AllMulti as u32;
        let request = rt_link::Request::new().op_setlink_do(&Ifinfomsg {
            ifi_index: Link::find(netlink, name)?.index,
            ifi_flags: if all { flag } else { 0 },
            ifi_change: flag,
            ..Default::default()
        });
        netlink.request(&request)?.recv_ack()
    };
    match step() {
        Err(error) if !all && is(&error, Errno::NODEV) => Ok(()),
        result => result.map_err(|source| NetworkError::Link {
            action: format!("change which groups {name} listens to"),
            source,
        }),
    }
}

/// An address of the pod, as the kernel's table of local addresses has it (`ip route show table
/// local`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalAddress {
    pub(super) address: Ipv4Addr,
    pub(super) interface: String,
}

/// From now on, `address` is not the pod's own, but that of a host behind the interface with the
/// number `to`, where the pod is `from`.
pub(super) fn hand_over(
    netlink: &mut NetlinkSocket,
    address: &LocalAddress,
    to: u32,
    from: Ipv4Addr,
) -> Result<(), NetworkError> {
    let mut steps = || {
        let to_guest = Rtmsg {
            rtm_table: MAIN_TABLE,
            rtm_protocol: STATIC,
            rtm_scope: LINK_SCOPE,
            rtm_type: UNICAST,
            ..host_route()
        };
        let mut request = rt_route::Request::new()
            .set_create()
            .op_newroute_do(&to_guest);
        request
            .encode()
            .push_dst(IpAddr::V4(address.address))
            .push_oif(to)
            .push_prefsrc(IpAddr::V4(from));
        netlink.request(&request)?.recv_ack()?;
        let index = Link::find(netlink, &address.interface)?.index;
        let mut request = rt_route::Request::new().op_delroute_do(&local_route());
        request
            .encode()
            .push_dst(IpAddr::V4(address.address))
            .push_oif(index.cast_unsigned());
        match netlink.request(&request)?.recv_ack() {
            // A machine that was killed has it already.
            Err(error) if is(&error, Errno::SRCH) => Ok(()),
            result => result,
        }
    };
    steps().map_err(|source| NetworkError::Link {
        action: format!(
            "hand the pod's address {} over to the guest",
            address.address
        ),
        source,
    })
}

/// The address is the pod's own again, if its interface is there.
pub(super) fn take_back(
    netlink: &mut NetlinkSocket,
    address: &LocalAddress,
) -> Result<(), NetworkError> {
    let mut step = || {
        let index = Link::find(netlink, &address.interface)?.index;
        let mut request = rt_route::Request::new()
            .set_create()
            .set_excl()
            .op_newroute_do(&local_route());
        request
            .encode()
            .push_dst(IpAddr::V4(address.address))
            .push_oif(index.cast_unsigned())
            .push_prefsrc(IpAddr::V4(address.address));
        netlink.request(&request)?.recv_ack()
    };
    match step() {
        Err(error) if is(&error, Errno::NODEV) || is(&error, Errno::EXIST) => Ok(()),
        result => result.map_err(|source| NetworkError::Link {
            action: format!("take the pod's address {} back", address.address),
            source,
        }),
    }
}

/// `RTN_UNICAST` and `RTN_LOCAL`, `RT_TABLE_LOCAL`, `RT_SCOPE_LINK` and `RT_SCOPE_HOST`,
/// `RTPROT_KERNEL` and `RTPROT_STATIC` (linux/rtnetlink.h).
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const LOCAL_TABLE: u8 = 255;
const LINK_SCOPE: u8 = 253;
const HOST_SCOPE: u8 = 254;
const KERNEL: u8 = 2;
const STATIC: u8 = 4;

fn host_route() -> Rtmsg {
    Rtmsg {
        rtm_family: IPV4,
        rtm_dst_len: 32,
        ..Default::default()
    }
}

/// What the kernel makes of an address by itself.
fn local_route() -> Rtmsg {
    Rtmsg {
        rtm_table: LOCAL_TABLE,
        rtm_protocol: KERNEL,
        rtm_scope: HOST_SCOPE,
        rtm_type: LOCAL,
        ..host_route()
    }
}

/// Deletes the interface `name`, if there is one.
pub(super) fn delete(netlink: &mut NetlinkSocket, name: &str) -> Result<(), NetworkError> {
    let mut step = || {
        let mut request = rt_link::Request::new().op_dellink_do(&Ifinfomsg::default());
        request.encode().push_ifname(&interface_name(name)?);
        netlink.request(&request)?.recv_ack()
    };
    match step() {
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        result => result.map_err(|source| NetworkError::Link {
            action: format!("delete the interface {name}"),
            source,
        }),
    }
}

/// Whether the kernel answered with `errno`.
pub(super) fn is(error: &ReplyError, errno: Errno) -> bool {
    error.as_io_error().raw_os_error() == Some(errno.raw_os_error())
}
