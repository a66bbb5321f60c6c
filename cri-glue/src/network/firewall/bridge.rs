//! The rules of a machine that has its pod's address: frames pass between the guest and the pod's
//! wire as they are, past the pod itself, to which the guest is still reachable under `localhost`.
//!
//! No bridge device is needed for it, and so nothing that the network plugin made changes its place:
//! the kernel hands each frame on where it comes in.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    antispoof::{LOOPBACK, LOOPBACK_NET, RAW},
    masquerade::{KEPT, TO_GUEST},
    rules::{
        Action, Carried, Chain, Device, Family, Hook, Kind, Match, Point, PortSet, Rule, Set,
        Table, host, rule,
    },
};
use crate::network::{MacAddress, Port};

/// Protocols of VLAN tags (IEEE 802.1Q and 802.1ad): a pod's wire may carry others' networks too.
const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];

/// What the rules depend on.
pub(in crate::network) struct Bridge<'a> {
    pub(in crate::network) table: &'a str,
    /// The pod's interface, and its number.
    pub(in crate::network) pod: (&'a str, u32),
    pub(in crate::network) tap: (&'a str, u32),
    /// The guest's.
    pub(in crate::network) mac: MacAddress,
    /// Addresses of the pod's interface, which are the guest's now. Without any, the guest's are a
    /// matter of the network, and so is what it may send there.
    pub(in crate::network) addresses: &'a [IpAddr],
    /// How the pod itself reaches the guest, if it does.
    pub(in crate::network) local: Option<Local>,
    /// Whether the pod's localhost is the guest's.
    pub(in crate::network) localhost: bool,
    /// Ports that other containers declare.
    pub(in crate::network) others: &'a [Port],
}

/// The pod's own end of its link to the guest.
#[derive(Clone, Copy, Debug)]
pub(in crate::network) struct Local {
    pub(in crate::network) pod: Ipv4Addr,
    pub(in crate::network) guest: Ipv4Addr,
}

impl Bridge<'_> {
    pub(in crate::network) fn tables(&self) -> Vec<Table> {
        let table = |family, sets, chains| Table {
            family,
            name: self.table.to_owned(),
            sets,
            chains,
        };
        let kept = PortSet {
            name: KEPT,
            ports: self.others.iter().copied().collect(),
        };
        let mut chains = vec![self.silence()];
        if let (Some(local), true) = (self.local, self.localhost) {
            chains.splice(0..0, self.localhost(local));
        }
        let frames = vec![self.wire(), self.guest()];
        let mut tables = vec![
            table(Family::Ip, vec![Set::Ports(kept)], chains),
            table(Family::Netdev, vec![], frames),
        ];
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            tables.push(table(Family::Ip6, vec![], vec![self.silence()]));
        }
        tables
    }

    /// The pod itself has no address on its wire any more: answers would reach the guest.
    fn silence(&self) -> Chain {
        Chain {
            name: "silence",
            hook: Some(Hook {
                kind: Kind::Filter,
                point: Point::Output,
            }),
            rules: vec![rule([Match::OutputIs(self.pod.0.into())], Action::Drop)],
        }
    }

    /// As for a guest behind the pod's address.
    fn localhost(&self, local: Local) -> [Chain; 4] {
        let nat = |point| {
            Some(Hook {
                kind: Kind::Nat,
                point,
            })
        };
        let chain = |name, hook, rules| Chain { name, hook, rules };
        [
            chain(
                TO_GUEST,
                None,
                vec![
                    rule([Match::IsTcpUnderWay], Action::Return),
                    rule([Match::PortIn(KEPT)], Action::Return),
                    rule([], Action::Redirect(local.guest.into())),
                ],
            ),
            chain(
                "antispoof",
                RAW,
                vec![
                    rule([Match::InputIs(LOOPBACK.into())], Action::Accept),
                    rule([Match::SourceIn(LOOPBACK_NET.into())], Action::Drop),
                    rule([Match::DestinationIn(LOOPBACK_NET.into())], Action::Drop),
                ],
            ),
            chain(
                "local",
                nat(Point::Output),
                vec![rule(
                    [
                        Match::DestinationIn(host(Ipv4Addr::LOCALHOST)),
                        Match::IsNotIcmp,
                    ],
                    Action::Jump(TO_GUEST),
                )],
            ),
            chain(
                "outbound",
                nat(Point::Postrouting),
                vec![rule(
                    [
                        Match::OutputIs(self.tap.0.into()),
                        Match::SourceIn(LOOPBACK_NET.into()),
                    ],
                    Action::Disguise(local.pod.into()),
                )],
            ),
        ]
    }

    fn wire(&self) -> Chain {
        Chain {
            name: "to-guest",
            hook: ingress(self.pod.0),
            rules: vec![rule([], pass(self.tap))],
        }
    }

    /// What the guest sends to the pod itself, and what it may send on the wire: as a pod, it speaks
    /// for its own addresses.
    fn guest(&self) -> Chain {
        let mut rules = vec![];
        if let Some(local) = self.local {
            rules.extend(Self::to_pod(local));
        }
        if self.addresses.is_empty() {
            rules.push(rule([], pass(self.pod)));
        } else {
            let strange = [Match::FrameIsNotFrom(self.mac)]
                .into_iter()
                .chain(VLAN_TAGS.map(Match::IsTagged));
            rules.splice(0..0, strange.map(|frame| rule([frame], Action::Drop)));
            rules.extend(self.own_speech());
        }
        Chain {
            name: "from-guest",
            hook: ingress(self.tap.0),
            rules,
        }
    }

    /// A guest sends to the pod's end of the link by its default gateway, hence to another host.
    fn to_pod(local: Local) -> [Rule; 3] {
        let ip = || Match::Carries(Carried::Ip);
        let dhcp = Match::IsUdp {
            source: 68,
            destination: 67,
        };
        let arp = [
            Match::Carries(Carried::Arp),
            Match::ArpSourceIs(local.guest),
            Match::ArpTargetIs(local.pod),
        ];
        [
            rule([ip(), dhcp], Action::TakeIn),
            rule(
                [
                    ip(),
                    Match::SourceIn(host(local.guest)),
                    Match::DestinationIn(host(local.pod)),
                ],
                Action::TakeIn,
            ),
            rule(arp, Action::Accept),
        ]
    }

    /// IPv6 is not among it: who may say which address is where, nobody checks on such a wire.
    fn own_speech(&self) -> Vec<Rule> {
        let arp = |address| [Match::Carries(Carried::Arp), Match::ArpSourceIs(address)];
        // Looking whether an address is free.
        let mut rules = vec![rule(arp(Ipv4Addr::UNSPECIFIED), pass(self.pod))];
        for address in self.addresses {
            let source = Match::SourceIn(host(*address));
            if let IpAddr::V4(address) = address {
                rules.push(rule(arp(*address), pass(self.pod)));
                rules.push(rule([Match::Carries(Carried::Ip), source], pass(self.pod)));
            }
        }
        rules.push(rule([], Action::Drop));
        rules
    }
}

