//! The server's answer to a client's request, decided from the request and the lease alone (RFC
//! 2131, 4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::{
    Encodable, Name,
    v4::{CLIENT_PORT, DhcpOption, Flags, MIN_PACKET_SIZE, Message, MessageType, Opcode},
};
use ipnet::Ipv4Net;
use tracing::warn;

use super::{Lease, request::DhcpRequest};

/// A lease without end (RFC 2131, 3.3): the address is the guest's as long as there is a guest.
const FOR_EVER: u32 = u32::MAX;

/// IP and UDP headers, in octets, which count for the limits of a message.
const HEADERS: usize = 28;

/// A message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: MessageType,
    pub(super) message: Vec<u8>,
    pub(super) to: SocketAddrV4,
}

/// What the server answers, if anything.
pub(super) fn answer(lease: &Lease, request: &DhcpRequest) -> Option<Reply> {
    // There is one address to give. To hand it to a second client (a bridge in the guest may bring
    // one) would break both.
    if request.mac != lease.mac.octets() {
        return None;
    }
    let kind = decide(lease, request)?;
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootReply)
        .set_xid(request.exchange)
        .set_chaddr(&request.mac)
        .set_flags(if request.broadcast {
            Flags::default().set_broadcast()
        } else {
            Flags::default()
        });
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(lease.guest.gateway));
    if kind != MessageType::Nak {
        configure(&mut message, lease);
        message.set_ciaddr(request.current);
    }
    if kind == MessageType::Offer
        || (kind == MessageType::Ack && request.kind == MessageType::Request)
    {
        message.set_yiaddr(lease.guest.address);
        message
            .opts_mut()
            .insert(DhcpOption::AddressLeaseTime(FOR_EVER));
    }
    // A client that has its address hears what is sent there. One that has none hears a broadcast,
    // whatever its flags say (RFC 2131, 4.1).
    let to = if kind != MessageType::Nak && request.current == lease.guest.address {
        request.current
    } else {
        Ipv4Addr::BROADCAST
    };
    Some(Reply {
        kind,
        message: encode(message, lease, request.limit)?,
        to: SocketAddrV4::new(to, CLIENT_PORT),
    })
}

fn decide(lease: &Lease, request: &DhcpRequest) -> Option<MessageType> {
    let for_us = request
        .server
        .is_none_or(|server| server == lease.guest.gateway);
    match request.kind {
        MessageType::Discover => Some(MessageType::Offer),
        MessageType::Request if !for_us => None,
        MessageType::Request => {
            let wanted = request.wanted.unwrap_or(request.current);
            Some(if wanted == lease.guest.address {
                MessageType::Ack
            } else {
                MessageType::Nak
            })
        }
        MessageType::Inform => Some(MessageType::Ack),
        MessageType::Decline => {
            warn!(address = %lease.guest.address, "the guest says that its address is in use: look whether it gave the address to two of its interfaces");
            None
        }
        _ => None,
    }
}

fn configure(message: &mut Message, lease: &Lease) {
    let guest = &lease.guest;
    let options = message.opts_mut();
    options.insert(DhcpOption::SubnetMask(guest.network.netmask()));
    options.insert(DhcpOption::BroadcastAddr(guest.network.broadcast()));
    options.insert(DhcpOption::Router(vec![guest.gateway]));
    options.insert(DhcpOption::InterfaceMtu(lease.mtu));
    if let Some(routes) = routes(lease) {
        options.insert(DhcpOption::ClasslessStaticRoute(routes));
    }
    if !lease.dns.servers.is_empty() {
        options.insert(DhcpOption::DomainNameServer(lease.dns.servers.clone()));
    }
    if let Some(domain) = lease.dns.search.first() {
        options.insert(DhcpOption::DomainName(
            domain.to_ascii().trim_end_matches('.').to_owned(),
        ));
        options.insert(DhcpOption::DomainSearch(lease.dns.search.clone()));
    }
    if !lease.hostname.is_empty() {
        options.insert(DhcpOption::Hostname(lease.hostname.clone()));
    }
}

/// Name servers with link-local addresses (as node-local caches have) are looked for on the guest's
/// own link, unless there is a route to them. With such routes, clients ignore the router option
/// (RFC 3442), hence the default route among them.
fn routes(lease: &Lease) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let local: Vec<_> = lease
        .dns
        .servers
        .iter()
        .filter(|server| server.is_link_local())
        .map(|server| Ipv4Net::new_assert(*server, 32))
        .collect();
    let default = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
    (!local.is_empty()).then(|| {
        local
            .into_iter()
            .chain([default])
            .map(|destination| (destination, lease.guest.gateway))
            .collect()
    })
}

/// The octets of the message. If they are more than the client takes, search domains are left out,
/// from the last, and then the host name.
fn encode(mut message: Message, lease: &Lease, limit: u16) -> Option<Vec<u8>> {
    let limit = usize::from(limit.min(lease.mtu)).saturating_sub(HEADERS);
    let mut search: Vec<Name> = lease.dns.search.clone();
    loop {
        let mut octets = message
            .to_vec()
            .inspect_err(|error| warn!(%error, "cannot write a DHCP message"))
            .ok()?;
        if octets.len() <= limit {
            // Some clients and relays take no less than BOOTP's size.
            octets.resize(octets.len().max(MIN_PACKET_SIZE), 0);
            return Some(octets);
        }
        let options = message.opts_mut();
        if search.pop().is_some() {
            options.remove(dhcproto::v4::OptionCode::DomainSearch);
            if !search.is_empty() {
                options.insert(DhcpOption::DomainSearch(search.clone()));
            }
        } else {
            options
                .remove(dhcproto::v4::OptionCode::Hostname)
                .or_else(|| options.remove(dhcproto::v4::OptionCode::DomainName))?;
        }
    }
}
