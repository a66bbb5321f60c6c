//! Changes to network interfaces by rtnetlink: the tap gets the gateway's address and comes up, and
//! goes again.

use ipnet::IpNet;
use netlink_bindings::{
    rt_addr::{self, Ifaddrmsg},
    rt_link::{self, IfinfoFlags, Ifinfomsg},
};
use netlink_socket2::{NetlinkSocket, ReplyError};
use rustix::io::Errno;

use super::{
    NetworkError,
    pod::{IPV4, IPV6, Link, interface_name},
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
