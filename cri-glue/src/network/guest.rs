//! The small networks between the guest and the pod's network namespace: which addresses they use,
//! and that nothing else in the pod uses them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::NetworkError;

/// How the network of one family is chosen.
struct Custom<N, const TRIED: usize> {
    /// Networks that are tried in this order when the user asks for none, and then those that follow
    /// each of them.
    candidates: [N; TRIED],
    /// The network that is so many places behind another one.
    behind: fn(N, u8) -> N,
    /// Bits of an address in use whose surroundings are taken to be in use too. From inside a pod,
    /// its cluster's networks cannot be seen; but what shares these bits with the pod or with its
    /// name server is likely another pod or service, which the guest must reach.
    surroundings: u8,
    /// Longest prefix that holds all addresses that are needed.
    longest_prefix: u8,
    /// The field of the API by which a user chooses.
    field: &'static str,
}

/// Networks that are tried behind each candidate: a machine's interfaces have one each.
const FOLLOWING: u8 = 16;

/// The first candidate is the field's custom (KubeVirt's and QEMU's); the others come from the
/// other two private blocks of RFC 1918, so that a cluster which uses one block as a whole leaves
/// another one free. A /30 holds network, gateway, guest and broadcast address.
const IPV4: Custom<Ipv4Net, 3> = Custom {
    candidates: [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 29, 2, 0), 24),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 202, 0), 24),
    ],
    behind: |net, places| {
        let first = net.network().to_bits() + (u32::from(places) << 8);
        Ipv4Net::new_assert(Ipv4Addr::from_bits(first), net.prefix_len())
    },
    surroundings: 16,
    longest_prefix: 30,
    field: "vmNetworkCIDR",
};

/// The first candidate is KubeVirt's, the other one of another site (RFC 4193: a site is a /48). A
/// /126 holds gateway and guest beside the anycast address of routers.
const IPV6: Custom<Ipv6Net, 2> = Custom {
    candidates: [
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0), 120),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd6b, 0x7662, 2, 0, 0, 0, 0, 0), 120),
    ],
    behind: |net, places| {
        let first = net.network().to_bits() + (u128::from(places) << 80);
        Ipv6Net::new_assert(Ipv6Addr::from_bits(first), net.prefix_len())
    },
    surroundings: 48,
    longest_prefix: 126,
    field: "vmIPv6NetworkCIDR",
};

/// The IPv4 network between guest and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// The network, without host bits.
    pub network: Ipv4Net,
    /// The pod's end: the guest's default gateway and DHCP server.
    pub gateway: Ipv4Addr,
    /// The guest's own address.
    pub address: Ipv4Addr,
}

impl GuestNetwork {
    /// The network that the user asked for, or the first candidate far from all that is `used`: the
    /// pod's networks, and hosts it talks to.
    pub(super) fn choose(wanted: Option<Ipv4Net>, used: &[Ipv4Net]) -> Result<Self, NetworkError> {
        let network = choose(wanted.map(|wanted| wanted.trunc()), used, &IPV4)?;
        let first = network.network().to_bits();
        Ok(Self {
            network,
            gateway: Ipv4Addr::from_bits(first + 1),
            address: Ipv4Addr::from_bits(first + 2),
        })
    }

    /// The gateway's address with the network's prefix, as an interface carries it.
    pub(super) fn gateway_on_link(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.gateway, self.network.prefix_len())
    }
}

/// The IPv6 network between guest and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestNetwork6 {
    /// The network, without host bits.
    pub network: Ipv6Net,
    /// The pod's end, which the guest routes by under another address: `ROUTER`.
    pub gateway: Ipv6Addr,
    /// The guest's own address.
    pub address: Ipv6Addr,
}

/// The gateway's address on the link, which router advertisements come from (RFC 4861, 4.2). It is
/// the same for every machine, so that one that is restored or moved keeps its route.
pub(super) const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

