//! The server's answer to a client's request, decided from the request and the lease alone (RFC
//! 8415, 18.3).

use std::net::Ipv6Addr;

use dhcproto::{
    Encodable,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status,
        StatusCode, UnknownOption,
    },
};
use tracing::{debug, warn};

use super::{
    Lease6,
    request::{Association, Dhcp6Request},
};

/// A time without end (RFC 8415, 7.7): the address is the guest's as long as there is a guest.
const FOR_EVER: u32 = u32::MAX;

/// A message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: MessageType,
    pub(super) message: Vec<u8>,
}

/// What the server answers, if anything.
pub(super) fn answer(lease: &Lease6, request: &Dhcp6Request) -> Option<Reply> {
    let kind = kind(lease, request)?;
    let mut message = Message::new_with_id(kind, request.exchange);
    let options = message.opts_mut();
    options.insert(DhcpOption::ServerId(lease.server_id()));
    if let Some(client) = &request.client {
        options.insert(DhcpOption::ClientId(client.clone()));
    }
    match request.kind {
        MessageType::Confirm => {
            let mut addresses = request.associations.iter().flat_map(|it| &it.addresses);
            options.insert(if addresses.all(|address| lease.is_on_link(address)) {
                status(Status::Success)
            } else {
                status(Status::NotOnLink)
            });
        }
        MessageType::Release => options.insert(status(Status::Success)),
        MessageType::Decline => {
            debug!(address = %lease.guest.address, "the guest says that its IPv6 address is in use: look whether it gave the address to two of its interfaces");
            options.insert(status(Status::Success));
        }
        _ => {
            // There is one address to give.
            let mut associations = request.associations.iter();
            options_of_first(associations.next(), lease, request.kind, options);
            for association in associations {
                options.insert(refusal(association));
            }
            configure(options, lease);
        }
    }
    let message = message
        .to_vec()
        .inspect_err(|error| warn!(%error, "cannot write a DHCPv6 message"))
        .ok()?;
    Some(Reply { kind, message })
}

/// Whether the message is to be answered (RFC 8415, 16), and how.
fn kind(lease: &Lease6, request: &Dhcp6Request) -> Option<MessageType> {
    let known = request.client.is_some();
    let ours = request.server.as_ref().map(|id| *id == lease.server_id());
    let wants = !request.associations.is_empty();
    match (request.kind, ours) {
        (MessageType::Solicit, None) if known => Some(MessageType::Advertise),
        (MessageType::Request | MessageType::Renew, Some(true))
        | (MessageType::Release | MessageType::Decline, Some(true))
        | (MessageType::Rebind, None)
            if known =>
        {
            Some(MessageType::Reply)
        }
        // Without addresses there is nothing to confirm.
        (MessageType::Confirm, None) if known && wants => Some(MessageType::Reply),
        (MessageType::InformationRequest, None | Some(true)) if !wants => Some(MessageType::Reply),
        _ => None,
    }
}

fn options_of_first(
    association: Option<&Association>,
    lease: &Lease6,
    kind: MessageType,
    options: &mut DhcpOptions,
) {
    let Some(association) = association else {
        return;
    };
    let mut addresses = vec![address(lease.guest.address, FOR_EVER)];
    // A client keeps what it has until it is told that this has ended.
    if matches!(kind, MessageType::Renew | MessageType::Rebind) {
        let foreign = association.addresses.iter();
        let foreign = foreign.filter(|address| **address != lease.guest.address);
        addresses.extend(foreign.map(|old| address(*old, 0)));
    }
    options.insert(DhcpOption::IANA(IANA {
        id: association.id,
        t1: FOR_EVER,
        t2: FOR_EVER,
        opts: addresses.into_iter().collect(),
    }));
}

fn refusal(association: &Association) -> DhcpOption {
    DhcpOption::IANA(IANA {
        id: association.id,
        t1: 0,
        t2: 0,
        opts: [status(Status::NoAddrsAvail)].into_iter().collect(),
    })
}

fn address(addr: Ipv6Addr, lifetime: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr,
        preferred_life: lifetime,
        valid_life: lifetime,
        opts: DhcpOptions::new(),
    })
}

fn status(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode {
        status,
        msg: String::new(),
    })
}

fn configure(options: &mut DhcpOptions, lease: &Lease6) {
    if !lease.dns.servers6.is_empty() {
        let servers = lease.dns.servers6.clone();
        options.insert(DhcpOption::DomainNameServers(servers));
    }
    if !lease.dns.search.is_empty() {
        options.insert(search(lease));
    }
}

