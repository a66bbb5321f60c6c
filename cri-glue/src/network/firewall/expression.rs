//! Rules as the kernel evaluates them: small instructions that load a part of the packet into a
//! register, compare it, and decide (linux/netfilter/nf_tables.h).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_bindings::{
    nftables::{CmpOps, CtKeys, MetaKeys, PayloadBase, PushExprListAttrs, Registers, VerdictCode},
    traits::Pusher,
    utils::{finalize_nested_header, push_header, push_nested_header},
};

use super::{
    batch::protocol_family,
    rules::{Action, Carried, Family, Icmp6, Match, Rule},
};

/// Size of an interface's name as the kernel compares it (`IFNAMSIZ`).
const INTERFACE_NAME_SIZE: usize = 16;

/// Offsets of the addresses in an IPv4 header (RFC 791, 3.1) and an IPv6 header (RFC 8200, 3).
const SOURCE_OFFSETS: (u32, u32) = (12, 8);
const DESTINATION_OFFSETS: (u32, u32) = (16, 24);
/// Offsets in a TCP, UDP or SCTP header (RFC 9293, 3.1).
const SOURCE_PORT_OFFSET: u32 = 0;
const DESTINATION_PORT_OFFSET: u32 = 2;
const TCP_FLAGS_OFFSET: u32 = 13;
/// Offset of the sender in an Ethernet header, and its size (IEEE 802.3).
const FRAME_SOURCE: (u32, u32) = (6, 6);
/// Where a frame says what it carries.
const FRAME_TYPE_OFFSET: u32 = 12;
/// Offsets of the addresses in an ARP packet over Ethernet (RFC 826).
const ARP_SOURCE_OFFSET: u32 = 14;
const ARP_TARGET_OFFSET: u32 = 24;
/// Offset of the type in an ICMPv6 header (RFC 4443, 2.1).
const ICMP6_TYPE_OFFSET: u32 = 0;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// Bits of a connection's state (`NF_CT_STATE_BIT` of `enum ip_conntrack_info`,
/// linux/netfilter/nf_conntrack_common.h).
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;
const NEW: u32 = 1 << 3;
/// Bit of a connection's status: its destination was rewritten (`IPS_DST_NAT`, likewise).
const DESTINATION_REWRITTEN: u32 = 1 << 5;

/// `enum nft_nat_types`.
const SOURCE_NAT: u32 = 0;
const DESTINATION_NAT: u32 = 1;

type List<P> = PushExprListAttrs<P>;

/// Appends the instructions of `rule`.
pub(super) fn push_rule<P: Pusher>(list: List<P>, rule: &Rule) -> List<P> {
    push_action(rule.matches.iter().fold(list, push_match), &rule.action)
}

