//! A guest that does by IPv6 what it must not.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
};

use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use super::bench::{Bench, GATEWAY6, GUEST6, LONG_ENOUGH, Machine, Netns, PEER6, SOON, may_run};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// Whether what `sender` sends from its address `from` arrives at the address `to` of `receiver`.
fn arrives(sender: &Netns, from: Ipv6Addr, receiver: &Netns, to: Ipv6Addr) -> bool {
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
    bench.pod.run("nft delete table ip6 kubevirt");
    &bench.pod
}

fn icmp(netns: &Netns) -> UdpSocket {
    let kind = SocketType::RAW;
    let socket = netns.within(|| socket(AddressFamily::INET6, kind, Some(ipproto::ICMPV6)));
    let socket = UdpSocket::from(socket.unwrap());
    socket.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    // As messages between neighbours have to (RFC 4861, 6.1 and 7.1).
    let options = socket2::SockRef::from(&socket);
    options.set_unicast_hops_v6(255).unwrap();
    options.set_multicast_hops_v6(255).unwrap();
    socket
}

fn index(netns: &Netns) -> u32 {
    let index = netns.run("cat /sys/class/net/eth0/ifindex");
    index.trim().parse().unwrap()
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    assert!(arrives(guest, GUEST6, &bench.peer, PEER6));
    let spoofed = ["fd10:0:2::9", "2001:db8::9", "fd00:10:244:1::9"].map(|address| {
        guest.run(&format!("ip addr add {address}/128 dev eth0 nodad"));
        address.parse::<Ipv6Addr>().unwrap()
    });
    for address in spoofed {
        assert!(
            !arrives(guest, address, &bench.peer, PEER6),
            "{address} got out"
        );
        assert!(
            !arrives(guest, address, &bench.pod, GATEWAY6),
            "{address} got in"
        );
    }
    let pod = without_rules(&bench);
    assert!(arrives(guest, spoofed[0], pod, GATEWAY6));
    assert!(arrives(guest, spoofed[1], &bench.peer, PEER6));
}

/// The kernel's table of neighbours is one for all pods of a node.
#[test]
fn a_guest_does_not_fill_the_table_of_neighbours() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let scope = index(guest);
    // A solicitation of the router (RFC 4861, 4.3) by each, with its link's address.
    let mut question = vec![135, 0, 0, 0, 0, 0, 0, 0];
    question.extend(router.octets());
    question.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    let senders: Vec<_> = (0..100)
        .map(|last| {
            let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, last);
            guest.run(&format!("ip addr add {address}/64 dev eth0 nodad"));
            let socket = icmp(guest);
            let address = SocketAddrV6::new(address, 0, 0, scope).into();
            socket2::SockRef::from(&socket).bind(&address).unwrap();
            socket
        })
        .collect();
    let ask = || {
        for sender in &senders {
            let to = SocketAddrV6::new(router, 0, 0, scope);
            sender.send_to(&question, to).unwrap();
        }
        std::thread::sleep(LONG_ENOUGH);
        let neighbours = bench.pod.run("ip -6 neigh show dev tap-eth0 nud all");
        neighbours
            .lines()
            .filter(|line| line.starts_with("fe80::1:"))
            .count()
    };
    let believed = ask();
    assert!(believed <= 16, "{believed} neighbours");
    // Those that it had first still are.
    assert!(arrives(guest, GUEST6, &bench.peer, PEER6));
    assert!(ask() <= 16);
    without_rules(&bench);
    assert_eq!(ask(), senders.len());
}

/// Neither by what it sends on its link, nor if a container of the pod makes the kernel trust the
/// link.
#[test]
fn a_guest_is_no_router_of_the_pod() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    bench
        .pod
        .run("sysctl -q net.ipv6.conf.tap-eth0.accept_ra=2");
    let socket = icmp(guest);
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index(guest));
    let advertisement = [134, 0, 0, 0, 64, 0, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0];
    let believed = || {
        socket.send_to(&advertisement, everybody).unwrap();
        std::thread::sleep(LONG_ENOUGH);
        bench.pod.run("ip -6 route").contains("proto ra")
    };
    assert!(!believed());
    without_rules(&bench);
    assert!((0..5).any(|_| believed()));
}

/// Packets of no known connection are not translated; they must not get out with the guest's
/// own address.
#[test]
fn nothing_leaves_untranslated() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    let (sender, receiver) = (icmp(guest), icmp(&bench.peer));
    // Errors about connections that are not there, a reply that nobody asked for, and a
    // solicitation that is not for a link of the guest's.
    let arrives = |kind: u8| {
        let mut message = [kind, 0, 0, 0, 0, 0, 0, 0].to_vec();
        message.extend([0; 48]);
        sender.send_to(&message, (PEER6, 0)).unwrap();
        std::iter::repeat_with(|| {
            let mut octets = [0; 100];
            receiver.recv(&mut octets).ok().map(|_| octets[0])
        })
        .map_while(|received| received)
        .any(|received| received == kind)
    };
    for kind in [1, 2, 3, 4, 129] {
        assert!(!arrives(kind), "type {kind}");
    }
    without_rules(&bench);
    assert!(arrives(129));
}

#[test]
fn a_guest_does_not_reach_the_pods_localhost() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    guest.run("ip addr del ::1/128 dev lo");
    guest.run("ip -6 route add ::1/128 via fe80::1 dev eth0 src fd10:0:2::2");
    bench.pod.greet(Ipv6Addr::LOCALHOST, 80, "pod");
    assert!(
        guest
            .hear_within(Ipv6Addr::LOCALHOST, 80, LONG_ENOUGH)
            .is_err()
    );
}

#[test]
fn floods_neither_stop_nor_feed_the_servers() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    let guest = &machine.guest;
    let servers = SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, index(guest));
    let routers = SocketAddrV6::new("ff02::2".parse().unwrap(), 0, 0, index(guest));
    let client = guest.within(|| UdpSocket::bind((ANY, 546))).unwrap();
    let solicitor = icmp(guest);
    for number in 0_u32..20_000 {
        // The relay's queue overflows; that is part of the flood.
        let _ = client.send_to(&number.to_be_bytes().repeat(75), servers);
        let _ = solicitor.send_to(&[133, 0, 0, 0, 0, 0, 0, 0], routers);
    }
    // INFORMATION-REQUEST (RFC 8415, 18.2.6), by hand; lost in the flood at first, as may be.
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut reply = [0; 1500];
    let answered = (0..5).any(|_| {
        client.send_to(&[11, 9, 9, 9], servers).unwrap();
        client.recv(&mut reply).is_ok()
    });
    assert!(answered, "the server is silent after a flood");
    assert_eq!(reply[..4], [7, 9, 9, 9]);
    // The guest forgets its router, and finds it again.
    guest.run("ip -6 route flush dev eth0 proto ra");
    let start = std::time::Instant::now();
    while !guest.run("ip -6 route").contains("default") {
        assert!(start.elapsed() < SOON, "the router is silent after a flood");
        solicitor
            .send_to(&[133, 0, 0, 0, 0, 0, 0, 0], routers)
            .unwrap();
        std::thread::sleep(LONG_ENOUGH);
    }
    // There was time for a few advertisements, not for one of each solicitation.
    let sent = bench.pod.run("nstat -asz Icmp6OutRouterAdvertisements");
    let sent: u32 = sent
        .lines()
        .find_map(|line| line.strip_prefix("Icmp6OutRouterAdvertisements"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    assert!(sent < 500, "{sent} advertisements");
}
