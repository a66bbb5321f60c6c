//! Everything that follows from a cluster's name and a node's number: directories, namespaces,
//! cgroups, addresses. Pure, so that `up`, `down` and the tests of several clusters side by side
//! agree without asking each other. Each cluster has networks of its own, so addresses may repeat.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;

/// Where all clusters live; a directory each.
const BASE: &str = "/var/lib/kubevirt-shim/clusters";

/// Longest accepted name: it is part of cgroup, namespace and socket paths.
const MAX_NAME: usize = 24;

/// First port of the host's loopback that an API server may be reached at, and how many there are.
const API_PORTS: (u16, u16) = (16_443, 1_000);

/// The name of a cluster: lower case letters, digits and dashes, beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterName(String);

impl FromStr for ClusterName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.starts_with(|c: char| c.is_ascii_lowercase())
            || !name.chars().all(letters)
            || name.ends_with('-')
            || name.len() > MAX_NAME
        {
            return Err(format!(
                "{name:?} is no name for a cluster: use at most {MAX_NAME} lower case letters, \
                 digits and dashes, beginning with a letter"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ClusterName {
    /// The directory that holds all clusters; locked while one of them changes.
    pub(crate) fn base() -> &'static Path {
        Path::new(BASE)
    }

    /// `$CLUSTER_DIR`: all that the cluster keeps on disk.
    pub(crate) fn dir(&self) -> PathBuf {
        Self::base().join(&self.0)
    }

    /// The directory of a place, with its pid file, specification and logs.
    pub(crate) fn place_dir(&self, place: Place) -> PathBuf {
        self.dir().join(place.name())
    }

    /// The programs of the control plane, `kubectl` and the wrappers for the user's shell.
    pub(crate) fn bin(&self) -> PathBuf {
        self.dir().join("bin")
    }

    /// The cluster's keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.dir().join("pki")
    }

    /// The administrator's kubeconfig, usable from the host.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// Name of a place's network namespace, as `ip netns` shows it.
    pub(crate) fn netns(&self, place: Place) -> String {
        format!("{}-{}", self.0, place.name())
    }

    /// The file that pins a place's network namespace.
    pub(crate) fn netns_path(&self, place: Place) -> PathBuf {
        Path::new("/run/netns").join(self.netns(place))
    }

    /// A place's cgroup, relative to the root of each hierarchy.
    pub(crate) fn cgroup(&self, place: Place) -> String {
        self.netns(place)
    }

    /// The port of the host's loopback where the API server is looked for first. FNV-1a of the
    /// name, so that two clusters seldom meet; `up` takes the next free one if they do.
    pub(crate) fn preferred_api_port(&self) -> u16 {
        let hash = self.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let (first, count) = API_PORTS;
        first + (hash % u32::from(count)) as u16
    }
}

/// A worker node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Node {
    /// Runs the distribution's containerd (1.6).
    #[value(name = "node1")]
    One,
    /// Runs the newest containerd (2.x).
    #[value(name = "node2")]
    Two,
}

impl Node {
    /// Both, in order.
    pub(crate) const ALL: [Self; 2] = [Self::One, Self::Two];

    const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The node's name in Kubernetes and its host name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "node1",
            Self::Two => "node2",
        }
    }

    /// The node's addresses on the cluster's own bridge.
    pub(crate) const fn addresses(self) -> Dual<IpAddr> {
        let number = self.number();
        Dual {
            v4: IpAddr::V4(Ipv4Addr::new(172, 30, 0, 10 + number)),
            v6: IpAddr::V6(Ipv6Addr::new(
                0xfd00,
                0x172,
                0x30,
                0,
                0,
                0,
                0,
                0x10 + number as u16,
            )),
        }
    }

    /// The addresses of the node's pods: a /24, and a /64 as IPAM plugins expect it.
    pub(crate) fn pod_subnets(self) -> Dual<String> {
        let number = self.number();
        Dual {
            v4: format!("10.244.{number}.0/24"),
            v6: format!("fd00:10:244:{number}::/64"),
        }
    }
}

/// Something with namespaces and a supervisor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// etcd, the API server, the controllers and the scheduler.
    ControlPlane,
    /// A worker node.
    Node(Node),
}

impl Place {
    /// All, in the order in which they start.
    pub(crate) const ALL: [Self; 3] = [
        Self::ControlPlane,
        Self::Node(Node::One),
        Self::Node(Node::Two),
    ];

    /// What the place is called in paths.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control",
            Self::Node(node) => node.name(),
        }
    }
}

/// The same of both families. The cluster is dual-stack, and IPv4 comes first wherever order counts:
/// a Service that asks for nothing has IPv4, and it is what a pod's `status.podIP` shows.
#[derive(Clone, Copy)]
pub(crate) struct Dual<T> {
    /// Of IPv4.
    pub(crate) v4: T,
    /// Of IPv6.
    pub(crate) v6: T,
}

impl<T> Dual<T> {
    /// Both, in order.
    pub(crate) fn both(self) -> [T; 2] {
        [self.v4, self.v6]
    }
}

/// As flags of Kubernetes want it: `IPV4,IPV6`.
impl<T: fmt::Display> fmt::Display for Dual<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.v4, self.v6)
    }
}

/// The control plane's address on the cluster's own bridge, and every node's default gateway.
pub(crate) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The same of IPv6. Only packets go there, the API server is spoken to by [`CONTROL_PLANE`].
pub(crate) const CONTROL_PLANE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1);
/// Lengths of the prefixes that the control plane and the nodes share.
pub(crate) const NODE_PREFIXES: Dual<u8> = Dual { v4: 24, v6: 64 };
/// The port of the API server on [`CONTROL_PLANE`].
pub(crate) const API_PORT: u16 = 6443;
/// All pods' addresses.
pub(crate) const POD_CIDRS: Dual<&str> = Dual {
    v4: "10.244.0.0/16",
    v6: "fd00:10:244::/56",
};
/// All Services' addresses.
pub(crate) const SERVICE_CIDRS: Dual<&str> = Dual {
    v4: "10.96.0.0/16",
    v6: "fd00:10:96::/112",
};
/// The Service `kubernetes`: the first address of [`SERVICE_CIDRS`].
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service `kube-dns`.
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in [
            "",
            "..",
            "a/b",
            "A",
            "1a",
            "a-",
            "a b",
            "a.b",
            "aaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "kubevirt", "ci-7", "aaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn two_clusters_share_nothing_that_the_host_sees() {
        let (a, b) = (name("kubevirt"), name("ci"));
        for place in Place::ALL {
            assert_ne!(a.netns_path(place), b.netns_path(place));
            assert_ne!(a.cgroup(place), b.cgroup(place));
            assert_ne!(a.place_dir(place), b.place_dir(place));
        }
        assert_ne!(a.preferred_api_port(), b.preferred_api_port());
    }

    #[test]
    fn nodes_share_no_address() {
        let addresses = Node::ALL.map(|node| node.addresses().to_string());
        assert_eq!(
            addresses,
            ["172.30.0.11,fd00:172:30::11", "172.30.0.12,fd00:172:30::12"]
        );
        let subnets = Node::ALL.map(|node| node.pod_subnets().to_string());
        assert_eq!(
            subnets,
            [
                "10.244.1.0/24,fd00:10:244:1::/64",
                "10.244.2.0/24,fd00:10:244:2::/64"
            ]
        );
    }

    #[test]
    fn the_port_stays_in_its_range() {
        for text in ["a", "kubevirt", "ci", "another-cluster"] {
            let port = name(text).preferred_api_port();
            assert!((16_443..17_443).contains(&port), "{text}: {port}");
        }
    }
}
