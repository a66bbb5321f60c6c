//! A guest that does what it must not.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use super::bench::{Bench, GATEWAY, GUEST, LONG_ENOUGH, Machine, Netns, PEER, POD, SOON, may_run};
use crate::network::Inbound;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Whether what `sender` sends from its address `from` arrives at the address `to` of `receiver`.
fn arrives(sender: &Netns, from: Ipv4Addr, receiver: &Netns, to: Ipv4Addr) -> bool {
    let server = receiver.within(|| UdpSocket::bind((to, 0))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = sender.within(|| UdpSocket::bind((from, 0))).unwrap();
    client.send_to(b"x", (to, port)).unwrap();
    match server.recv(&mut [0; 16]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// It is the rules that prevent what a test sees prevented, not a mistake of the test.
fn without_rules(bench: &Bench) -> &Netns {
    bench.pod.run("nft delete table ip kubevirt");
    bench.pod.run("nft delete table netdev kubevirt");
    &bench.pod
}

/// Sends loopback addresses out on the wire.
fn externalize_loopback(netns: &Netns, gateway: Ipv4Addr) {
    netns.run("sysctl -q net.ipv4.conf.all.route_localnet=1");
    netns.run("ip addr del 127.0.0.1/8 dev lo");
    netns.run(&format!("ip route add 127.0.0.0/8 via {gateway}"));
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let Machine { guest, .. } = &bench.machine(|_| {});
    assert!(arrives(guest, GUEST, &bench.peer, PEER));
    let spoofed = ["10.0.2.9", "203.0.113.9", "10.244.1.9"].map(|address| {
        guest.run(&format!("ip addr add {address}/32 dev eth0"));
        address.parse::<Ipv4Addr>().unwrap()
    });
    for address in spoofed {
        assert!(
            !arrives(guest, address, &bench.peer, PEER),
            "{address} got out"
        );
        assert!(
            !arrives(guest, address, &bench.pod, GATEWAY),
            "{address} got in"
        );
    }
    let pod = without_rules(&bench);
    assert!(arrives(guest, spoofed[0], pod, GATEWAY));
    assert!(arrives(guest, spoofed[1], &bench.peer, PEER));
}

/// The kernel's table of neighbours is one for all pods of a node.
#[test]
fn a_guest_does_not_fill_the_table_of_neighbours() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let Machine { guest, .. } = &bench.machine(|_| {});
    let invented: Vec<_> = (10..30).map(|last| Ipv4Addr::new(10, 0, 2, last)).collect();
    for address in &invented {
        guest.run(&format!("ip addr add {address}/24 dev eth0"));
    }
    // Each asks anew who has the gateway's address, and says who asks.
    let ask = || {
        for address in &invented {
            guest.run("ip neigh flush dev eth0");
            let client = guest.within(|| UdpSocket::bind((*address, 0))).unwrap();
            client.send_to(b"x", (GATEWAY, 9)).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let neighbours = bench.pod.run("ip neigh show dev tap-eth0 nud all");
        neighbours.lines().count()
    };
    assert!(ask() <= 1);
    without_rules(&bench);
    assert!(ask() >= invented.len());
}

#[test]
fn a_guest_does_not_reach_the_pods_localhost() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let Machine { guest, .. } = &bench.machine(|_| {});
    externalize_loopback(guest, GATEWAY);
    assert!(!arrives(guest, GUEST, &bench.pod, Ipv4Addr::LOCALHOST));
    assert!(arrives(
        guest,
        GUEST,
        without_rules(&bench),
        Ipv4Addr::LOCALHOST
    ));
}

#[test]
fn loopback_addresses_are_not_believed_from_the_wire() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let _machine = bench.machine(|request| request.inbound = Inbound::Only(vec![]));
    // A pod whose kernel would take them.
    bench
        .pod
        .run("sysctl -q net.ipv4.conf.eth0.route_localnet=1");
    externalize_loopback(&bench.peer, POD);
    let spoofed = Ipv4Addr::new(127, 0, 0, 5);
    bench
        .peer
        .run(&format!("ip addr add {spoofed}/32 dev eth0"));
    assert!(!arrives(&bench.peer, PEER, &bench.pod, Ipv4Addr::LOCALHOST));
    assert!(!arrives(&bench.peer, spoofed, &bench.pod, POD));
    let pod = without_rules(&bench);
    assert!(arrives(&bench.peer, PEER, pod, Ipv4Addr::LOCALHOST));
    assert!(arrives(&bench.peer, spoofed, pod, POD));
}

/// Packets of no known connection are not translated; they must not get out with the guest's
/// own address.
#[test]
fn nothing_leaves_untranslated() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let Machine { guest, .. } = &bench.machine(|_| {});
    let (sender, receiver) = (icmp(guest), icmp(&bench.peer));
    // An echo reply that nobody asked for.
    let unsolicited = [0, 0, 0xff, 0xff, 0, 0, 0, 0];
    let arrives = || {
        sender.send_to(&unsolicited, (PEER, 0)).unwrap();
        receiver.recv(&mut [0; 100]).is_ok()
    };
    assert!(!arrives());
    without_rules(&bench);
    assert!(arrives());
}

fn icmp(netns: &Netns) -> UdpSocket {
    let kind = SocketType::RAW;
    let socket = netns.within(|| socket(AddressFamily::INET, kind, Some(ipproto::ICMP)));
    let socket = UdpSocket::from(socket.unwrap());
    socket.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    socket
}

#[test]
fn router_advertisements_of_the_guest_go_nowhere() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let _machine = bench.machine(|_| {});
    let addresses = bench.pod.run("ip -6 -o addr show dev tap-eth0");
    assert_eq!(addresses, "", "the pod speaks IPv6 with the guest");
}

#[test]
fn a_flood_neither_stops_nor_feeds_the_dhcp_server() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    let client = machine.guest.within(|| UdpSocket::bind((ANY, 68))).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    for number in 0_u32..20_000 {
        let junk = number.to_be_bytes().repeat(75);
        // The relay's queue overflows; that is part of the flood.
        let _ = client.send_to(&junk, (GATEWAY, 67));
    }
    // INFORM (RFC 2131, 3.4), by hand; lost in the flood at first, as may be.
    let mut inform = vec![1, 1, 6, 0, 9, 9, 9, 9, 0, 0, 0, 0, 10, 0, 2, 2];
    inform.extend([0; 12]);
    inform.extend(crate::network::derive_mac("test").bytes());
    inform.resize(236, 0);
    inform.extend([99, 130, 83, 99, 53, 1, 8, 255]);
    let mut reply = [0; 1500];
    let answered = (0..5).any(|_| {
        client.send_to(&inform, (GATEWAY, 67)).unwrap();
        client.recv(&mut reply).is_ok()
    });
    assert!(answered, "the server is silent after a flood");
    assert_eq!(reply[..8], [2, 1, 6, 0, 9, 9, 9, 9]);
}
