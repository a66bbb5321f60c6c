//! Router advertisements as octets (RFC 4861, 4.2), and solicitations recognised.

use ipnet::Ipv6Net;

use super::Advertised;

/// Types of ICMPv6 messages (RFC 4861, 4.1 and 4.2).
pub(super) const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

/// Smallest solicitation, in octets (RFC 4861, 6.1.1).
const SMALLEST_SOLICITATION: usize = 8;

/// What hosts begin their packets' hop limit with (IANA, IP parameters).
const HOP_LIMIT: u8 = 64;
/// Addresses come by DHCPv6, and so does other configuration (RFC 4861, 4.2: flags M and O).
const MANAGED: u8 = 0x80 | 0x40;
/// How long a guest keeps the route that it hears of, in seconds: the longest (RFC 4861, 6.2.1).
const ROUTE_LIFETIME: u16 = 9000;
/// Hosts of the prefix are on the link (RFC 4861, 4.6.2: flag L); they make no addresses of it.
const ON_LINK: u8 = 0x80;
const FOR_EVER: u32 = u32::MAX;

/// Types of options (RFC 4861, 4.6; RFC 8106, 5.1).
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const NAME_SERVERS: u8 = 25;
/// (RFC 4191, 2.3.)
const ROUTE: u8 = 24;

/// Name servers that are told of. Resolvers use three.
const MOST_NAME_SERVERS: usize = 8;

/// Routes that are told of, so that the message fits the smallest MTU of IPv6.
const MOST_ROUTES: usize = 32;

/// Whether the guest asks for an advertisement. What options it brings does not matter.
pub(super) fn is_solicitation(octets: &[u8]) -> bool {
    octets.len() >= SMALLEST_SOLICITATION && octets[..2] == [SOLICITATION, 0]
}

/// The advertisement as octets; the kernel fills the checksum in.
pub(super) fn advertisement(advertised: &Advertised) -> Vec<u8> {
    let Advertised {
        guest,
        mtu,
        servers,
        routes,
    } = advertised;
    // Without one, this is no default router.
    let lifetime = if routes.is_none() { ROUTE_LIFETIME } else { 0 };
    let mut octets = vec![ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, MANAGED];
    octets.extend(lifetime.to_be_bytes());
    // Times of neighbour discovery: hosts choose.
    octets.extend([0; 8]);
    option(&mut octets, MTU, |octets| {
        octets.extend([0; 2]);
        octets.extend(u32::from(*mtu).to_be_bytes());
    });
    option(&mut octets, PREFIX, |octets| {
        octets.extend([guest.network.prefix_len(), ON_LINK]);
        // Valid, and preferred.
        octets.extend([FOR_EVER.to_be_bytes(); 2].concat());
        octets.extend([0; 4]);
        octets.extend(guest.network.network().octets());
    });
    for route in routes.iter().flatten().take(MOST_ROUTES) {
        option(&mut octets, ROUTE, |octets| {
            route_information(octets, *route)
        });
    }
    if !servers.is_empty() {
        option(&mut octets, NAME_SERVERS, |octets| {
            octets.extend([0; 2]);
            octets.extend(FOR_EVER.to_be_bytes());
            for server in servers.iter().take(MOST_NAME_SERVERS) {
                octets.extend(server.octets());
            }
        });
    }
    octets
}

fn route_information(octets: &mut Vec<u8>, route: Ipv6Net) {
    const MEDIUM_PREFERENCE: u8 = 0;
    octets.extend([route.prefix_len(), MEDIUM_PREFERENCE]);
    octets.extend(u32::from(ROUTE_LIFETIME).to_be_bytes());
    octets.extend(route.network().octets());
}

/// Appends an option; its content, with the two octets before it, fills units of eight.
fn option(octets: &mut Vec<u8>, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
    const UNIT: usize = 8;
    let start = octets.len();
    octets.extend([kind, 0]);
    content(octets);
    let units = (octets.len() - start).div_ceil(UNIT);
    octets.resize(start + units * UNIT, 0);
    octets[start + 1] = u8::try_from(units).expect("options have a few units");
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::{Advertised, MOST_NAME_SERVERS, MOST_ROUTES, advertisement, is_solicitation};
    use crate::network::GuestNetwork6;

    fn advertised(mtu: u16, servers: Vec<Ipv6Addr>) -> Advertised {
        let guest = GuestNetwork6::choose(None, &[]).unwrap();
        Advertised {
            guest,
            mtu,
            servers,
            routes: None,
        }
    }

    fn hex(octets: &[u8]) -> String {
        let unit = |unit: &[u8]| unit.iter().map(|octet| format!("{octet:02x}")).collect();
        let units: Vec<String> = octets.chunks(8).map(unit).collect();
        units.join("\n")
    }

    #[test]
    fn an_advertisement_says_it_all() {
        let server = "fd00:10:96::a".parse().unwrap();
        let octets = advertisement(&advertised(1450, vec![server]));
        insta::assert_snapshot!(hex(&octets), @r"
        8600000040c02328
        0000000000000000
        05010000000005aa
        03047880ffffffff
        ffffffff00000000
        fd10000000020000
        0000000000000000
        19030000ffffffff
        fd00001000960000
        000000000000000a
        ");
    }

    #[test]
    fn the_most_name_servers_fit() {
        let octets = advertisement(&advertised(1280, vec![Ipv6Addr::LOCALHOST; 300]));
        assert_eq!(octets.len(), 16 + 8 + 32 + 8 + 16 * MOST_NAME_SERVERS);
    }

    #[test]
    fn a_further_interface_is_the_way_to_its_own_network_alone() {
        let route = "fd00:8::/64".parse().unwrap();
        let further = |routes| Advertised {
            routes: Some(routes),
            ..advertised(1500, vec![])
        };
        let octets = advertisement(&further(vec![route]));
        insta::assert_snapshot!(hex(&octets), @r"
        8600000040c00000
        0000000000000000
        05010000000005dc
        03047880ffffffff
        ffffffff00000000
        fd10000000020000
        0000000000000000
        1803400000002328
        fd00000800000000
        0000000000000000
        ");
        let most = advertisement(&further(vec![route; 300]));
        assert_eq!(most.len(), 16 + 8 + 32 + 24 * MOST_ROUTES);
        assert!(most.len() < 1280 - 40);
    }

    #[test]
    fn only_a_solicitation_is_one() {
        assert!(is_solicitation(&[133, 0, 9, 9, 0, 0, 0, 0]));
        assert!(is_solicitation(&[133, 0, 9, 9, 0, 0, 0, 0, 1, 1]));
        for other in [
            &[][..],
            &[133, 0, 9, 9],
            &[133, 1, 9, 9, 0, 0, 0, 0],
            &[134, 0, 9, 9, 0, 0, 0, 0],
        ] {
            assert!(!is_solicitation(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_header_decides(
            octets in prop::collection::vec(any::<u8>(), 0..40), header: bool
        ) {
            let mut octets = octets;
            if header && octets.len() >= 2 {
                octets[..2].copy_from_slice(&[133, 0]);
            }
            let expected = octets.len() >= 8 && octets[0] == 133 && octets[1] == 0;
            prop_assert_eq!(is_solicitation(&octets), expected);
        }
    }
}
