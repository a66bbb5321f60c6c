//! The rules of a machine behind its pod's address: what reaches the guest, where its packets may
//! go, and which addresses they carry. They are the same for IPv4 and IPv6, but for how a guest gets
//! its address and for the pod's localhost.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
};

use super::{
    antispoof::{self, LOOPBACK_NET},
    rules::{
        Action, Chain, Family, Hook, Icmp6, Kind, Match, Point, PortSet, Set, Table, host, rule,
    },
};
use crate::network::{GuestNetwork, GuestNetwork6, Inbound, Port, Protocol, tap};

/// Chain that hands a connection to the guest, unless its port stays with the pod.
pub(super) const TO_GUEST: &str = "to-guest";
/// Chain that hands a connection to the relay of the pod's localhost likewise.
const TO_RELAY: &str = "to-relay";
/// Set of the ports that stay with the pod.
pub(super) const KEPT: &str = "kept";
/// Set of the ports that the machine was asked to serve.
const SERVED: &str = "served";

/// DHCP is a matter between the guest and us; the pod's network never takes part.
const DHCP_PORTS: [Port; 2] = [udp(67), udp(68)];
const DHCP6_PORTS: [Port; 2] = [udp(546), udp(547)];

/// What the rules depend on.
pub(in crate::network) struct Masquerade<'a> {
    /// The pod's interface.
    pub(in crate::network) pod: &'a str,
    /// The addresses of the pod's interface, of the same family.
    pub(in crate::network) pod_addresses: Vec<IpAddr>,
    pub(in crate::network) tap: &'a str,
    pub(in crate::network) table: &'a str,
    /// Whether the pod's localhost is the guest's.
    pub(in crate::network) localhost: bool,
    pub(in crate::network) link: Link,
    pub(in crate::network) inbound: &'a Inbound,
    /// Ports that other containers declare.
    pub(in crate::network) others: &'a [Port],
}

/// The link between guest and gateway.
pub(in crate::network) enum Link {
    V4(GuestNetwork),
    V6 {
        guest: GuestNetwork6,
        /// Port of the relay of the pod's localhost, if that is the guest's.
        relay: Option<u16>,
        /// Whether the pod forwards packets for the guest's sake alone.
        forwards_for_guest: bool,
    },
}