fn push_match<P: Pusher>(list: List<P>, condition: &Match) -> List<P> {
    use PayloadBase::{LinkLayerHeader, NetworkHeader, TransportHeader};
    match condition {
        Match::Carries(carried) => {
            let list = meta(list, MetaKeys::Protocol);
            compare(list, CmpOps::Eq, &ether_type(*carried).to_be_bytes())
        }
        Match::FrameIsNotFrom(mac) => {
            let list = payload(list, LinkLayerHeader, FRAME_SOURCE.0, FRAME_SOURCE.1);
            compare(list, CmpOps::Neq, &mac.bytes())
        }
        Match::IsTagged(protocol) => {
            // The kernel has taken the tag off by now, but shows it to whoever looks at the frame.
            let list = payload(list, LinkLayerHeader, FRAME_TYPE_OFFSET, 2);
            compare(list, CmpOps::Eq, &protocol.to_be_bytes())
        }
        Match::ArpSourceIs(address) => {
            let list = payload(list, NetworkHeader, ARP_SOURCE_OFFSET, 4);
            compare(list, CmpOps::Eq, &address.octets())
        }
        Match::ArpTargetIs(address) => {
            let list = payload(list, NetworkHeader, ARP_TARGET_OFFSET, 4);
            compare(list, CmpOps::Eq, &address.octets())
        }
        Match::InputIs(name) => {
            compare(meta(list, MetaKeys::Iifname), CmpOps::Eq, &interface(name))
        }
        Match::InputIsNot(name) => {
            compare(meta(list, MetaKeys::Iifname), CmpOps::Neq, &interface(name))
        }
        Match::OutputIs(name) => {
            compare(meta(list, MetaKeys::Oifname), CmpOps::Eq, &interface(name))
        }
        Match::OutputIsNot(name) => {
            compare(meta(list, MetaKeys::Oifname), CmpOps::Neq, &interface(name))
        }
        Match::SourceIn(net) => address(list, SOURCE_OFFSETS, CmpOps::Eq, *net),
        Match::DestinationIn(net) => address(list, DESTINATION_OFFSETS, CmpOps::Eq, *net),
        Match::DestinationNotIn(net) => address(list, DESTINATION_OFFSETS, CmpOps::Neq, *net),
        Match::SourceAmong(set) => {
            let list = payload(list, NetworkHeader, SOURCE_OFFSETS.1, 16);
            // The attributes are `NFTA_DYNSET_SET_NAME`, `_OP` (`NFT_DYNSET_OP_UPDATE`) and
            // `_SREG_KEY`. An address that the set has no room for ends the rule.
            let name = [set.as_bytes(), &[0]].concat();
            let key = number(Registers::Reg1 as u32);
            raw(list, "dynset", &[(1, &name), (3, &number(1)), (4, &key)])
        }
        Match::IsTcp => protocol(list, CmpOps::Eq, TCP),
        Match::IsTcpSyn => {
            let list = tcp_flags(list, TCP_SYN | TCP_RST);
            compare(list, CmpOps::Eq, &[TCP_SYN])
        }
        Match::IsTcpUnderWay => {
            let list = tcp_flags(list, TCP_SYN | TCP_ACK);
            compare(list, CmpOps::Neq, &[TCP_SYN])
        }
        Match::IsNotIcmp => protocol(list, CmpOps::Neq, ICMP),
        Match::IsIcmp6 => protocol(list, CmpOps::Eq, ICMP6),
        Match::Icmp6Is(message) => {
            let list = protocol(list, CmpOps::Eq, ICMP6);
            let list = payload(list, TransportHeader, ICMP6_TYPE_OFFSET, 1);
            compare(list, CmpOps::Eq, &[icmp6_type(*message)])
        }
        Match::IsUdp {
            source,
            destination,
        } => {
            let list = payload(
                protocol(list, CmpOps::Eq, UDP),
                TransportHeader,
                SOURCE_PORT_OFFSET,
                2,
            );
            let list = payload(
                compare(list, CmpOps::Eq, &source.to_be_bytes()),
                TransportHeader,
                DESTINATION_PORT_OFFSET,
                2,
            );
            compare(list, CmpOps::Eq, &destination.to_be_bytes())
        }
        Match::PortIn(set) => port_in(list, set),
        Match::IsEstablished => any_of(connection(list, CtKeys::State), ESTABLISHED | RELATED),
        Match::IsNew => any_of(connection(list, CtKeys::State), NEW),
        Match::IsRedirected => any_of(connection(list, CtKeys::Status), DESTINATION_REWRITTEN),
    }
}

fn push_action<P: Pusher>(list: List<P>, action: &Action) -> List<P> {
    match action {
        Action::Accept => verdict(list, VerdictCode::Accept, None),
        Action::TakeIn => verdict(to_this_host(list), VerdictCode::Accept, None),
        Action::Pass(device) => {
            // The attribute is `NFTA_FWD_SREG_DEV`.
            let list = immediate(list, &device.index.to_ne_bytes());
            raw(list, "fwd", &[(1, &number(Registers::Reg1 as u32))])
        }
        Action::Drop => verdict(list, VerdictCode::Drop, None),
        Action::Return => verdict(list, VerdictCode::Return, None),
        Action::Jump(chain) => verdict(list, VerdictCode::Jump, Some(chain)),
        Action::Redirect(to) => rewrite(list, DESTINATION_NAT, *to),
        Action::RedirectToPort(port) => redirect_to_port(list, *port),
        Action::Disguise(to) => rewrite(list, SOURCE_NAT, *to),
        Action::Masquerade => raw(list, "masq", &[]),
        Action::ClampSegmentSize => clamp_segment_size(list),
    }
}

fn meta<P: Pusher>(list: List<P>, key: MetaKeys) -> List<P> {
    list.nested_elem()
        .nested_data_meta()
        .push_key(key as u32)
        .push_dreg(Registers::Reg1 as u32)
        .end_nested()
        .end_nested()
}

