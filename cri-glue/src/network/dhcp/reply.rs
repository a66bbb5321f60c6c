//! The server's answer to a client's request, decided from the request and the lease alone (RFC
//! 2131, 4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::{
    Encodable, Name,
    v4::{
        CLIENT_PORT, DhcpOption, Flags, MIN_PACKET_SIZE, Message, MessageType, Opcode, OptionCode,
        UnknownOption,
    },
};
use ipnet::Ipv4Net;
use tracing::{debug, warn};
use vm_api::machine::MachineDhcp;

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
    if request.mac != lease.mac.bytes() {
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
        tell(&mut message, &lease.more);
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
            debug!(address = %lease.guest.address, "the guest says that its address is in use: look whether it gave the address to two of its interfaces");
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
    if let Some(router) = lease.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
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

/// What the machine's owner wants the guest to be told.
fn tell(message: &mut Message, more: &MachineDhcp) {
    // Boot programs take an address from the header alone.
    if let Some(server) = more.boot_server.as_ref().and_then(|it| it.parse().ok()) {
        message.set_siaddr::<Ipv4Addr>(server);
    }
    let options = message.opts_mut();
    if let Some(file) = &more.boot_file {
        options.insert(DhcpOption::BootfileName(file.as_bytes().to_vec()));
    }
    if let Some(server) = &more.boot_server {
        options.insert(DhcpOption::TFTPServerName(server.as_bytes().to_vec()));
    }
    if !more.time_servers.is_empty() {
        options.insert(DhcpOption::NtpServers(more.time_servers.clone()));
    }
    for (number, value) in &more.private {
        let option = UnknownOption::new(OptionCode::Unknown(*number), value.as_bytes().to_vec());
        options.insert(DhcpOption::Unknown(option));
    }
}

/// Name servers with link-local addresses (as node-local caches have) are looked for on the guest's
/// own link, unless there is a route to them. With such routes, clients ignore the router option
/// (RFC 3442), hence the default route among them.
fn routes(lease: &Lease) -> Option<Vec<(Ipv4Net, Ipv4Addr)>> {
    let mut routes = vec![];
    if let Some(router) = lease.router {
        let servers = lease.dns.servers.iter();
        let local = servers.filter(|server| server.is_link_local());
        routes.extend(local.map(|server| (Ipv4Net::new_assert(*server, 32), router)));
        if !routes.is_empty() && lease.routes.is_empty() {
            routes.push((Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0), router));
        }
    }
    routes.extend(&lease.routes);
    (!routes.is_empty()).then_some(routes)
}