impl Masquerade<'_> {
    pub(in crate::network) fn table(&self) -> Table {
        let (family, dhcp) = match self.link {
            Link::V4(_) => (Family::Ip, DHCP_PORTS),
            Link::V6 { .. } => (Family::Ip6, DHCP6_PORTS),
        };
        let kept = PortSet {
            name: KEPT,
            ports: self.others.iter().copied().chain(dhcp).collect(),
        };
        let served = match self.inbound {
            Inbound::All => None,
            Inbound::Only(ports) => Some(PortSet {
                name: SERVED,
                ports: ports.iter().copied().collect::<BTreeSet<_>>(),
            }),
        };
        let mut sets: Vec<Set> = [kept].into_iter().chain(served).map(Set::Ports).collect();
        let mut chains = vec![self.hand_over(TO_GUEST, Action::Redirect(self.guest()))];
        match &self.link {
            Link::V4(guest) => chains.push(antispoof::ip(self.tap, guest)),
            Link::V6 { relay, guest, .. } => {
                let relay = relay.map(Action::RedirectToPort);
                chains.extend(relay.map(|action| self.hand_over(TO_RELAY, action)));
                chains.push(antispoof::ip6(self.tap, guest));
                chains.push(self.without_redirects());
                sets.push(antispoof::sources());
            }
        }
        chains.extend([
            self.inbound(),
            self.local(),
            self.outbound(),
            self.forward(),
        ]);
        Table {
            family,
            name: self.table.to_owned(),
            chains,
            sets,
        }
    }

    /// The rules for what the guest says below IP, once there is a tap: it is to be installed before
    /// that is up.
    pub(in crate::network) fn link_table(&self) -> Option<Table> {
        let Link::V4(guest) = &self.link else {
            return None;
        };
        Some(Table {
            family: Family::Netdev,
            name: self.table.to_owned(),
            sets: vec![],
            chains: vec![antispoof::arp(self.tap, guest)],
        })
    }

    fn guest(&self) -> IpAddr {
        match &self.link {
            Link::V4(guest) => guest.address.into(),
            Link::V6 { guest, .. } => guest.address.into(),
        }
    }

    fn gateway(&self) -> IpAddr {
        match &self.link {
            Link::V4(guest) => guest.gateway.into(),
            Link::V6 { guest, .. } => guest.gateway.into(),
        }
    }

    /// A connection that is older than the rules is another container's. The kernel takes its next
    /// segment for its first (`nf_conntrack_tcp_loose`), but it is not to be torn apart.
    fn hand_over(&self, name: &'static str, action: Action) -> Chain {
        let served = match self.inbound {
            Inbound::All => vec![],
            Inbound::Only(_) => vec![Match::PortIn(SERVED)],
        };
        Chain {
            name,
            hook: None,
            rules: vec![
                rule([Match::IsTcpUnderWay], Action::Return),
                rule([Match::PortIn(KEPT)], Action::Return),
                rule(served, action),
            ],
        }
    }

    /// The kernel would tell the guest that it is the next hop to itself when it calls the pod's
    /// address, and the pod's neighbours likewise of each other.
    fn without_redirects(&self) -> Chain {
        let redirect = |interface: &str| {
            rule(
                [
                    Match::OutputIs(interface.into()),
                    Match::Icmp6Is(Icmp6::Redirect),
                ],
                Action::Drop,
            )
        };
        Chain {
            name: "without-redirects",
            hook: Some(Hook {
                kind: Kind::Filter,
                point: Point::Output,
            }),
            rules: vec![redirect(self.tap), redirect(self.pod)],
        }
    }

    /// From the pod's network, and from the guest to itself by the pod's address.
    fn inbound(&self) -> Chain {
        let to_pod = |interface: &str, address: &IpAddr| {
            rule(
                [
                    Match::InputIs(interface.into()),
                    Match::DestinationIn(host(*address)),
                ],
                Action::Jump(TO_GUEST),
            )
        };
        Chain {
            name: "inbound",
            hook: Some(Hook {
                kind: Kind::Nat,
                point: Point::Prerouting,
            }),
            rules: [self.pod, self.tap]
                .into_iter()
                .flat_map(|interface| {
                    self.pod_addresses
                        .iter()
                        .map(move |address| to_pod(interface, address))
                })
                .collect(),
        }
    }

    /// From within the pod: other containers, and `kubectl port-forward`, which dials the pod's
    /// localhost.
    fn local(&self) -> Chain {
        let by_localhost = self.localhost.then(|| match self.link {
            Link::V4(_) => rule(
                [
                    Match::DestinationIn(host(Ipv4Addr::LOCALHOST)),
                    Match::IsNotIcmp,
                ],
                Action::Jump(TO_GUEST),
            ),
            Link::V6 { .. } => rule(
                [
                    Match::DestinationIn(host(Ipv6Addr::LOCALHOST)),
                    Match::IsTcp,
                ],
                Action::Jump(TO_RELAY),
            ),
        });
        let by_address = |address: &IpAddr| {
            rule(
                [Match::DestinationIn(host(*address))],
                Action::Jump(TO_GUEST),
            )
        };
        Chain {
            name: "local",
            hook: Some(Hook {
                kind: Kind::Nat,
                point: Point::Output,
            }),
            rules: by_localhost
                .into_iter()
                .chain(self.pod_addresses.iter().map(by_address))
                .collect(),
        }
    }

    fn outbound(&self) -> Chain {
        let to_tap = || Match::OutputIs(self.tap.into());
        let from_guest = || Match::SourceIn(host(self.guest()));
        let disguise = || Action::Disguise(self.gateway());
        // The guest could not answer 127.0.0.1, nor its own address.
        let mut rules = match self.link {
            Link::V4(_) => vec![rule(
                [to_tap(), Match::SourceIn(LOOPBACK_NET.into())],
                disguise(),
            )],
            Link::V6 { .. } => vec![],
        };
        rules.extend([
            rule([to_tap(), from_guest()], disguise()),
            rule(
                [Match::OutputIs(self.pod.into()), from_guest()],
                Action::Masquerade,
            ),
        ]);
        Chain {
            name: "outbound",
            hook: Some(Hook {
                kind: Kind::Nat,
                point: Point::Postrouting,
            }),
            rules,
        }
    }

    /// What the guest sends and gets. Packets of no known connection are dropped, since they would
    /// leave with the guest's own address; what other containers route is not ours to judge.
    fn forward(&self) -> Chain {
        let input = |name: &str| Match::InputIs(name.into());
        let output = |name: &str| Match::OutputIs(name.into());
        // Where the kernel knows one switch for all interfaces, not for the pod's others either. What
        // goes to another of the machine's interfaces is judged by that one's rules.
        let no_tap = [
            Match::InputIsNot(tap::ANY.into()),
            Match::OutputIsNot(tap::ANY.into()),
        ];
        let other_interfaces = match self.link {
            Link::V6 {
                forwards_for_guest: true,
                ..
            } => Some(rule(no_tap, Action::Drop)),
            _ => None,
        };
        Chain {
            name: "forward",
            hook: Some(Hook {
                kind: Kind::Filter,
                point: Point::Forward,
            }),
            rules: [
                rule([Match::IsTcpSyn], Action::ClampSegmentSize),
                rule([Match::IsEstablished], Action::Accept),
                rule(
                    [input(self.tap), output(self.pod), Match::IsNew],
                    Action::Accept,
                ),
                rule(
                    [output(self.tap), Match::IsNew, Match::IsRedirected],
                    Action::Accept,
                ),
                rule([input(self.tap)], Action::Drop),
                rule([output(self.tap)], Action::Drop),
                // Forwarding was switched on for the guest, not for the pod's neighbours.
                rule([input(self.pod), output(self.pod)], Action::Drop),
            ]
            .into_iter()
            .chain(other_interfaces)
            .collect(),
        }
    }
}

