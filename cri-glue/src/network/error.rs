//! What can go wrong with a machine's network. Each message says what was tried, on what, and what
//! helps.

use std::{io, path::PathBuf};

use ipnet::IpNet;
use netlink_socket2::ReplyError;
use thiserror::Error;

/// A failure to set up or take down a machine's network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The text is not a protocol of Kubernetes.
    #[error("unknown protocol {text:?} of a port: write TCP, UDP or SCTP")]
    Protocol {
        /// What was given.
        text: String,
    },
    /// The network namespace cannot be opened.
    #[error("cannot open the pod's network namespace {}: {source}", path.display())]
    OpenNamespace {
        /// The namespace's path, from the OCI spec.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is something else than a namespace.
    #[error("{} is no namespace; the pod's network may be gone already", path.display())]
    NoNamespace {
        /// The namespace's path, from the OCI spec.
        path: PathBuf,
    },
    /// The namespace is the node's.
    #[error("{} is the node's own network namespace: a machine needs a pod network of its own, so remove hostNetwork from the pod", path.display())]
    HostNamespace {
        /// The namespace's path, from the OCI spec.
        path: PathBuf,
    },
    /// The kernel did not let a thread into the namespace.
    #[error("cannot enter the pod's network namespace {}: {source}", path.display())]
    EnterNamespace {
        /// The namespace's path, from the OCI spec.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pod has no such interface.
    #[error(
        "the pod has no network interface {interface} ({source}); look whether the cluster's network plugin set the pod up"
    )]
    NoInterface {
        /// The interface's name.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The pod's interface has no address.
    #[error(
        "the pod's network interface {interface} has no address: a machine needs one, so look whether the cluster's network plugin set the pod up"
    )]
    NoAddress {
        /// The interface's name.
        interface: String,
    },
    /// The pod's interface is no Ethernet.
    #[error(
        "the pod's network interface {interface} has no Ethernet address that the guest could take over: use masquerade"
    )]
    NoMac {
        /// The interface's name.
        interface: String,
    },
    /// The wanted guest network has no room.
    #[error(
        "the guest network {network} is too small: a /{longest} is the smallest that holds the gateway and the guest"
    )]
    GuestNetworkTooSmall {
        /// What was wanted.
        network: IpNet,
        /// Bits of the longest prefix that has room.
        longest: u8,
    },
    /// The wanted guest network is in use.
    #[error(
        "the guest network {network} overlaps with {used}, which the pod uses itself: choose another {field}"
    )]
    GuestNetworkTaken {
        /// What was wanted.
        network: IpNet,
        /// What it overlaps with.
        used: IpNet,
        /// The field that chooses it.
        field: &'static str,
    },
    /// No candidate for the guest network is free.
    #[error(
        "the pod's network uses all of {}: choose a free guest network by {field}",
        list(tried)
    )]
    NoFreeGuestNetwork {
        /// All candidates.
        tried: Vec<IpNet>,
        /// The field that chooses one.
        field: &'static str,
    },
    /// The node cannot make taps.
    #[error(
        "cannot open /dev/net/tun: {source}; the node needs the kernel module tun (modprobe tun)"
    )]
    NoTun {
        /// Why.
        source: io::Error,
    },
    /// The tap's name is in use.
    #[error(
        "the pod already has a network interface {tap}: a machine is running in this pod, or another container made it"
    )]
    TapExists {
        /// The tap's name.
        tap: String,
    },
    /// The tap cannot be made.
    #[error("cannot create the tap {tap} in the pod's network namespace: {source}")]
    CreateTap {
        /// The tap's name.
        tap: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a request of rtnetlink.
    #[error("cannot {action}: {source}")]
    Link {
        /// What was tried, on what.
        action: String,
        /// The kernel's answer.
        source: ReplyError,
    },
    /// The kernel refused the rules.
    #[error(
        "cannot {action} the nftables table {table} in the pod's network namespace: {source}; the node's kernel needs nftables with NAT \
         (modules nf_tables, nft_ct, nft_nat, nft_masq, nf_conntrack)"
    )]
    Firewall {
        /// `install`, `remove` or `keep ports out of`.
        action: &'static str,
        /// The table's name.
        table: String,
        /// The kernel's answer.
        source: ReplyError,
    },
    /// A kernel parameter of the namespace cannot be read or written.
    #[error("cannot {action} net.{} in the pod's network namespace: {source}", key.replace('/', "."))]
    Sysctl {
        /// `read` or `write`.
        action: &'static str,
        /// Its path below `/proc/sys/net`.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// The DHCP server has no socket.
    #[error("cannot open the DHCP server's socket on {tap}: {source}")]
    DhcpSocket {
        /// The tap's name.
        tap: String,
        /// Why; `EADDRINUSE` if another container of the pod listens on UDP port 67.
        source: io::Error,
    },
    /// The router or the DHCPv6 server has no socket.
    #[error("cannot open the {server}'s socket on {tap}: {source}")]
    Ipv6Socket {
        /// Which server.
        server: &'static str,
        /// The tap's name.
        tap: String,
        /// Why; `EADDRINUSE` if another container of the pod listens on UDP port 547.
        source: io::Error,
    },
    /// The relay of connections to `::1` has no socket.
    #[error("cannot listen on the pod's ::1 for connections to the guest: {0}")]
    Relay(#[source] io::Error),
    /// What has to be undone cannot be written down, hence nothing was done.
    #[error("cannot record how to undo the machine's network: {0}")]
    Record(#[source] io::Error),
    /// The system has no thread left.
    #[error("cannot start a thread for the pod's network namespace: {0}")]
    Thread(#[source] io::Error),
}

fn list(networks: &[IpNet]) -> String {
    networks
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
