//! What a client asks for, read from the octets of its message (RFC 8415, 8 and 21). The guest is
//! hostile: whatever it sends, reading ends in a request or in nothing, takes time in proportion to
//! the message, and looks no deeper than to the addresses of an association.

use std::net::Ipv6Addr;

use dhcproto::v6::{MessageType, OptionCode};

/// Longest identifier of a client or server, in octets with its type (RFC 8415, 11.1).
const LONGEST_ID: usize = 130;

/// Octets before the options of an association: its id and two times (RFC 8415, 21.4).
const ASSOCIATION_HEADER: usize = 12;

/// Octets before the options of an address: it and two lifetimes (RFC 8415, 21.6).
const ADDRESS_HEADER: usize = 24;

/// Associations of one message that are answered, and addresses of one association. Clients have
/// one of each.
const MOST: usize = 8;

/// A client's message, as far as the server heeds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dhcp6Request {
    pub(super) kind: MessageType,
    /// The client's mark on this exchange.
    pub(super) exchange: [u8; 3],
    /// Who asks, to be handed back as it is.
    pub(super) client: Option<Vec<u8>>,
    /// The server that the client chose.
    pub(super) server: Option<Vec<u8>>,
    /// What the client wants addresses for.
    pub(super) associations: Vec<Association>,
}

/// Something of the client's that wants an address (RFC 8415, 12: IA_NA).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Association {
    pub(super) id: u32,
    /// Addresses that the client uses, or would like.
    pub(super) addresses: Vec<Ipv6Addr>,
}

impl Dhcp6Request {
    /// Reads a message; none if it is malformed.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let (header, options) = octets.split_first_chunk::<4>()?;
        let [kind, exchange @ ..] = *header;
        let mut request = Self {
            kind: MessageType::from(kind),
            exchange,
            client: None,
            server: None,
            associations: vec![],
        };
        for option in Options(options) {
            let (code, data) = option?;
            match code {
                OptionCode::ClientId => request.client = Some(identifier(data)?),
                OptionCode::ServerId => request.server = Some(identifier(data)?),
                OptionCode::IANA if request.associations.len() < MOST => {
                    request.associations.push(Association::parse(data)?);
                }
                _ => {}
            }
        }
        Some(request)
    }
}

impl Association {
    fn parse(octets: &[u8]) -> Option<Self> {
        let (header, options) = octets.split_first_chunk::<ASSOCIATION_HEADER>()?;
        let mut addresses = vec![];
        for option in Options(options) {
            let (code, data) = option?;
            if code == OptionCode::IAAddr && addresses.len() < MOST {
                let (address, _) = data.split_first_chunk::<ADDRESS_HEADER>()?;
                addresses.push(Ipv6Addr::from(*address.first_chunk()?));
            }
        }
        Some(Self {
            id: u32::from_be_bytes(*header.first_chunk()?),
            addresses,
        })
    }
}

fn identifier(octets: &[u8]) -> Option<Vec<u8>> {
    (1..=LONGEST_ID)
        .contains(&octets.len())
        .then(|| octets.to_vec())
}

/// Options with their codes and contents; none and an end where they are cut off.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(OptionCode, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let octets = std::mem::take(&mut self.0);
        let read = || {
            let ([a, b, c, d], rest) = octets.split_first_chunk::<4>()?;
            let size = usize::from(u16::from_be_bytes([*c, *d]));
            let (data, rest) = rest.split_at_checked(size)?;
            Some((u16::from_be_bytes([*a, *b]).into(), data, rest))
        };
        let Some((code, data, rest)) = read() else {
            return Some(None);
        };
        self.0 = rest;
        Some(Some((code, data)))
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::{
        Encodable,
        v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType},
    };
    use proptest::prelude::*;

    use super::{Association, Dhcp6Request, MOST};

    fn address(last: u16) -> DhcpOption {
        DhcpOption::IAAddr(IAAddr {
            addr: [0xfd10, 0, 2, 0, 0, 0, 0, last].into(),
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        })
    }

    fn association(id: u32, addresses: u16) -> DhcpOption {
        DhcpOption::IANA(IANA {
            id,
            t1: 0,
            t2: 0,
            opts: (0..addresses).map(address).collect(),
        })
    }

    fn message(kind: MessageType, options: impl IntoIterator<Item = DhcpOption>) -> Vec<u8> {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        message.set_opts(options.into_iter().collect());
        message.to_vec().unwrap()
    }

    #[test]
    fn a_clients_wishes_are_read() {
        let octets = message(
            MessageType::Request,
            [
                DhcpOption::ClientId(vec![1; 14]),
                DhcpOption::ServerId(vec![2; 10]),
                DhcpOption::ElapsedTime(3),
                association(9, 2),
            ],
        );
        assert_eq!(
            Dhcp6Request::parse(&octets).unwrap(),
            Dhcp6Request {
                kind: MessageType::Request,
                exchange: [1, 2, 3],
                client: Some(vec![1; 14]),
                server: Some(vec![2; 10]),
                associations: vec![Association {
                    id: 9,
                    addresses: vec![
                        "fd10:0:2::".parse().unwrap(),
                        "fd10:0:2::1".parse().unwrap()
                    ],
                }],
            }
        );
    }

    #[test]
    fn a_message_cut_off_is_malformed() {
        let octets = message(
            MessageType::Solicit,
            [DhcpOption::ClientId(vec![1; 14]), association(9, 1)],
        );
        let whole = [0, 4, 4 + 4 + 14, octets.len()];
        for size in 0..=octets.len() {
            let read = Dhcp6Request::parse(&octets[..size]).is_some();
            assert_eq!(read, whole[1..].contains(&size), "{size} octets");
        }
    }

    #[test]
    fn an_identifier_has_its_bounds() {
        for (size, allowed) in [(0, false), (1, true), (130, true), (131, false)] {
            let octets = message(MessageType::Solicit, [DhcpOption::ClientId(vec![1; size])]);
            assert_eq!(Dhcp6Request::parse(&octets).is_some(), allowed, "{size}");
        }
    }

    #[test]
    fn no_more_is_read_than_clients_need() {
        let octets = message(
            MessageType::Request,
            (0..20).map(|number| association(number, 20)),
        );
        let request = Dhcp6Request::parse(&octets).unwrap();
        assert_eq!(request.associations.len(), MOST);
        assert_eq!(request.associations[0].addresses.len(), MOST);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = Dhcp6Request::parse(&octets);
        }

        #[test]
        fn no_options_make_it_panic(options in prop::collection::vec((0_u16..30, prop::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..20)) {
            let mut octets = vec![1, 0, 0, 7];
            for (code, data, lie) in options {
                octets.extend(code.to_be_bytes());
                octets.extend((data.len() as u16 + u16::from(lie)).to_be_bytes());
                octets.extend(data);
            }
            let _ = Dhcp6Request::parse(&octets);
        }
    }
}
