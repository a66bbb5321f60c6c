//! What a client asks for, read from the octets of its message. The guest is hostile: whatever it
//! sends, reading ends in a request or in nothing.

use std::net::Ipv4Addr;

use dhcproto::v4::{HType, MessageType, Opcode, OptionCode, borrowed::Message};

/// Octets of an Ethernet address.
const ETHERNET_SIZE: u8 = 6;

/// Smallest message that every client takes, in octets with IP and UDP headers (RFC 2131, 2).
const SMALLEST_LIMIT: u16 = 576;

/// A client's message, as far as the server heeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DhcpRequest {
    pub(super) kind: MessageType,
    /// The client's mark on this exchange.
    pub(super) exchange: u32,
    pub(super) mac: [u8; 6],
    /// Whether the client asked for broadcast answers.
    pub(super) broadcast: bool,
    /// The address that the client uses already, else 0.0.0.0.
    pub(super) current: Ipv4Addr,
    /// The address that the client wants.
    pub(super) wanted: Option<Ipv4Addr>,
    /// The server that the client chose.
    pub(super) server: Option<Ipv4Addr>,
    /// Largest message that the client takes, in octets with IP and UDP headers.
    pub(super) limit: u16,
}

impl DhcpRequest {
    /// Reads a message; none if it is malformed, or no client's on an Ethernet without relay.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let message = Message::new(octets).ok()?;
        let from_client =
            message.opcode() == Opcode::BootRequest && message.giaddr().is_unspecified();
        // The length comes first: with another one, the library reads beyond the address.
        if !from_client || message.htype() != HType::Eth || message.hlen() != ETHERNET_SIZE {
            return None;
        }
        let mac = message.chaddr().try_into().ok()?;
        let (mut kind, mut wanted, mut server, mut limit) = (None, None, None, SMALLEST_LIMIT);
        for option in message.opts() {
            match option.code() {
                OptionCode::MessageType => {
                    kind = Some(MessageType::from(u8::from_be_bytes(
                        option.data().try_into().ok()?,
                    )))
                }
                OptionCode::RequestedIpAddress => wanted = Some(address(option.data())?),
                OptionCode::ServerIdentifier => server = Some(address(option.data())?),
                OptionCode::MaxMessageSize => {
                    limit = u16::from_be_bytes(option.data().try_into().ok()?).max(SMALLEST_LIMIT)
                }
                _ => {}
            }
        }
        Some(Self {
            kind: kind?,
            exchange: message.xid(),
            mac,
            broadcast: message.flags().broadcast(),
            current: message.ciaddr(),
            wanted,
            server,
            limit,
        })
    }
}

fn address(octets: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use dhcproto::{
        Encodable,
        v4::{DhcpOption, Message, MessageType},
    };
    use proptest::prelude::*;

    use super::DhcpRequest;

    fn discover() -> Vec<u8> {
        let mut message = Message::default();
        message.set_xid(7).set_chaddr(&[2, 0, 0, 0, 0, 1]);
        message
            .opts_mut()
            .insert(DhcpOption::MessageType(MessageType::Discover));
        message
            .opts_mut()
            .insert(DhcpOption::RequestedIpAddress([10, 0, 2, 2].into()));
        message.opts_mut().insert(DhcpOption::MaxMessageSize(1400));
        message.to_vec().unwrap()
    }

    #[test]
    fn a_clients_wishes_are_read() {
        let request = DhcpRequest::parse(&discover()).unwrap();
        assert_eq!(
            (request.kind, request.exchange, request.mac),
            (MessageType::Discover, 7, [2, 0, 0, 0, 0, 1])
        );
        assert_eq!(
            (request.wanted, request.limit),
            (Some([10, 0, 2, 2].into()), 1400)
        );
    }

    #[test]
    fn an_address_of_another_length_is_malformed() {
        for length in [0, 5, 7, 16, 17, 255] {
            let mut octets = discover();
            octets[2] = length;
            assert_eq!(DhcpRequest::parse(&octets), None, "length {length}");
        }
    }

    #[test]
    fn what_comes_by_a_relay_or_from_a_server_is_ignored() {
        for (offset, value) in [(0, 2), (1, 6), (24, 10)] {
            let mut octets = discover();
            octets[offset] = value;
            assert_eq!(DhcpRequest::parse(&octets), None, "octet {offset}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = DhcpRequest::parse(&octets);
        }

        #[test]
        fn no_options_make_it_panic(options in prop::collection::vec(any::<u8>(), 0..600), cut in 0_usize..1500) {
            let mut octets = discover();
            octets.truncate(240);
            octets.extend(options);
            octets.truncate(cut);
            let _ = DhcpRequest::parse(&octets);
        }
    }
}