const fn udp(number: u16) -> Port {
    match NonZeroU16::new(number) {
        Some(number) => Port {
            protocol: Protocol::Udp,
            number,
        },
        None => panic!("ports begin at 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Masquerade, udp};
    use crate::network::{GuestNetwork, GuestNetwork6, Inbound, Port, Protocol};

    fn printed(inbound: &Inbound, others: &[Port]) -> String {
        let link = Link::V4(GuestNetwork::choose(None, &[]).unwrap());
        printed_for(link, "10.244.1.7", inbound, others)
    }

    fn printed6(inbound: &Inbound, others: &[Port], forwards_for_guest: bool) -> String {
        let link = Link::V6 {
            guest: GuestNetwork6::choose(None, &[]).unwrap(),
            relay: Some(41234),
            forwards_for_guest,
        };
        printed_for(link, "fd00:10:244:1::7", inbound, others)
    }

    fn printed_for(link: Link, pod: &str, inbound: &Inbound, others: &[Port]) -> String {
        Masquerade {
            pod: "eth0",
            pod_addresses: vec![pod.parse().unwrap()],
            tap: "tap-eth0",
            table: "kubevirt",
            localhost: true,
            link,
            inbound,
            others,
        }
        .table()
        .to_string()
    }

    #[test]
    fn a_guest_gets_everything_but_the_ports_of_others() {
        let web = Port {
            protocol: Protocol::Tcp,
            number: 8080.try_into().unwrap(),
        };
        insta::assert_snapshot!(printed(&Inbound::All, &[web, web]));
    }

    #[test]
    fn a_guest_gets_only_what_it_serves() {
        insta::assert_snapshot!(printed(&Inbound::Only(vec![udp(53)]), &[]));
    }

    #[test]
    fn a_guest_gets_the_same_by_ipv6() {
        insta::assert_snapshot!(printed6(&Inbound::All, &[], true));
    }

    #[test]
    fn a_guest_gets_only_what_it_serves_by_ipv6_too() {
        insta::assert_snapshot!(printed6(&Inbound::Only(vec![udp(53)]), &[udp(54)], false));
    }
}
