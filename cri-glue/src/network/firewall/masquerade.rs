//! The rules of a machine behind its pod's address, for IPv4: what reaches the guest, where its
//! packets may go, and which addresses they carry.

use std::{collections::BTreeSet, net::Ipv4Addr, num::NonZeroU16};

use ipnet::Ipv4Net;

use super::rules::{Action, Chain, Hook, Kind, Match, Point, PortSet, Rule, Table};
use crate::network::{GuestNetwork, Inbound, Port, Protocol};

/// Name of the one table that holds all our rules. Other tables of the namespace are not ours to
/// touch.
pub(in crate::network) const TABLE: &str = "kubevirt";

/// Chain that hands a connection to the guest, unless its port stays with the pod.
const TO_GUEST: &str = "to-guest";
/// Set of the ports that stay with the pod.
pub(super) const KEPT: &str = "kept";
/// Set of the ports that the machine was asked to serve.
const SERVED: &str = "served";

const LOOPBACK: &str = "lo";
const LOOPBACK_NET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// DHCP is a matter between the guest and us; the pod's network never takes part.
const DHCP_PORTS: [Port; 2] = [udp(67), udp(68)];

/// What the rules depend on.
pub(in crate::network) struct Masquerade<'a> {
    /// The pod's interface.
    pub(in crate::network) pod: &'a str,
    /// The addresses of the pod's interface.
    pub(in crate::network) pod_addresses: &'a [Ipv4Net],
    pub(in crate::network) tap: &'a str,
    pub(in crate::network) guest: GuestNetwork,
    pub(in crate::network) inbound: &'a Inbound,
    /// Ports that other containers declare.
    pub(in crate::network) others: &'a [Port],
}

impl Masquerade<'_> {
    pub(super) fn table(&self) -> Table {
        let kept = PortSet {
            name: KEPT,
            ports: self.others.iter().copied().chain(DHCP_PORTS).collect(),
        };
        let served = match self.inbound {
            Inbound::All => None,
            Inbound::Only(ports) => Some(PortSet {
                name: SERVED,
                ports: ports.iter().copied().collect::<BTreeSet<_>>(),
            }),
        };
        Table {
            name: TABLE,
            chains: vec![
                self.to_guest(),
                self.antispoof(),
                self.inbound(),
                self.local(),
                self.outbound(),
                self.forward(),
            ],
            sets: [kept].into_iter().chain(served).collect(),
        }
    }

    /// A connection that is older than the rules is another container's. The kernel takes its next
    /// segment for its first (`nf_conntrack_tcp_loose`), but it is not to be torn apart.
    fn to_guest(&self) -> Chain {
        let served = match self.inbound {
            Inbound::All => vec![],
            Inbound::Only(_) => vec![Match::PortIn(SERVED)],
        };
        Chain {
            name: TO_GUEST,
            hook: None,
            rules: vec![
                rule([Match::IsTcpUnderWay], Action::Return),
                rule([Match::PortIn(KEPT)], Action::Return),
                rule(served, Action::Redirect(self.guest.address)),
            ],
        }
    }

    /// Loopback addresses are only believed from the loopback interface (`route_localnet` makes the
    /// kernel lenient on the tap), and the guest speaks for nobody but itself.
    fn antispoof(&self) -> Chain {
        let from_anyone = host(Ipv4Addr::UNSPECIFIED);
        let to_everyone = host(Ipv4Addr::BROADCAST);
        let dhcp = Match::IsUdp {
            source: 68,
            destination: 67,
        };
        Chain {
            name: "antispoof",
            hook: Some(Hook {
                kind: Kind::Raw,
                point: Point::Prerouting,
            }),
            rules: vec![
                rule([Match::InputIs(LOOPBACK.into())], Action::Accept),
                rule([Match::SourceIn(LOOPBACK_NET)], Action::Drop),
                rule([Match::DestinationIn(LOOPBACK_NET)], Action::Drop),
                rule([Match::InputIsNot(self.tap.into())], Action::Accept),
                rule([Match::SourceIn(host(self.guest.address))], Action::Accept),
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

    /// From the pod's network, and from the guest to itself by the pod's address.
    fn inbound(&self) -> Chain {
        let to_pod = |interface: &str, address: &Ipv4Net| {
            rule(
                [
                    Match::InputIs(interface.into()),
                    Match::DestinationIn(host(address.addr())),
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
        let by_localhost = rule(
            [Match::DestinationIn(host(LOCALHOST)), Match::IsNotIcmp],
            Action::Jump(TO_GUEST),
        );
        let by_address = |address: &Ipv4Net| {
            rule(
                [Match::DestinationIn(host(address.addr()))],
                Action::Jump(TO_GUEST),
            )
        };
        Chain {
            name: "local",
            hook: Some(Hook {
                kind: Kind::Nat,
                point: Point::Output,
            }),
            rules: [by_localhost]
                .into_iter()
                .chain(self.pod_addresses.iter().map(by_address))
                .collect(),
        }
    }

    fn outbound(&self) -> Chain {
        let to_tap = || Match::OutputIs(self.tap.into());
        let from_guest = || Match::SourceIn(host(self.guest.address));
        Chain {
            name: "outbound",
            hook: Some(Hook {
                kind: Kind::Nat,
                point: Point::Postrouting,
            }),
            rules: vec![
                // The guest could not answer 127.0.0.1, nor its own address.
                rule(
                    [to_tap(), Match::SourceIn(LOOPBACK_NET)],
                    Action::Disguise(self.guest.gateway),
                ),
                rule(
                    [to_tap(), from_guest()],
                    Action::Disguise(self.guest.gateway),
                ),
                rule(
                    [Match::OutputIs(self.pod.into()), from_guest()],
                    Action::Masquerade,
                ),
            ],
        }
    }

    /// What the guest sends and gets. Packets of no known connection are dropped, since they would
    /// leave with the guest's own address; what other containers route is not ours to judge.
    fn forward(&self) -> Chain {
        let input = |name: &str| Match::InputIs(name.into());
        let output = |name: &str| Match::OutputIs(name.into());
        Chain {
            name: "forward",
            hook: Some(Hook {
                kind: Kind::Filter,
                point: Point::Forward,
            }),
            rules: vec![
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
            ],
        }
    }
}

fn rule(matches: impl Into<Vec<Match>>, action: Action) -> Rule {
    Rule {
        matches: matches.into(),
        action,
    }
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, 32)
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
    use super::{Masquerade, udp};
    use crate::network::{GuestNetwork, Inbound, Port, Protocol};

    fn printed(inbound: &Inbound, others: &[Port]) -> String {
        let guest = GuestNetwork::choose(None, &[]).unwrap();
        let pod_addresses = ["10.244.1.7/24".parse().unwrap()];
        Masquerade {
            pod: "eth0",
            pod_addresses: &pod_addresses,
            tap: "tap-eth0",
            guest,
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
}
