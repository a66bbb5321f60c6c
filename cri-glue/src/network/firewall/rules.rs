//! Firewall rules as plain data: tables, chains, matches and actions in the words of nft(8).
//! Printed, they read as `nft list table` prints them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::network::{MacAddress, Port};

/// Which packets a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::network) enum Family {
    Ip,
    Ip6,
    /// Frames, as they come in by an interface.
    Netdev,
}

impl Family {
    pub(in crate::network) const ALL: [Self; 3] = [Self::Ip, Self::Ip6, Self::Netdev];
}

/// A table with all that it holds.
#[derive(Clone, Debug)]
pub(in crate::network) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    pub(super) sets: Vec<Set>,
    /// Chains that are jumped to come before those that jump.
    pub(super) chains: Vec<Chain>,
}

/// A set that rules look into.
#[derive(Clone, Debug)]
pub(super) enum Set {
    Ports(PortSet),
    Sources(SourceSet),
}

/// A set of senders of IPv6, which rules fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceSet {
    pub(super) name: &'static str,
    /// The most of them at a time.
    pub(super) most: u32,
    /// How long one that sends no more is kept.
    pub(super) seconds: u32,
}

/// A set of ports, looked up by protocol and destination port.
#[derive(Clone, Debug)]
pub(super) struct PortSet {
    pub(super) name: &'static str,
    pub(super) ports: BTreeSet<Port>,
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// Where packets enter by themselves; none for chains that are only jumped to.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Packets that no rule decides on go on their way.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    pub(super) kind: Kind,
    pub(super) point: Point,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Before connections are tracked.
    Raw,
    Filter,
    Nat,
}

/// A place of a packet's way through the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Where frames come in by this interface, before anybody else sees them.
    Ingress(String),
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// What happens to packets that all of `matches` apply to.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
}

#[derive(Clone, Debug)]
pub(super) enum Match {
    /// The protocol that an Ethernet frame carries.
    Carries(Carried),
    FrameIsNotFrom(MacAddress),
    /// A frame with a VLAN's tag of this protocol.
    IsTagged(u16),
    ArpSourceIs(Ipv4Addr),
    ArpTargetIs(Ipv4Addr),
    /// A name that ends in `*` stands for all that begin so.
    InputIs(String),
    InputIsNot(String),
    OutputIs(String),
    OutputIsNot(String),
    SourceIn(IpNet),
    DestinationIn(IpNet),
    DestinationNotIn(IpNet),
    /// The sender of IPv6 is in the set of this name, or there is room in it, which it takes.
    SourceAmong(&'static str),
    IsTcp,
    IsTcpSyn,
    /// A TCP segment that does not begin a connection.
    IsTcpUnderWay,
    IsNotIcmp,
    IsIcmp6,
    Icmp6Is(Icmp6),
    IsUdp {
        source: u16,
        destination: u16,
    },
    /// Protocol and destination port are in the set of this name.
    PortIn(&'static str),
    /// The packet belongs or relates to a connection that was let through.
    IsEstablished,
    /// The packet begins a connection.
    IsNew,
    /// The connection's destination was rewritten.
    IsRedirected,
}

/// Messages of ICMPv6 by which hosts on a link believe each other (RFC 4861, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Icmp6 {
    RouterAdvertisement,
    Redirect,
}

/// Protocols over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Ip,
    Arp,
}

