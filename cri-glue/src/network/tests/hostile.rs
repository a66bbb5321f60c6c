//! A guest that does what it must not.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
};

use super::bench::{Bench, GATEWAY, GUEST, LONG_ENOUGH, Machine, Netns, PEER, SOON, may_run, tcp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Sends from `from` in the guest, and tells whether it arrives at `to` within `there`.
fn arrives(machine: &Machine, from: Ipv4Addr, there: &Netns, to: Ipv4Addr) -> bool {
    let server = there.within(|| UdpSocket::bind((to, 0))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = machine.guest.within(|| UdpSocket::bind((from, 0))).unwrap();
    client.send_to(b"x", (to, port)).unwrap();
    match server.recv(&mut [0; 16]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    // The peer would answer all of them.
    bench
        .peer
        .run(&format!("ip route add default via {}", super::bench::POD));
    assert!(arrives(&machine, GUEST, &bench.peer, PEER));
    for spoofed in ["10.0.2.9", "203.0.113.9", "10.244.1.9"] {
        machine
            .guest
            .run(&format!("ip addr add {spoofed}/32 dev eth0"));
        let spoofed = spoofed.parse().unwrap();
        assert!(
            !arrives(&machine, spoofed, &bench.peer, PEER),
            "{spoofed} came through"
        );
        assert!(
            !arrives(&machine, spoofed, &bench.pod, GATEWAY),
            "{spoofed} came in"
        );
    }
}

#[test]
fn a_guest_does_not_reach_the_pods_localhost() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|request| request.others = vec![tcp(9090)]);
    let localhost = Ipv4Addr::LOCALHOST;
    // A guest with loopback addresses out on the wire.
    for command in [
        "sysctl -q net.ipv4.conf.all.route_localnet=1",
        "ip link set lo down",
        "ip route flush table local 127.0.0.0/8",
        "ip route add 127.0.0.0/8 via 10.0.2.1",
    ] {
        machine.guest.run(command);
    }
    assert!(
        arrives(&machine, GUEST, &bench.pod, GATEWAY),
        "the way there does not work"
    );
    assert!(!arrives(&machine, GUEST, &bench.pod, localhost));
}

#[test]
fn loopback_addresses_are_not_believed_from_the_wire() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let _machine = bench.machine(|_| {});
    // The strictest proof: a pod whose kernel would take them.
    bench
        .pod
        .run("sysctl -q net.ipv4.conf.eth0.route_localnet=1");
    for command in [
        "sysctl -q net.ipv4.conf.all.route_localnet=1",
        "ip link set lo down",
        "ip route flush table local 127.0.0.0/8",
        "ip route add 127.0.0.0/8 via 10.244.1.7",
    ] {
        bench.peer.run(command);
    }
    let server = bench
        .pod
        .within(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 7777)))
        .unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let client = bench.peer.within(|| UdpSocket::bind((ANY, 0))).unwrap();
    client.send_to(b"x", (Ipv4Addr::LOCALHOST, 7777)).unwrap();
    assert_eq!(
        server.recv(&mut [0; 16]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
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