fn connection<P: Pusher>(list: List<P>, key: CtKeys) -> List<P> {
    list.nested_elem()
        .nested_data_ct()
        .push_key(key as u32)
        .push_dreg(Registers::Reg1 as u32)
        .end_nested()
        .end_nested()
}

fn payload<P: Pusher>(list: List<P>, base: PayloadBase, offset: u32, size: u32) -> List<P> {
    payload_into(list, Registers::Reg1, base, offset, size)
}

fn payload_into<P: Pusher>(
    list: List<P>,
    register: Registers,
    base: PayloadBase,
    offset: u32,
    size: u32,
) -> List<P> {
    list.nested_elem()
        .nested_data_payload()
        .push_dreg(register as u32)
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(size)
        .end_nested()
        .end_nested()
}

fn protocol<P: Pusher>(list: List<P>, operation: CmpOps, number: u8) -> List<P> {
    compare(meta(list, MetaKeys::L4Proto), operation, &[number])
}

/// Those of the flags of a TCP header that are in `flags`.
fn tcp_flags<P: Pusher>(list: List<P>, flags: u8) -> List<P> {
    let list = protocol(list, CmpOps::Eq, TCP);
    let list = payload(list, PayloadBase::TransportHeader, TCP_FLAGS_OFFSET, 1);
    mask(list, &[flags])
}

fn compare<P: Pusher>(list: List<P>, operation: CmpOps, with: &[u8]) -> List<P> {
    list.nested_elem()
        .nested_data_cmp()
        .push_sreg(Registers::Reg1 as u32)
        .push_op(operation as u32)
        .nested_data()
        .push_value(with)
        .end_nested()
        .end_nested()
        .end_nested()
}

/// Keeps the bits of `mask`. All bits need no instruction.
fn mask<P: Pusher>(list: List<P>, mask: &[u8]) -> List<P> {
    if mask.iter().all(|octet| *octet == u8::MAX) {
        return list;
    }
    let size = u32::try_from(mask.len()).expect("what is compared is small");
    list.nested_elem()
        .nested_data_bitwise()
        .push_sreg(Registers::Reg1 as u32)
        .push_dreg(Registers::Reg1 as u32)
        .push_len(size)
        .nested_mask()
        .push_value(mask)
        .end_nested()
        .nested_xor()
        .push_value(&vec![0; mask.len()])
        .end_nested()
        .end_nested()
        .end_nested()
}

/// The number in the register has one of `bits`.
fn any_of<P: Pusher>(list: List<P>, bits: u32) -> List<P> {
    compare(mask(list, &bits.to_ne_bytes()), CmpOps::Neq, &[0; 4])
}

/// The library has other numbers for the attributes of a look-up than the kernel (`NFTA_LOOKUP_*`).
fn port_in<P: Pusher>(list: List<P>, set: &str) -> List<P> {
    // The key takes two registers of 32 bits, of which the first two make up the first of 128.
    let list = payload_into(
        meta(list, MetaKeys::L4Proto),
        Registers::Reg3201,
        PayloadBase::TransportHeader,
        DESTINATION_PORT_OFFSET,
        2,
    );
    let name = [set.as_bytes(), &[0]].concat();
    raw(
        list,
        "lookup",
        &[(1, &name), (2, &number(Registers::Reg1 as u32))],
    )
}

fn verdict<P: Pusher>(list: List<P>, code: VerdictCode, chain: Option<&str>) -> List<P> {
    let verdict = list
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(code as u32);
    let verdict = match chain {
        Some(chain) => verdict.push_chain_bytes(chain.as_bytes()),
        None => verdict,
    };
    verdict.end_nested().end_nested().end_nested().end_nested()
}

fn rewrite<P: Pusher>(list: List<P>, kind: u32, address: IpAddr) -> List<P> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (Family::Ip, address.octets().to_vec()),
        IpAddr::V6(address) => (Family::Ip6, address.octets().to_vec()),
    };
    immediate(list, &octets)
        .nested_elem()
        .nested_data_nat()
        .push_type(kind)
        .push_family(protocol_family(family).into())
        .push_reg_addr_min(Registers::Reg1 as u32)
        .end_nested()
        .end_nested()
}

/// The attribute is `NFTA_REDIR_REG_PROTO_MIN`.
fn redirect_to_port<P: Pusher>(list: List<P>, port: u16) -> List<P> {
    let list = immediate(list, &port.to_be_bytes());
    raw(list, "redir", &[(1, &number(Registers::Reg1 as u32))])
}