/// An interface to send frames out by.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) index: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Accept,
    /// For the frame's own host, whoever it is addressed to.
    TakeIn,
    /// On to the wire, past the host.
    Pass(Device),
    Drop,
    Return,
    Jump(&'static str),
    /// Rewrites the destination.
    Redirect(IpAddr),
    /// Rewrites the destination to this port of the loopback interface.
    RedirectToPort(u16),
    /// Rewrites the source.
    Disguise(IpAddr),
    /// Rewrites the source to the address of the interface that the packet leaves by.
    Masquerade,
    /// Lowers the segment size that a TCP connection begins with to what the way of the packet
    /// carries.
    ClampSegmentSize,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        for set in &self.sets {
            writeln!(f, "{set}")?;
        }
        let chains: Vec<String> = self.chains.iter().map(ToString::to_string).collect();
        writeln!(f, "{}}}", chains.join("\n"))
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(PortSet { name, ports }) => {
                let port = |port: &Port| {
                    let protocol = port.protocol.to_string().to_lowercase();
                    format!("{protocol} . {}", port.number)
                };
                let ports: Vec<String> = ports.iter().map(port).collect();
                writeln!(
                    f,
                    "\tset {name} {{\n\t\ttype inet_proto . inet_service\n\t\telements = {{ {} }}\n\t}}",
                    ports.join(", ")
                )
            }
            Self::Sources(SourceSet {
                name,
                most,
                seconds,
            }) => writeln!(
                f,
                "\tset {name} {{\n\t\ttype ipv6_addr\n\t\tsize {most}\n\t\tflags dynamic,timeout\n\t\t\
                 timeout {seconds}s\n\t}}"
            ),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Netdev => "netdev",
        })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = &self.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = match &self.point {
            Point::Ingress(_) => "ingress",
            Point::Prerouting => "prerouting",
            Point::Forward => "forward",
            Point::Output => "output",
            Point::Postrouting => "postrouting",
        };
        let priority = match (self.kind, &self.point) {
            (Kind::Raw, _) => "raw",
            (Kind::Filter, _) => "filter",
            (Kind::Nat, Point::Postrouting) => "srcnat",
            (Kind::Nat, Point::Output) => "-100",
            (Kind::Nat, _) => "dstnat",
        };
        let kind = if self.kind == Kind::Nat {
            "nat"
        } else {
            "filter"
        };
        let device = match &self.point {
            Point::Ingress(name) => format!(" device \"{name}\""),
            _ => String::new(),
        };
        write!(
            f,
            "type {kind} hook {point}{device} priority {priority}; policy accept;"
        )
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        self.action.fmt(f)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Carries(Carried::Ip) => f.write_str("meta protocol ip"),
            Self::Carries(Carried::Arp) => f.write_str("meta protocol arp"),
            Self::IsTagged(protocol) => write!(f, "ether type {protocol:#06x}"),
            Self::FrameIsNotFrom(mac) => write!(f, "ether saddr != {mac}"),
            Self::ArpSourceIs(address) => write!(f, "arp saddr ip {address}"),
            Self::ArpTargetIs(address) => write!(f, "arp daddr ip {address}"),
            Self::InputIs(name) => write!(f, "iifname \"{name}\""),
            Self::InputIsNot(name) => write!(f, "iifname != \"{name}\""),
            Self::OutputIs(name) => write!(f, "oifname \"{name}\""),
            Self::OutputIsNot(name) => write!(f, "oifname != \"{name}\""),
            Self::SourceIn(net) => write!(f, "{} saddr {}", family(*net), short(*net)),
            Self::DestinationIn(net) => write!(f, "{} daddr {}", family(*net), short(*net)),
            Self::DestinationNotIn(net) => {
                write!(f, "{} daddr != {}", family(*net), short(*net))
            }
            Self::SourceAmong(set) => write!(f, "update @{set} {{ ip6 saddr }}"),
            Self::IsTcp => f.write_str("meta l4proto tcp"),
            Self::IsTcpSyn => f.write_str("tcp flags & (syn | rst) == syn"),
            Self::IsTcpUnderWay => f.write_str("tcp flags & (syn | ack) != syn"),
            Self::IsNotIcmp => f.write_str("meta l4proto != icmp"),
            Self::IsIcmp6 => f.write_str("meta l4proto ipv6-icmp"),
            Self::Icmp6Is(Icmp6::RouterAdvertisement) => {
                f.write_str("icmpv6 type nd-router-advert")
            }
            Self::Icmp6Is(Icmp6::Redirect) => f.write_str("icmpv6 type nd-redirect"),
            Self::IsUdp {
                source,
                destination,
            } => write!(f, "udp sport {source} udp dport {destination}"),
            Self::PortIn(set) => write!(f, "meta l4proto . th dport @{set}"),
            Self::IsEstablished => f.write_str("ct state established,related"),
            Self::IsNew => f.write_str("ct state new"),
            Self::IsRedirected => f.write_str("ct status dnat"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::TakeIn => f.write_str("meta pkttype set host accept"),
            Self::Pass(device) => write!(f, "fwd to \"{}\"", device.name),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Redirect(to) => write!(f, "dnat to {to}"),
            Self::RedirectToPort(port) => write!(f, "redirect to :{port}"),
            Self::Disguise(to) => write!(f, "snat to {to}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::ClampSegmentSize => f.write_str("tcp option maxseg size set rt mtu"),
        }
    }
}

fn family(net: IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::Ip,
        IpNet::V6(_) => Family::Ip6,
    }
}

fn short(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

pub(super) fn rule(matches: impl Into<Vec<Match>>, action: Action) -> Rule {
    Rule {
        matches: matches.into(),
        action,
    }
}

pub(super) fn host(address: impl Into<IpAddr>) -> IpNet {
    address.into().into()
}