impl GuestNetwork6 {
    /// As [`GuestNetwork::choose`].
    pub(super) fn choose(wanted: Option<Ipv6Net>, used: &[Ipv6Net]) -> Result<Self, NetworkError> {
        let network = choose(wanted.map(|wanted| wanted.trunc()), used, &IPV6)?;
        let first = network.network().to_bits();
        Ok(Self {
            network,
            gateway: Ipv6Addr::from_bits(first + 1),
            address: Ipv6Addr::from_bits(first + 2),
        })
    }

    /// The gateway's address with the network's prefix, as an interface carries it.
    pub(super) fn gateway_on_link(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.gateway, self.network.prefix_len())
    }
}

fn choose<N: Copy + Into<IpNet>, const TRIED: usize>(
    wanted: Option<N>,
    used: &[N],
    custom: &Custom<N, TRIED>,
) -> Result<N, NetworkError> {
    let taken = |network: N| used.iter().find(|used| overlap(network, **used));
    let near = |network: N| {
        used.iter()
            .any(|used| overlap(network, surroundings((*used).into(), custom.surroundings)))
    };
    let Some(wanted) = wanted else {
        let mut candidates = (0..FOLLOWING).flat_map(|places| {
            let behind = move |candidate| (custom.behind)(candidate, places);
            custom.candidates.map(behind)
        });
        return candidates
            .clone()
            .find(|candidate| !near(*candidate))
            // Nothing is far from everything: then at least not within it.
            .or_else(|| candidates.find(|candidate| taken(*candidate).is_none()))
            .ok_or_else(|| NetworkError::NoFreeGuestNetwork {
                tried: custom.candidates.map(Into::into).to_vec(),
                field: custom.field,
            });
    };
    let network: IpNet = wanted.into();
    if network.prefix_len() > custom.longest_prefix {
        return Err(NetworkError::GuestNetworkTooSmall {
            network,
            longest: custom.longest_prefix,
        });
    }
    match taken(wanted) {
        Some(used) => Err(NetworkError::GuestNetworkTaken {
            network,
            used: (*used).into(),
            field: custom.field,
        }),
        None => Ok(wanted),
    }
}

fn surroundings(net: IpNet, bits: u8) -> IpNet {
    IpNet::new_assert(net.addr(), net.prefix_len().min(bits)).trunc()
}

