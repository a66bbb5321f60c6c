//! One transaction of nftables (nfnetlink): a table's parts as netlink messages, sent in one write,
//! so that the kernel takes all of them or none.

use std::num::NonZeroU16;

use netlink_bindings::{
    nftables::{Chained, Nfgenmsg, OpNewsetDo, PushSetelemListElemAttrs, Request},
    traits::Pusher,
};
use netlink_socket2::{NetlinkSocket, ReplyError};

use super::{
    expression,
    rules::{Chain, Family, Hook, Kind, Point, PortSet, Rule, Set, SourceSet, Table},
};
use crate::network::{Port, Protocol};

/// `NFNL_SUBSYS_NFTABLES` (linux/netfilter/nfnetlink.h): the subsystem that a batch is for.
const SUBSYSTEM: u16 = 10;

/// How nft(8) calls the type of a set's keys: `inet_proto . inet_service`. Each part takes six bits
/// (nftables, datatype.h); the kernel only keeps it.
const KEY_TYPE: u32 = 12 << 6 | 13;
/// Octets of a key: protocol and port, each padded to a register.
const KEY_SIZE: u32 = 8;
/// `NFT_SET_TIMEOUT | NFT_SET_EVAL` (linux/netfilter/nf_tables.h).
const FILLED_BY_RULES: u32 = 0x10 | 0x20;

/// The type `ipv6_addr` likewise, and its octets.
const ADDRESS_TYPE: u32 = 8;
const ADDRESS_SIZE: u32 = 16;

/// Ports in one message, so that no netlink attribute passes its limit of 64 KiB.
const PORTS_PER_MESSAGE: usize = 1000;

/// Messages that take effect together.
pub(super) struct Batch {
    messages: Chained<'static>,
    family: Family,
    table: String,
}

impl Batch {
    /// An empty batch for the table of `family` called `table`.
    pub(super) fn new(family: Family, table: &str) -> Self {
        // The socket serves one batch at a time, so that any sequence number will do.
        let mut batch = Self {
            messages: Chained::new(1),
            family,
            table: table.to_owned(),
        };
        batch.messages.request().op_batch_begin_do(&batch_header());
        batch
    }