/// The octets of the message. If they are more than the client takes, search domains are left out,
/// from the last, then private options, and then the host name and the rest that a client does without.
fn encode(mut message: Message, lease: &Lease, limit: u16) -> Option<Vec<u8>> {
    let limit = usize::from(limit.min(lease.mtu)).saturating_sub(HEADERS);
    let mut search: Vec<Name> = lease.dns.search.clone();
    let mut private = lease.more.private.keys();
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
            options.remove(OptionCode::DomainSearch);
            if !search.is_empty() {
                options.insert(DhcpOption::DomainSearch(search.clone()));
            }
        } else if let Some(number) = private.next_back() {
            options.remove(OptionCode::Unknown(*number));
        } else {
            options
                .remove(OptionCode::NtpServers)
                .or_else(|| options.remove(OptionCode::Hostname))
                .or_else(|| options.remove(OptionCode::DomainName))
                .or_else(|| options.remove(OptionCode::TFTPServerName))
                .or_else(|| options.remove(OptionCode::BootfileName))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dhcproto::{
        Decodable,
        v4::{DhcpOption, Message, MessageType, OptionCode},
    };
    use vm_api::machine::MachineDhcp;

    use super::{Lease, Reply, answer};
    use crate::network::{Dns, GuestNetwork, derive_mac, dhcp::DhcpRequest};

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn lease() -> Lease {
        Lease {
            mac: derive_mac("test"),
            guest: GuestNetwork::choose(None, &[]).unwrap(),
            router: Some(GATEWAY),
            routes: vec![],
            mtu: 1450,
            dns: Dns::parse("search a.svc.cluster.local cluster.local\nnameserver 10.96.0.10"),
            hostname: "web-0".into(),
            more: MachineDhcp::default(),
        }
    }

    fn request(kind: MessageType) -> DhcpRequest {
        DhcpRequest {
            kind,
            exchange: 7,
            mac: lease().mac.bytes(),
            broadcast: false,
            current: NONE,
            wanted: None,
            server: None,
            limit: 1500,
        }
    }

    fn read(reply: &Reply) -> Message {
        Message::from_bytes(&reply.message).unwrap()
    }

    #[test]
    fn each_state_of_a_client_gets_its_answer() {
        use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        let everybody = Ipv4Addr::BROADCAST;
        let request = |kind, current, wanted, server| DhcpRequest {
            current,
            wanted,
            server,
            ..request(kind)
        };
        for (asked, expected) in [
            // Looking for a server, perhaps with an address in mind.
            (
                request(Discover, NONE, None, None),
                Some((Offer, everybody)),
            ),
            (
                request(Discover, NONE, Some(OTHER), None),
                Some((Offer, everybody)),
            ),
            // Choosing a server.
            (
                request(Request, NONE, Some(OURS), Some(GATEWAY)),
                Some((Ack, everybody)),
            ),
            (
                request(Request, NONE, Some(OTHER), Some(GATEWAY)),
                Some((Nak, everybody)),
            ),
            (request(Request, NONE, Some(OTHER), Some(OTHER)), None),
            // After a reboot, with the address of a former life.
            (
                request(Request, NONE, Some(OURS), None),
                Some((Ack, everybody)),
            ),
            (
                request(Request, NONE, Some(OTHER), None),
                Some((Nak, everybody)),
            ),
            // Renewing.
            (request(Request, OURS, None, None), Some((Ack, OURS))),
            (request(Request, OTHER, None, None), Some((Nak, everybody))),
            (request(Inform, OURS, None, None), Some((Ack, OURS))),
            (request(Decline, NONE, Some(OURS), Some(GATEWAY)), None),
            (request(Release, OURS, None, Some(GATEWAY)), None),
            (request(Offer, NONE, None, None), None),
        ] {
            let reply = answer(&lease(), &asked);
            assert_eq!(
                reply.map(|reply| (reply.kind, *reply.to.ip())),
                expected,
                "{asked:?}"
            );
        }
    }

    #[test]
    fn another_interface_of_the_guest_gets_nothing() {
        let asked = DhcpRequest {
            mac: [2, 0, 0, 0, 0, 1],
            ..request(MessageType::Discover)
        };
        assert_eq!(answer(&lease(), &asked), None);
    }

    #[test]
    fn an_offer_carries_the_whole_configuration() {
        let message = read(&answer(&lease(), &request(MessageType::Discover)).unwrap());
        assert_eq!((message.yiaddr(), message.xid()), (OURS, 7));
        let options: Vec<DhcpOption> = message
            .opts()
            .iter()
            .map(|(_, option)| option.clone())
            .collect();
        insta::assert_debug_snapshot!(options);
    }

    #[test]
    fn what_the_owner_wants_is_told_as_far_as_the_client_takes_it() {
        let more = MachineDhcp {
            boot_file: Some("pxelinux.0".into()),
            boot_server: Some("192.0.2.9".into()),
            time_servers: vec![Ipv4Addr::new(192, 0, 2, 3)],
            private: (224..=254).map(|number| (number, "x".repeat(40))).collect(),
        };
        let lease = Lease { more, ..lease() };
        let message = read(&answer(&lease, &request(MessageType::Discover)).unwrap());
        assert_eq!(message.siaddr(), Ipv4Addr::new(192, 0, 2, 9));
        let told = |code| message.opts().get(code).is_some();
        assert!(told(OptionCode::BootfileName) && told(OptionCode::TFTPServerName));
        assert!(told(OptionCode::NtpServers) && told(OptionCode::Unknown(224)));
        assert!(
            !told(OptionCode::Unknown(254)),
            "there is no room for all of them"
        );
        let small = DhcpRequest {
            limit: 576,
            ..request(MessageType::Discover)
        };
        let reply = answer(&lease, &small).unwrap();
        assert!(reply.message.len() <= 548);
        let message = read(&reply);
        assert!(message.opts().get(OptionCode::BootfileName).is_some());
        assert!(message.opts().get(OptionCode::Router).is_some());
    }

    #[test]
    fn who_only_wants_to_know_gets_no_lease() {
        let asked = DhcpRequest {
            current: OURS,
            ..request(MessageType::Inform)
        };
        let message = read(&answer(&lease(), &asked).unwrap());
        assert_eq!((message.yiaddr(), message.ciaddr()), (NONE, OURS));
        assert_eq!(message.opts().get(OptionCode::AddressLeaseTime), None);
        assert!(message.opts().get(OptionCode::Router).is_some());
    }

    #[test]
    fn a_refusal_carries_no_configuration() {
        let asked = DhcpRequest {
            wanted: Some(OTHER),
            ..request(MessageType::Request)
        };
        let message = read(&answer(&lease(), &asked).unwrap());
        assert_eq!(message.yiaddr(), NONE);
        assert_eq!(message.opts().get(OptionCode::Router), None);
    }

    #[test]
    fn a_message_is_never_larger_than_the_client_takes() {
        let search: Vec<String> = (0..30)
            .map(|number| format!("{}.number-{number}.example", "x".repeat(40)))
            .collect();
        let mut lease = lease();
        lease.dns = Dns::parse(&format!(
            "nameserver 10.96.0.10\nsearch {}",
            search.join(" ")
        ));
        let asked = DhcpRequest {
            limit: 576,
            ..request(MessageType::Discover)
        };
        let reply = answer(&lease, &asked).unwrap();
        assert!(
            reply.message.len() <= 576 - 28,
            "{} octets",
            reply.message.len()
        );
        let message = read(&reply);
        let Some(DhcpOption::DomainSearch(kept)) = message.opts().get(OptionCode::DomainSearch)
        else {
            panic!("all domains are gone");
        };
        assert!(kept.len() > 2 && kept[..] == lease.dns.search[..kept.len()]);
        assert!(message.opts().get(OptionCode::Hostname).is_some());
    }

    #[test]
    fn a_small_message_is_filled_up_to_the_size_of_bootp() {
        let mut lease = lease();
        (lease.dns, lease.hostname) = (Dns::default(), String::new());
        let asked = DhcpRequest {
            wanted: Some(OTHER),
            ..request(MessageType::Request)
        };
        assert_eq!(answer(&lease, &asked).unwrap().message.len(), 300);
    }
}