fn overlap(a: impl Into<IpNet>, b: impl Into<IpNet>) -> bool {
    let (a, b) = (a.into(), b.into());
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use ipnet::{Ipv4Net, Ipv6Net};

    use super::{GuestNetwork, GuestNetwork6};

    fn choose(wanted: Option<&str>, used: &[&str]) -> Result<GuestNetwork, String> {
        let used: Vec<Ipv4Net> = used.iter().map(|net| net.parse().unwrap()).collect();
        GuestNetwork::choose(wanted.map(|net| net.parse().unwrap()), &used)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_guest_gets_the_customary_addresses() {
        let guest = choose(None, &["10.244.1.0/24", "10.96.0.10/32"]).unwrap();
        assert_eq!(
            (guest.gateway.to_string(), guest.address.to_string()),
            ("10.0.2.1".into(), "10.0.2.2".into())
        );
        assert_eq!(guest.gateway_on_link().to_string(), "10.0.2.1/24");
    }

    #[test]
    fn networks_in_use_are_avoided() {
        for (used, network) in [
            (vec!["10.0.2.0/24"], "172.29.2.0/24"),
            // A pod or a service address in the same /16: others of its kind are likely in
            // 10.0.2.0/24.
            (vec!["10.0.200.7/32"], "172.29.2.0/24"),
            (vec!["10.0.0.0/8"], "172.29.2.0/24"),
            (vec!["10.0.2.7/32", "172.16.0.0/12"], "192.168.202.0/24"),
            // Everything is near: the first that is not taken outright.
            (
                vec!["10.0.2.7/32", "172.29.9.0/24", "192.168.0.0/16"],
                "172.29.2.0/24",
            ),
        ] {
            assert_eq!(
                choose(None, &used).unwrap().network.to_string(),
                network,
                "with {used:?} in use"
            );
        }
    }

    #[test]
    fn every_interface_of_a_machine_has_a_network() {
        let (mut used, mut used6): (Vec<Ipv4Net>, Vec<Ipv6Net>) = (vec![], vec![]);
        for _ in 0..16 {
            used.push(GuestNetwork::choose(None, &used).unwrap().network);
            used6.push(GuestNetwork6::choose(None, &used6).unwrap().network);
        }
        assert_eq!(used[3].to_string(), "10.0.3.0/24");
        assert_eq!(used6[2].to_string(), "fd10:0:3::/120");
    }

    #[test]
    fn when_all_is_taken_the_error_says_what_to_do() {
        insta::assert_snapshot!(choose(None, &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]).unwrap_err(), @"the pod's network uses all of 10.0.2.0/24, 172.29.2.0/24, 192.168.202.0/24: choose a free guest network by vmNetworkCIDR");
    }

    #[test]
    fn a_wish_is_granted_or_refused() {
        let guest = choose(Some("192.0.2.77/29"), &["10.0.0.0/8"]).unwrap();
        assert_eq!(
            (guest.network.to_string(), guest.address.to_string()),
            ("192.0.2.72/29".into(), "192.0.2.74".into())
        );
        insta::assert_snapshot!(choose(Some("10.1.0.0/16"), &["10.1.2.3/32"]).unwrap_err(), @"the guest network 10.1.0.0/16 overlaps with 10.1.2.3/32, which the pod uses itself: choose another vmNetworkCIDR");
        insta::assert_snapshot!(choose(Some("192.0.2.0/31"), &[]).unwrap_err(), @"the guest network 192.0.2.0/31 is too small: a /30 is the smallest that holds the gateway and the guest");
    }

    #[test]
    fn a_guest_gets_the_customary_ipv6_addresses_unless_they_are_in_use() {
        let choose = |wanted: Option<&str>, used: &[&str]| {
            let used: Vec<Ipv6Net> = used.iter().map(|net| net.parse().unwrap()).collect();
            GuestNetwork6::choose(wanted.map(|net| net.parse().unwrap()), &used)
                .map(|guest| {
                    (
                        guest.gateway_on_link().to_string(),
                        guest.address.to_string(),
                    )
                })
                .map_err(|error| error.to_string())
        };
        let both = |gateway: &str, guest: &str| Ok((gateway.to_owned(), guest.to_owned()));
        assert_eq!(
            choose(None, &["fd00:10:244::/64", "fe80::/64"]),
            both("fd10:0:2::1/120", "fd10:0:2::2")
        );
        for used in ["fd10:0:2:5::/64", "fd10::/16", "fd10:0:2::a/128"] {
            assert_eq!(
                choose(None, &[used]),
                both("fd6b:7662:2::1/120", "fd6b:7662:2::2")
            );
        }
        assert_eq!(
            choose(Some("2001:db8::77/126"), &[]),
            both("2001:db8::75/126", "2001:db8::76")
        );
        insta::assert_snapshot!(choose(None, &["fc00::/7"]).unwrap_err(), @"the pod's network uses all of fd10:0:2::/120, fd6b:7662:2::/120: choose a free guest network by vmIPv6NetworkCIDR");
        insta::assert_snapshot!(choose(Some("fd00::/64"), &["fd00::5/128"]).unwrap_err(), @"the guest network fd00::/64 overlaps with fd00::5/128, which the pod uses itself: choose another vmIPv6NetworkCIDR");
        insta::assert_snapshot!(choose(Some("fd00::/127"), &[]).unwrap_err(), @"the guest network fd00::/127 is too small: a /126 is the smallest that holds the gateway and the guest");
    }
}