/// Loads `octets` into the register.
fn immediate<P: Pusher>(list: List<P>, octets: &[u8]) -> List<P> {
    list.nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::Reg1 as u32)
        .nested_data()
        .push_value(octets)
        .end_nested()
        .end_nested()
        .end_nested()
}

/// Loads what the route carries, and writes it to the TCP option. The attributes are `NFTA_RT_*`,
/// `NFTA_BYTEORDER_*` and `NFTA_EXTHDR_*`.
fn clamp_segment_size<P: Pusher>(list: List<P>) -> List<P> {
    const ROUTE_SEGMENT_SIZE: u32 = 3;
    const TO_NETWORK_ORDER: u32 = 1;
    const TCP_OPTION: u32 = 1;
    const OPTION_SEGMENT_SIZE: u8 = 2;
    let register = number(Registers::Reg1 as u32);
    let size = number(2);
    let list = raw(
        list,
        "rt",
        &[(1, &register), (2, &number(ROUTE_SEGMENT_SIZE))],
    );
    let order = number(TO_NETWORK_ORDER);
    let list = raw(
        list,
        "byteorder",
        &[
            (1, &register),
            (2, &register),
            (3, &order),
            (4, &size),
            (5, &size),
        ],
    );
    let (kind, offset) = ([OPTION_SEGMENT_SIZE], number(2));
    raw(
        list,
        "exthdr",
        &[
            (2, &kind),
            (3, &offset),
            (4, &size),
            (6, &number(TCP_OPTION)),
            (7, &register),
        ],
    )
}

/// An instruction that the library has no encoder for, or a wrong one: its attributes by number.
fn raw<P: Pusher>(list: List<P>, name: &str, attributes: &[(u16, &[u8])]) -> List<P> {
    /// `NFTA_EXPR_DATA`.
    const DATA: u16 = 2;
    let mut expression = list.nested_elem().push_name_bytes(name.as_bytes());
    let buffer = expression.as_vec_mut();
    let start = push_nested_header(buffer, DATA);
    for (attribute, value) in attributes {
        let size = u16::try_from(value.len()).expect("attributes of an instruction are small");
        push_header(buffer, *attribute, size);
        buffer.extend(*value);
    }
    finalize_nested_header(buffer, start);
    expression.end_nested()
}

fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// What is compared of an interface's name: all of it, or what it begins with.
fn interface(name: &str) -> Vec<u8> {
    match name.strip_suffix('*') {
        Some(beginning) => beginning.as_bytes().to_vec(),
        None => {
            let mut padded = name.as_bytes().to_vec();
            padded.resize(INTERFACE_NAME_SIZE, 0);
            padded
        }
    }
}

/// Numbers of protocols over Ethernet (IANA, IEEE 802 numbers).
fn ether_type(carried: Carried) -> u16 {
    match carried {
        Carried::Ip => 0x0800,
        Carried::Arp => 0x0806,
    }
}

/// Makes the host take the packet for its own (`PACKET_HOST`, linux/if_packet.h; the attributes are
/// `NFTA_META_KEY` and `NFTA_META_SREG`).
fn to_this_host<P: Pusher>(list: List<P>) -> List<P> {
    const PACKET_HOST: u8 = 0;
    let list = immediate(list, &[PACKET_HOST]);
    let key = number(MetaKeys::Pkttype as u32);
    raw(
        list,
        "meta",
        &[(2, &key), (3, &number(Registers::Reg1 as u32))],
    )
}

fn icmp6_type(message: Icmp6) -> u8 {
    match message {
        Icmp6::RouterAdvertisement => 134,
        Icmp6::Redirect => 137,
    }
}

/// The address at the offset for its family is in `net`.
/// Compares the network of an address with `net`.
fn address<P: Pusher>(
    list: List<P>,
    offsets: (u32, u32),
    operation: CmpOps,
    net: IpNet,
) -> List<P> {
    let (offset, netmask, network) = match net {
        IpNet::V4(net) => (
            offsets.0,
            net.netmask().octets().to_vec(),
            net.network().octets().to_vec(),
        ),
        IpNet::V6(net) => (
            offsets.1,
            net.netmask().octets().to_vec(),
            net.network().octets().to_vec(),
        ),
    };
    let size = u32::try_from(network.len()).expect("addresses are small");
    let list = payload(list, PayloadBase::NetworkHeader, offset, size);
    compare(mask(list, &netmask), operation, &network)
}
