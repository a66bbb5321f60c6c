//! The pod's resolver settings, read from the text of its `resolv.conf` (resolv.conf(5)). What
//! cannot be handed on to a guest is left out, and the log says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::Name;
use tracing::{debug, warn};

/// Search domains and, of each family, name servers that are handed on: as many as Kubernetes lets a pod
/// have of the first (`dnsConfig.searches`), and more than any resolver asks of the others.
const MAX_SEARCH: usize = 32;
const MAX_SERVERS: usize = 8;

/// The pod's resolver settings as far as DHCP can carry them. `options` such as `ndots` have no
/// DHCP option: guests keep their own defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers with IPv4 addresses that a guest can reach, in order of preference.
    pub servers: Vec<Ipv4Addr>,
    /// The same with IPv6 addresses.
    pub servers6: Vec<Ipv6Addr>,
    /// Search domains, the most specific first.
    pub search: Vec<Name>,
}

impl Dns {
    /// Reads the text of a `resolv.conf`. It comes from kubelet, so that odd lines are worth a
    /// warning and no more. A pod can mount its own: of too many entries, the first are kept.
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => match words.next().and_then(reachable_server) {
                    Some(IpAddr::V4(server)) => dns.servers.push(server),
                    Some(IpAddr::V6(server)) => dns.servers6.push(server),
                    None => {}
                },
                // The last of several lines counts, and `domain` is a search list of one.
                Some("search" | "domain") => {
                    dns.search = words.filter_map(domain).take(MAX_SEARCH).collect();
                }
                Some("options") => debug!(
                    line,
                    "resolver options cannot be handed on to the guest by DHCP"
                ),
                _ => {}
            }
        }
        dns.servers.truncate(MAX_SERVERS);
        dns.servers6.truncate(MAX_SERVERS);
        dns
    }
}

fn reachable_server(text: &str) -> Option<IpAddr> {
    let Ok(server) = text.parse::<IpAddr>() else {
        warn!(
            server = text,
            "left out a name server of the pod: not an IP address, or one of a single link"
        );
        return None;
    };
    if server.is_loopback() || server.is_unspecified() {
        warn!(%server, "left out a name server of the pod: it listens on the pod's localhost, where the guest cannot reach it");
        return None;
    }
    // Link-local IPv4 addresses are no less reachable than others: the guest gets a route. Those of
    // IPv6 mean a link, which is not the guest's.
    if matches!(server, IpAddr::V6(server) if server.is_unicast_link_local()) {
        warn!(%server, "left out a name server of the pod: its address is only valid on the pod's link");
        return None;
    }
    Some(server)
}

fn domain(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok().filter(|name| !name.is_root());
    match &mut name {
        Some(name) => name.set_fqdn(true),
        None => warn!(
            domain = text,
            "left out a search domain of the pod: not a domain name"
        ),
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Dns;

    fn search(dns: &Dns) -> Vec<String> {
        dns.search.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pods_resolver_is_read() {
        let dns = Dns::parse(
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver 10.96.0.11\noptions ndots:5\n",
        );
        assert_eq!(
            dns.servers,
            ["10.96.0.10", "10.96.0.11"]
                .map(|server| server.parse::<std::net::Ipv4Addr>().unwrap())
        );
        assert_eq!(
            search(&dns),
            [
                "shop.svc.cluster.local.",
                "svc.cluster.local.",
                "cluster.local."
            ]
        );
    }

    #[test]
    fn the_last_search_list_counts() {
        assert_eq!(
            search(&Dns::parse(
                "search a.example\nsearch b.example c.example\n"
            )),
            ["b.example.", "c.example."]
        );
        assert_eq!(
            search(&Dns::parse("search a.example\ndomain b.example\n")),
            ["b.example."]
        );
    }

    #[test]
    fn servers_out_of_the_guests_reach_are_left_out() {
        let dns = Dns::parse(
            "nameserver 127.0.0.53\nnameserver 0.0.0.0\nnameserver ::1\nnameserver ::\nnameserver fe80::1\nnameserver fe80::1%eth0\nnameserver fd00::a\nnameserver nonsense\nnameserver\nnameserver 192.0.2.1\n",
        );
        assert_eq!(dns.servers, [std::net::Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(
            dns.servers6,
            ["fd00::a".parse::<std::net::Ipv6Addr>().unwrap()]
        );
    }

    #[test]
    fn of_too_many_the_first_are_kept() {
        let domains: Vec<_> = (0..1000).map(|number| format!("d{number}")).collect();
        let servers = (0..250).map(|n| format!("nameserver 10.0.0.{n}\nnameserver fd00::{n}\n"));
        let servers: String = servers.collect();
        let dns = Dns::parse(&format!("search {}\n{servers}", domains.join(" ")));
        assert_eq!((dns.servers.len(), dns.servers6.len()), (8, 8));
        assert_eq!((dns.search.len(), search(&dns)[31].as_str()), (32, "d31."));
    }

    #[test]
    fn what_is_no_domain_is_left_out() {
        let long = "x".repeat(64);
        assert_eq!(
            search(&Dns::parse(&format!(
                "# search no.example\nsearch . a..b {long}.example good.example"
            ))),
            ["good.example."]
        );
    }

    proptest! {
        #[test]
        fn whatever_is_read_can_be_handed_on(
            text in prop::collection::vec(
                prop_oneof![
                    "\\PC{0,40}",
                    "(nameserver|search|domain|options)[ \t]{1,3}[0-9a-z.:%/-]{0,40}",
                    "nameserver (127|0|169|10)\\.[0-9]{1,3}\\.0\\.1",
                    "nameserver (::|fe80::|fd00::|::ffff:127\\.)[0-9a-f.]{0,5}",
                    "search( [a-z]{1,70}(\\.[a-z]{0,70}){0,4}){0,5}",
                    any::<String>(),
                ],
                0..12,
            ),
        ) {
            let dns = Dns::parse(&text.join("\n"));
            for server in dns.servers {
                prop_assert!(!server.is_loopback() && !server.is_unspecified());
            }
            for server in dns.servers6 {
                prop_assert!(!server.is_loopback() && !server.is_unspecified());
                prop_assert!(!server.is_unicast_link_local());
            }
            for name in dns.search {
                // RFC 1035, 2.3.4.
                prop_assert!(!name.is_root() && name.is_fqdn());
                prop_assert!(name.iter().all(|label| (1..=63).contains(&label.len())));
                prop_assert!(name.iter().map(|label| label.len() + 1).sum::<usize>() < 255);
            }
        }
    }
}