fn ingress(interface: &str) -> Option<Hook> {
    Some(Hook {
        kind: Kind::Filter,
        point: Point::Ingress(interface.to_owned()),
    })
}

fn pass((name, index): (&str, u32)) -> Action {
    Action::Pass(Device {
        name: name.to_owned(),
        index,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Bridge, Local};
    use crate::network::derive_mac;

    fn printed(addresses: &[&str], local: Option<(&str, &str)>) -> String {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let bridge = Bridge {
            table: "kubevirt",
            pod: ("eth0", 2),
            tap: ("tap-eth0", 3),
            mac: derive_mac("test"),
            addresses: &addresses,
            local: local.map(|(pod, guest)| Local {
                pod: pod.parse().unwrap(),
                guest: guest.parse().unwrap(),
            }),
            localhost: true,
            others: &[],
        };
        let tables = bridge.tables();
        let printed: Vec<String> = tables.iter().map(ToString::to_string).collect();
        printed.concat()
    }

    #[test]
    fn a_guest_with_the_pods_addresses_speaks_for_these() {
        insta::assert_snapshot!(printed(
            &["10.244.1.7", "fd00:10:244:1::7"],
            Some(("169.254.75.10", "10.244.1.7")),
        ));
    }

    #[test]
    fn a_network_without_addresses_is_the_guests_own_affair() {
        insta::assert_snapshot!(printed(&[], None));
    }
}
