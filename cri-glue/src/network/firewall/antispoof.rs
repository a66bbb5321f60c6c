//! What is believed of a packet's sender, in the pod's own rules: a guest speaks for itself alone.
//!
//! Each sender that the kernel believes may become an entry of its table of neighbours, which all pods
//! of the node share (`neigh/default/gc_thresh3`): a guest that invented senders would fill it for all.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::rules::{
    Action, Carried, Chain, Hook, Icmp6, Kind, Match, Point, Set, SourceSet, host, rule,
};
use crate::network::{GuestNetwork, GuestNetwork6, guest::ROUTER};

pub(super) const LOOPBACK: &str = "lo";
pub(super) const LOOPBACK_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
/// Groups of hosts on one link (RFC 4291, 2.7).
const LINK_GROUPS: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16);

/// Set of the addresses that the guest has made for itself.
const OWN: &str = "own";

/// The most of them at a time. A system has one or two; the firmware, the boot loader and the system
/// that follows may each have another, and so may the next boot.
const MOST_OWN: u32 = 16;

/// Seconds until one that is not used any more makes room for another.
const OWN_SECONDS: u32 = 600;

/// Before connections are tracked.
pub(super) const RAW: Option<Hook> = Some(Hook {
    kind: Kind::Raw,
    point: Point::Prerouting,
});

/// Loopback addresses are only believed from the loopback interface (`route_localnet` makes the
/// kernel lenient on the tap), and the guest speaks for nobody but itself.
pub(super) fn ip(tap: &str, guest: &GuestNetwork) -> Chain {
    let from_anyone = host(Ipv4Addr::UNSPECIFIED);
    let to_everyone = host(Ipv4Addr::BROADCAST);
    let dhcp = Match::IsUdp {
        source: 68,
        destination: 67,
    };
    Chain {
        name: "antispoof",
        hook: RAW,
        rules: vec![
            rule([Match::InputIs(LOOPBACK.into())], Action::Accept),
            rule([Match::SourceIn(LOOPBACK_NET.into())], Action::Drop),
            rule([Match::DestinationIn(LOOPBACK_NET.into())], Action::Drop),
            rule([Match::InputIsNot(tap.into())], Action::Accept),
            rule([Match::SourceIn(host(guest.address))], Action::Accept),
            rule(
                [
                    Match::SourceIn(from_anyone),
                    Match::DestinationIn(to_everyone),
                    dhcp,
                ],
                Action::Accept,
            ),
            rule([], Action::Drop),
        ],
    }
}

/// The same below IP, by which neighbours are known.
pub(super) fn arp(tap: &str, guest: &GuestNetwork) -> Chain {
    let arp = || Match::Carries(Carried::Arp);
    let from = |address| rule([arp(), Match::ArpSourceIs(address)], Action::Accept);
    Chain {
        name: "from-guest",
        hook: Some(Hook {
            kind: Kind::Filter,
            point: Point::Ingress(tap.to_owned()),
        }),
        rules: vec![
            from(guest.address),
            // Looking whether an address is free.
            from(Ipv4Addr::UNSPECIFIED),
            rule([arp()], Action::Drop),
        ],
    }
}

/// The same for IPv6. On the link, a guest has addresses of its own making (RFC 4862), but not any
/// number of them; it is not the link's router, nor does it say who is, and it calls nobody on the
/// link who is not there.
pub(super) fn ip6(tap: &str, guest: &GuestNetwork6) -> Chain {
    let localhost = || host(Ipv6Addr::LOCALHOST);
    let own_to = |destinations: Ipv6Net| {
        rule(
            [
                Match::SourceIn(LINK_LOCAL.into()),
                Match::DestinationIn(destinations.into()),
                Match::SourceAmong(OWN),
            ],
            Action::Accept,
        )
    };
    Chain {
        name: "antispoof",
        hook: RAW,
        rules: vec![
            rule([Match::InputIs(LOOPBACK.into())], Action::Accept),
            rule([Match::SourceIn(localhost())], Action::Drop),
            rule([Match::DestinationIn(localhost())], Action::Drop),
            rule([Match::InputIsNot(tap.into())], Action::Accept),
            rule([Match::Icmp6Is(Icmp6::RouterAdvertisement)], Action::Drop),
            rule([Match::Icmp6Is(Icmp6::Redirect)], Action::Drop),
            rule(
                [
                    Match::DestinationIn(guest.network.into()),
                    Match::DestinationNotIn(host(guest.gateway)),
                ],
                Action::Drop,
            ),
            rule([Match::SourceIn(host(guest.address))], Action::Accept),
            rule([Match::SourceIn(host(ROUTER))], Action::Drop),
            own_to(LINK_LOCAL),
            own_to(LINK_GROUPS),
            // Looking whether an address is free, before having one.
            rule(
                [
                    Match::SourceIn(host(Ipv6Addr::UNSPECIFIED)),
                    Match::DestinationIn(LINK_GROUPS.into()),
                    Match::IsIcmp6,
                ],
                Action::Accept,
            ),
            rule([], Action::Drop),
        ],
    }
}

/// The set that goes with [`ip6`].
pub(super) fn sources() -> Set {
    Set::Sources(SourceSet {
        name: OWN,
        most: MOST_OWN,
        seconds: OWN_SECONDS,
    })
}
