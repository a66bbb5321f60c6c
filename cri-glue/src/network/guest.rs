//! The small network between the guest and the pod's network namespace: which addresses it uses,
//! and that nothing else in the pod uses them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::NetworkError;

/// Networks that are tried in this order when the user asks for none. The first is the field's
/// custom (KubeVirt's and QEMU's); the others come from the other two private blocks of RFC 1918,
/// so that a cluster which uses one block as a whole leaves another one free.
const CANDIDATES: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 29, 2, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 202, 0), 24),
];

/// Bits of an address in use whose surroundings are taken to be in use too. From inside a pod, its
/// cluster's networks cannot be seen; but what shares the first 16 bits with the pod or with its
/// name server is likely another pod or service, which the guest must reach.
const SURROUNDINGS: u8 = 16;

/// Longest prefix that holds network, gateway, guest and broadcast address.
const LONGEST_PREFIX: u8 = 30;

/// The network between guest and gateway.
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
        match wanted {
            Some(network) => Self::wanted(network.trunc(), used),
            None => CANDIDATES
                .into_iter()
                .find(|candidate| {
                    used.iter()
                        .all(|used| !overlap(*candidate, surroundings(*used)))
                })
                // Nothing is far from everything: then at least not within it.
                .or_else(|| {
                    CANDIDATES
                        .into_iter()
                        .find(|candidate| used.iter().all(|used| !overlap(*candidate, *used)))
                })
                .map(Self::within)
                .ok_or_else(|| NetworkError::NoFreeGuestNetwork {
                    tried: CANDIDATES.to_vec(),
                }),
        }
    }

    fn wanted(network: Ipv4Net, used: &[Ipv4Net]) -> Result<Self, NetworkError> {
        if network.prefix_len() > LONGEST_PREFIX {
            return Err(NetworkError::GuestNetworkTooSmall { network });
        }
        match used.iter().find(|used| overlap(network, **used)) {
            Some(used) => Err(NetworkError::GuestNetworkTaken {
                network,
                used: *used,
            }),
            None => Ok(Self::within(network)),
        }
    }

    fn within(network: Ipv4Net) -> Self {
        let first = network.network().to_bits();
        Self {
            network,
            gateway: Ipv4Addr::from_bits(first + 1),
            address: Ipv4Addr::from_bits(first + 2),
        }
    }

    /// The gateway's address with the network's prefix, as an interface carries it.
    pub(super) fn gateway_on_link(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.gateway, self.network.prefix_len())
    }
}

fn surroundings(net: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new_assert(net.addr(), net.prefix_len().min(SURROUNDINGS)).trunc()
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::GuestNetwork;

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
}