/// The search domains, by hand: the library compresses them, which RFC 8415 (10) forbids.
fn search(lease: &Lease6) -> DhcpOption {
    let mut octets = vec![];
    for label in lease.dns.search.iter().flat_map(|name| {
        // The root ends each name.
        name.iter().chain([&[][..]])
    }) {
        octets.push(u8::try_from(label.len()).unwrap_or_default());
        octets.extend(label);
    }
    DhcpOption::Unknown(UnknownOption::new(OptionCode::DomainSearchList, octets))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use dhcproto::{
        Decodable,
        v6::{DhcpOption, Message, MessageType, OptionCode, Status},
    };

    use super::{Association, Dhcp6Request, Lease6, answer};
    use crate::network::{Dns, GuestNetwork6, derive_mac};

    const OURS: &str = "fd10:0:2::2";
    const FOREIGN: &str = "2001:db8::5";

    fn lease() -> Lease6 {
        Lease6 {
            mac: derive_mac("test"),
            guest: GuestNetwork6::choose(None, &[]).unwrap(),
            dns: Dns::parse(
                "search shop.svc.cluster.local svc.cluster.local\nnameserver fd00:10:96::a",
            ),
        }
    }

    fn association(id: u32, addresses: &[&str]) -> Association {
        Association {
            id,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn request(kind: MessageType, addresses: &[&str]) -> Dhcp6Request {
        use MessageType::{Decline, Release, Renew, Request};
        let chosen = matches!(kind, Request | Renew | Release | Decline);
        Dhcp6Request {
            kind,
            exchange: [1, 2, 3],
            client: Some(vec![0, 4, 7]),
            server: chosen.then(|| lease().server_id()),
            associations: vec![association(9, addresses)],
        }
    }

    fn read(request: &Dhcp6Request) -> Option<Message> {
        let reply = answer(&lease(), request)?;
        let message = Message::from_bytes(&reply.message).unwrap();
        assert_eq!(message.msg_type(), reply.kind);
        assert_eq!(message.xid(), [1, 2, 3]);
        Some(message)
    }

    /// Addresses with their lifetimes.
    fn given(message: &Message) -> Vec<(Ipv6Addr, u32)> {
        let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else {
            return vec![];
        };
        assert_eq!(association.id, 9);
        association
            .opts
            .iter()
            .map(|option| match option {
                DhcpOption::IAAddr(address) => (address.addr, address.valid_life),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn stated(message: &Message) -> Option<Status> {
        match message.opts().get(OptionCode::StatusCode) {
            Some(DhcpOption::StatusCode(code)) => Some(code.status),
            _ => None,
        }
    }

    #[test]
    fn each_message_of_a_client_gets_its_answer() {
        use MessageType::{
            Advertise, Confirm, Decline, Rebind, Release, Renew, Reply, Request, Solicit,
        };
        let ours = (OURS.parse().unwrap(), u32::MAX);
        let ended = (FOREIGN.parse().unwrap(), 0);
        for (kind, wanted, answered, addresses, status) in [
            (Solicit, vec![], Advertise, vec![ours], None),
            (Solicit, vec![FOREIGN], Advertise, vec![ours], None),
            (Request, vec![OURS], Reply, vec![ours], None),
            (Request, vec![FOREIGN], Reply, vec![ours], None),
            (Renew, vec![OURS], Reply, vec![ours], None),
            // From a former life.
            (Renew, vec![FOREIGN], Reply, vec![ours, ended], None),
            (Rebind, vec![FOREIGN, OURS], Reply, vec![ours, ended], None),
            (Confirm, vec![OURS], Reply, vec![], Some(Status::Success)),
            (
                Confirm,
                vec![OURS, FOREIGN],
                Reply,
                vec![],
                Some(Status::NotOnLink),
            ),
            (Release, vec![OURS], Reply, vec![], Some(Status::Success)),
            (Decline, vec![OURS], Reply, vec![], Some(Status::Success)),
        ] {
            let message = read(&request(kind, &wanted)).unwrap();
            assert_eq!(
                (message.msg_type(), given(&message), stated(&message)),
                (answered, addresses, status),
                "{kind:?} {wanted:?}"
            );
            assert_eq!(
                message.opts().get(OptionCode::ClientId),
                Some(&DhcpOption::ClientId(vec![0, 4, 7]))
            );
        }
    }

    #[test]
    fn what_is_not_for_this_server_is_not_answered() {
        use MessageType::{
            Advertise, Confirm, InformationRequest, Rebind, RelayForw, Renew, Reply, Request,
            Solicit,
        };
        let other = |kind, server| Dhcp6Request {
            server,
            ..request(kind, &[OURS])
        };
        for asked in [
            other(Solicit, Some(lease().server_id())),
            other(Request, None),
            other(Request, Some(vec![9; 10])),
            other(Renew, Some(vec![9; 10])),
            other(Rebind, Some(lease().server_id())),
            // Only an exchange about addresses has them.
            other(InformationRequest, None),
            other(Advertise, None),
            other(Reply, None),
            other(RelayForw, None),
            Dhcp6Request {
                client: None,
                ..request(Solicit, &[])
            },
            Dhcp6Request {
                associations: vec![],
                ..request(Confirm, &[])
            },
        ] {
            assert_eq!(read(&asked), None, "{asked:?}");
        }
    }

    #[test]
    fn who_only_wants_to_know_is_told() {
        let asked = Dhcp6Request {
            client: None,
            associations: vec![],
            ..request(MessageType::InformationRequest, &[])
        };
        let message = read(&asked).unwrap();
        assert_eq!(given(&message), vec![]);
        assert_eq!(
            message.opts().get(OptionCode::DomainNameServers),
            Some(&DhcpOption::DomainNameServers(vec![
                "fd00:10:96::a".parse().unwrap()
            ]))
        );
        let Some(DhcpOption::DomainSearchList(search)) =
            message.opts().get(OptionCode::DomainSearchList)
        else {
            panic!("no search domains");
        };
        assert_eq!(search.len(), 2);
        assert_eq!(search[1].to_ascii(), "svc.cluster.local.");
    }

    #[test]
    fn domains_are_not_compressed() {
        let octets = answer(&lease(), &request(MessageType::Solicit, &[]))
            .unwrap()
            .message;
        let count = octets
            .windows(6)
            .filter(|window| window == b"\x05local")
            .count();
        assert_eq!(count, 2);
    }

    #[test]
    fn a_second_association_gets_no_address() {
        let mut asked = request(MessageType::Request, &[]);
        asked.associations.push(association(10, &[]));
        let message = read(&asked).unwrap();
        let all = message.opts().get_all(OptionCode::IANA).unwrap();
        let refused = all.iter().any(|option| {
            matches!(option, DhcpOption::IANA(association) if association.id == 10
                && matches!(association.opts.get(OptionCode::StatusCode),
                    Some(DhcpOption::StatusCode(code)) if code.status == Status::NoAddrsAvail))
        });
        assert!(refused, "{all:?}");
    }
}