    /// Installs `table`, and nothing else remains in it.
    pub(super) fn replace(&mut self, table: &Table) {
        // Only a table that exists can be deleted, and creating one that exists is no error.
        self.create_table();
        self.delete_table();
        self.create_table();
        for (id, set) in (1..).zip(&table.sets) {
            match set {
                Set::Ports(set) => self.create_ports(id, set),
                Set::Sources(set) => self.create_sources(id, set),
            }
        }
        for chain in &table.chains {
            self.create_chain(chain);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.append_rule(chain.name, rule);
            }
        }
    }

    pub(super) fn delete_table(&mut self) {
        let header = header(self.family);
        let mut request = self.messages.request().op_deltable_do(&header);
        request.encode().push_name_bytes(self.table.as_bytes());
    }

    /// Hands all messages to the kernel of the calling thread's network namespace, and waits until
    /// they are in effect.
    pub(super) fn send(mut self, netlink: &mut NetlinkSocket) -> Result<(), ReplyError> {
        self.messages.request().op_batch_end_do(&batch_header());
        netlink
            .request_chained(&self.messages.finalize())?
            .recv_all()
    }

    fn creating(&mut self) -> Request<'_> {
        self.messages.request().set_create()
    }

    fn create_table(&mut self) {
        let table = self.table.clone();
        let header = header(self.family);
        let mut request = self.creating().op_newtable_do(&header);
        request.encode().push_name_bytes(table.as_bytes());
    }

    fn create_chain(&mut self, chain: &Chain) {
        let table = self.table.clone();
        let header = header(self.family);
        let mut request = self.creating().op_newchain_do(&header);
        let encoder = request
            .encode()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(chain.name.as_bytes());
        if let Some(hook) = &chain.hook {
            let place = encoder
                .nested_hook()
                .push_num(point(&hook.point))
                .push_priority(priority(hook));
            let place = match &hook.point {
                Point::Ingress(device) => place.push_dev_bytes(device.as_bytes()),
                _ => place,
            };
            place.end_nested().push_type(match hook.kind {
                Kind::Raw | Kind::Filter => c"filter",
                Kind::Nat => c"nat",
            });
        }
    }

    fn create_ports(&mut self, id: u32, set: &PortSet) {
        self.create_set(id, set.name, 0, (KEY_TYPE, KEY_SIZE));
        let ports: Vec<Port> = set.ports.iter().copied().collect();
        self.add_ports(set.name, Some(id), &ports);
    }

    fn create_sources(&mut self, id: u32, set: &SourceSet) {
        let addresses = (ADDRESS_TYPE, ADDRESS_SIZE);
        let mut request = self.create_set(id, set.name, FILLED_BY_RULES, addresses);
        request
            .encode()
            // In the order of the network, which the library does not know of it.
            .push_timeout((u64::from(set.seconds) * 1000).to_be())
            .nested_desc()
            .push_size(set.most)
            .end_nested();
    }

    /// Creates a set whose keys have this type and so many octets; further attributes can be added.
    fn create_set(
        &mut self,
        id: u32,
        name: &str,
        flags: u32,
        (key_type, octets): (u32, u32),
    ) -> OpNewsetDo<'_> {
        let table = self.table.clone();
        let header = header(self.family);
        let mut request = self.creating().op_newset_do(&header);
        request
            .encode()
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(flags)
            .push_key_type(key_type)
            .push_key_len(octets)
            .push_id(id);
        request
    }

    /// Adds `ports` to a set: one of this batch, by its `id`, or one that is there already. A port
    /// that is in it stays in it.
    pub(super) fn add_ports(&mut self, set: &str, id: Option<u32>, ports: &[Port]) {
        let table = self.table.clone();
        for ports in ports.chunks(PORTS_PER_MESSAGE) {
            let header = header(self.family);
            let mut request = self.creating().op_newsetelem_do(&header);
            let mut attributes = request
                .encode()
                .push_table_bytes(table.as_bytes())
                .push_set_bytes(set.as_bytes());
            if let Some(id) = id {
                attributes = attributes.push_set_id(id);
            }
            ports.iter().fold(attributes.nested_elements(), element);
        }
    }

    fn append_rule(&mut self, chain: &str, rule: &Rule) {
        let table = self.table.clone();
        let header = header(self.family);
        let mut request = self.creating().set_append().op_newrule_do(&header);
        let list = request
            .encode()
            .push_table_bytes(table.as_bytes())
            .push_chain_bytes(chain.as_bytes())
            .nested_expressions();
        expression::push_rule(list, rule);
    }
}

fn element<P: Pusher>(
    elements: PushSetelemListElemAttrs<P>,
    port: &Port,
) -> PushSetelemListElemAttrs<P> {
    elements
        .nested_elem()
        .nested_key()
        .push_value(&key(port.protocol, port.number))
        .end_nested()
        .end_nested()
}

fn key(protocol: Protocol, number: NonZeroU16) -> [u8; KEY_SIZE as usize] {
    let [high, low] = number.get().to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6` and `NFPROTO_NETDEV` (linux/netfilter.h).
pub(super) fn protocol_family(family: Family) -> u8 {
    match family {
        Family::Ip => 2,
        Family::Ip6 => 10,
        Family::Netdev => 5,
    }
}

/// Hook numbers, which the families of IP have in common (`enum nf_inet_hooks` and
/// `enum nf_dev_hooks`, linux/netfilter.h).
fn point(point: &Point) -> u32 {
    match point {
        Point::Ingress(_) | Point::Prerouting => 0,
        Point::Forward => 2,
        Point::Output => 3,
        Point::Postrouting => 4,
    }
}

/// Priorities, which the families have in common (`enum nf_ip_hook_priorities`,
/// linux/netfilter_ipv4.h).
fn priority(hook: &Hook) -> i32 {
    match (hook.kind, &hook.point) {
        (Kind::Raw, _) => -300,
        (Kind::Filter, _) => 0,
        (Kind::Nat, Point::Postrouting) => 100,
        (Kind::Nat, _) => -100,
    }
}

fn header(family: Family) -> Nfgenmsg {
    Nfgenmsg {
        nfgen_family: protocol_family(family),
        ..Default::default()
    }
}

fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(SUBSYSTEM);
    header
}
