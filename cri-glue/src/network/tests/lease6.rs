//! What a guest learns by IPv6: from advertisements its kernel, from DHCPv6 a client played by hand.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use dhcproto::{
    Decodable, Encodable,
    v6::{DhcpOption, DhcpOptions, IANA, Message, MessageType, OptionCode},
};

use super::bench::{Bench, GATEWAY6, GUEST6, LONG_ENOUGH, Machine, PEER6, POD6, may_run};
use crate::network::Dns;

const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// A client in the guest.
struct Client {
    socket: UdpSocket,
    to: SocketAddrV6,
}

impl Client {
    fn new(machine: &Machine) -> Self {
        let guest = &machine.guest;
        guest.wait_until_settled();
        let index = guest.run("cat /sys/class/net/eth0/ifindex");
        let socket = guest.within(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 546)));
        Self {
            socket: socket.unwrap(),
            to: SocketAddrV6::new(ALL_SERVERS, 547, 0, index.trim().parse().unwrap()),
        }
    }

    fn ask(&self, kind: MessageType, options: &[DhcpOption]) -> Option<Message> {
        let mut message = Message::new_with_id(kind, [7, 8, 9]);
        let client = DhcpOption::ClientId(vec![0, 4, 1, 2, 3]);
        message.set_opts(options.iter().cloned().chain([client]).collect());
        self.socket.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
        self.socket
            .send_to(&message.to_vec().unwrap(), self.to)
            .unwrap();
        let mut octets = [0; 1500];
        let (size, from) = self.socket.recv_from(&mut octets).ok()?;
        assert_eq!(from.ip().to_string(), "fe80::1");
        let answer = Message::from_bytes(&octets[..size]).unwrap();
        assert_eq!(answer.xid(), [7, 8, 9]);
        Some(answer)
    }

    fn wanting(&self, kind: MessageType, options: &[DhcpOption]) -> Option<Message> {
        let association = DhcpOption::IANA(IANA {
            id: 1,
            t1: 0,
            t2: 0,
            opts: DhcpOptions::new(),
        });
        self.ask(kind, &[options, &[association]].concat())
    }
}

fn address(message: &Message) -> Ipv6Addr {
    let Some(DhcpOption::IANA(association)) = message.opts().get(OptionCode::IANA) else {
        panic!("no addresses in {message:?}");
    };
    match association.opts.get(OptionCode::IAAddr) {
        Some(DhcpOption::IAAddr(address)) => address.addr,
        other => panic!("no address but {other:?}"),
    }
}

#[test]
fn a_guest_learns_the_way_out_and_its_mtu() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    let routes = machine.guest.run("ip -6 route show dev eth0");
    assert!(routes.contains("default via fe80::1 proto ra"), "{routes}");
    assert!(routes.contains("fd10:0:2::/120 proto"), "{routes}");
    let mtu = machine.guest.run("sysctl -n net.ipv6.conf.eth0.mtu");
    assert_eq!(mtu.trim(), "1400");
    // It is told to ask for an address, not to make one.
    let addresses = machine.guest.run("ip -6 -o addr show dev eth0 dynamic");
    assert_eq!(addresses, "");
}

#[test]
fn a_client_gets_an_address_and_the_pods_resolver() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine_without_lease(|request| {
        request.dns = Dns::parse(
            "search shop.svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00:10:96::a",
        );
    });
    let client = Client::new(&machine);
    let offer = client.wanting(MessageType::Solicit, &[]).unwrap();
    assert_eq!(
        (offer.msg_type(), address(&offer)),
        (MessageType::Advertise, GUEST6)
    );
    let server = offer.opts().get(OptionCode::ServerId).unwrap().clone();
    let answer = client.wanting(MessageType::Request, &[server]).unwrap();
    assert_eq!(
        (answer.msg_type(), address(&answer)),
        (MessageType::Reply, GUEST6)
    );
    assert_eq!(
        answer.opts().get(OptionCode::DomainNameServers),
        Some(&DhcpOption::DomainNameServers(vec![
            "fd00:10:96::a".parse().unwrap()
        ]))
    );
    assert!(answer.opts().get(OptionCode::DomainSearchList).is_some());
    machine
        .guest
        .run(&format!("ip addr add {}/128 dev eth0", address(&answer)));
    machine.guest.wait_until_settled();
    assert!(!machine.guest.run("ip -6 -o addr").contains("dadfailed"));
    bench.peer.greet(Ipv6Addr::UNSPECIFIED, 80, "peer");
    assert_eq!(machine.guest.hear(PEER6, 80), Ok(format!("peer {POD6}")));
}

#[test]
fn a_network_of_ones_own_choice_works() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine_without_lease(|request| {
        request.guest_network6 = Some("2001:db8:7::/64".parse().unwrap());
    });
    let offer = Client::new(&machine).wanting(MessageType::Solicit, &[]);
    assert_eq!(address(&offer.unwrap()).to_string(), "2001:db8:7::2",);
    let gateway = bench
        .pod
        .run("ip -6 -o addr show dev tap-eth0 scope global");
    assert!(gateway.contains("2001:db8:7::1/64"), "{gateway}");
}

#[test]
fn a_pod_without_ipv4_has_a_guest_without() {
    if !may_run() {
        return;
    }
    let bench = Bench::only_ipv6();
    let machine = bench.machine6(|_| {});
    assert_eq!(bench.pod.run("ip -4 -o addr show dev tap-eth0"), "");
    bench.peer.greet(Ipv6Addr::UNSPECIFIED, 80, "peer");
    assert_eq!(machine.guest.hear(PEER6, 80), Ok(format!("peer {POD6}")));
    machine.guest.greet(Ipv6Addr::UNSPECIFIED, 8080, "guest");
    assert_eq!(bench.peer.hear(POD6, 8080), Ok(format!("guest {PEER6}")));
    assert_eq!(
        bench.pod.hear(Ipv6Addr::LOCALHOST, 8080),
        Ok(format!("guest {GATEWAY6}"))
    );
}
