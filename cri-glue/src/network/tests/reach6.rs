//! Who reaches whom by IPv6, and under which address.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};

use super::bench::{
    Bench, GATEWAY6, GUEST6, LONG_ENOUGH, Machine, Netns, PEER, PEER6, POD, POD_MTU, POD6, SOON,
    may_run, tcp,
};
use crate::network::Inbound;

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const LOCALHOST: Ipv6Addr = Ipv6Addr::LOCALHOST;

#[test]
fn a_guest_is_reached_and_reaches_out_under_the_pods_address() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    bench.peer.greet(ANY, 80, "peer");
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(machine.guest.hear(PEER6, 80), Ok(format!("peer {POD6}")));
    assert_eq!(bench.peer.hear(POD6, 8080), Ok(format!("guest {PEER6}")));
    machine
        .guest
        .run(&format!("busybox ping -6 -c 1 -W 2 {PEER6}"));
    bench.peer.run(&format!("busybox ping -6 -c 1 -W 2 {POD6}"));
    // From within the pod, and the guest itself.
    assert_eq!(bench.pod.hear(POD6, 8080), Ok(format!("guest {POD6}")));
    assert_eq!(
        machine.guest.hear(POD6, 8080),
        Ok(format!("guest {GATEWAY6}"))
    );
    let redirects = machine.guest.run("nstat -asz Icmp6InRedirects");
    assert!(redirects.contains(" 0 "), "{redirects}");
}

#[test]
fn both_families_work_side_by_side() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine(|_| {});
    machine
        .guest
        .run(&format!("ip addr add {GUEST6}/128 dev eth0 nodad"));
    // Of both families.
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(
        bench.peer.hear(POD, 8080),
        Ok(format!("guest ::ffff:{PEER}"))
    );
    assert_eq!(bench.peer.hear(POD6, 8080), Ok(format!("guest {PEER6}")));
    assert!(bench.pod.hear(Ipv4Addr::LOCALHOST, 8080).is_ok());
    assert!(bench.pod.hear(LOCALHOST, 8080).is_ok());
    // Containers that come later keep their ports, of both families.
    crate::network::reserve(&machine.undo, &[tcp(8080)]).unwrap();
    bench.pod.greet(ANY, 8080, "sidecar");
    for (to, from) in [
        (POD.into(), format!("::ffff:{PEER}")),
        (POD6.into(), PEER6.to_string()),
    ] {
        let to: std::net::IpAddr = to;
        assert_eq!(bench.peer.hear(to, 8080), Ok(format!("sidecar {from}")));
    }
    assert_eq!(bench.pod.hear(LOCALHOST, 8080), Ok("sidecar ::1".into()));
}

#[test]
fn datagrams_pass_in_both_directions() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    let server = machine.guest.within(|| UdpSocket::bind((ANY, 5353)));
    let client = bench.peer.within(|| UdpSocket::bind((ANY, 0)));
    let (server, client) = (server.unwrap(), client.unwrap());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    client.send_to(b"ask", (POD6, 5353)).unwrap();
    // More than one packet holds.
    let mut message = vec![0; 5000];
    let (_, from) = server.recv_from(&mut message).unwrap();
    server.send_to(&[7; 4000], from).unwrap();
    let (size, from) = client.recv_from(&mut message).unwrap();
    assert_eq!((size, from), (4000, (POD6, 5353).into()));
}

#[test]
fn ports_of_other_containers_stay_theirs() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|request| request.others = vec![tcp(9090)]);
    machine.guest.greet(ANY, 9090, "guest");
    bench.pod.greet(ANY, 9090, "sidecar");
    assert_eq!(bench.peer.hear(POD6, 9090), Ok(format!("sidecar {PEER6}")));
    assert_eq!(bench.pod.hear(LOCALHOST, 9090), Ok("sidecar ::1".into()));
    assert_eq!(bench.pod.hear(POD6, 9090), Ok(format!("sidecar {POD6}")));
    assert_eq!(
        machine.guest.hear(POD6, 9090),
        Ok(format!("sidecar {GUEST6}"))
    );
}

#[test]
fn only_listed_ports_reach_the_guest() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let inbound = Inbound::Only(vec![tcp(8080)]);
    let machine = bench.machine6(|request| request.inbound = inbound);
    for port in [8080, 8081] {
        machine.guest.greet(ANY, port, "guest");
    }
    assert_eq!(bench.peer.hear(POD6, 8080), Ok(format!("guest {PEER6}")));
    assert_eq!(
        bench.pod.hear(LOCALHOST, 8080),
        Ok(format!("guest {GATEWAY6}"))
    );
    for (caller, to) in [(&bench.peer, POD6), (&bench.pod, LOCALHOST)] {
        assert_eq!(
            caller.hear(to, 8081),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
    }
}

#[test]
fn segments_fit_the_pods_network_even_if_the_guest_does_not_know_its_mtu() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    machine.guest.run("sysctl -q net.ipv6.conf.eth0.mtu=1500");
    let listener = bench.peer.within(|| TcpListener::bind((ANY, 80))).unwrap();
    let stream = machine.guest.within(|| TcpStream::connect((PEER6, 80)));
    let (_stream, _accepted) = (stream.unwrap(), listener.accept().unwrap());
    // Headers of IPv6 and TCP, with time stamps.
    let largest = format!("mss:{}", POD_MTU - 60 - 12);
    let sockets = bench.peer.run("ss -tinH state established");
    assert!(sockets.contains(&largest), "{sockets}");
}

/// A network that is reached through the peer, over a link of the least MTU.
fn far_behind_peer(bench: &Bench) -> (Netns, Ipv6Addr) {
    let (far, address) = (Netns::new("far"), "fd00:9::2".parse().unwrap());
    bench.peer.run(&format!(
        "ip link add far mtu 1280 type veth peer name eth0 mtu 1280 netns {}",
        far.name
    ));
    bench.peer.run("ip addr add fd00:9::1/64 dev far nodad");
    bench.peer.run("ip link set far up");
    bench.peer.run("sysctl -q net.ipv6.conf.all.forwarding=1");
    far.run(&format!("ip addr add {address}/64 dev eth0 nodad"));
    far.run("ip link set eth0 up");
    far.run("ip -6 route add default via fd00:9::1");
    (far, address)
}

/// Dropping these messages would break connections (RFC 4890, 4.3.1).
#[test]
fn a_guest_is_told_of_packets_that_are_too_big() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let Machine { guest, .. } = &bench.machine6(|_| {});
    let (far, address) = far_behind_peer(&bench);
    let server = far.within(|| UdpSocket::bind((ANY, 5353))).unwrap();
    let client = guest.within(|| UdpSocket::bind((ANY, 0))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let mut arrived = (0..5).map(|_| {
        let _ = client.send_to(&[7; 1300], (address, 5353));
        server.recv(&mut [0; 1500]).is_ok()
    });
    // The first is lost; then the guest knows, and sends fragments.
    assert!(arrived.any(|arrived| arrived));
    let route = guest.run(&format!("ip -6 route get {address}"));
    assert!(route.contains("mtu 1280"), "{route}");
}

#[test]
fn nothing_is_forwarded_to_the_guests_own_address() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = bench.machine6(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    bench
        .peer
        .run(&format!("ip -6 route add fd10:0:2::/120 via {POD6}"));
    let heard = bench.peer.hear_within(GUEST6, 8080, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
}

/// A neighbour of the pod that takes it for the router to a network behind another interface.
fn far_behind_pod(bench: &Bench) -> (Netns, Ipv6Addr) {
    let (far, address) = (Netns::new("far"), "fd00:8::2".parse().unwrap());
    bench.pod.run(&format!(
        "ip link add net1 type veth peer name eth0 netns {}",
        far.name
    ));
    bench.pod.run("ip addr add fd00:8::1/64 dev net1 nodad");
    bench.pod.run("ip link set net1 up");
    far.run(&format!("ip addr add {address}/64 dev eth0 nodad"));
    far.run("ip link set eth0 up");
    far.run("ip -6 route add default via fd00:8::1");
    bench
        .peer
        .run(&format!("ip -6 route add fd00:8::/64 via {POD6}"));
    far.greet(ANY, 80, "far");
    (far, address)
}

#[test]
fn nothing_is_routed_for_the_pods_neighbours() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let (_far, address) = far_behind_pod(&bench);
    let third = "fd00:10:244:1::3".parse::<Ipv6Addr>().unwrap();
    bench
        .peer
        .run(&format!("ip -6 route add {third} via {POD6}"));
    bench.pod.run(&format!(
        "ip -6 neigh add {third} lladdr 02:00:00:00:00:33 dev eth0"
    ));
    bench.peer.run("nft add table ip6 seen");
    bench
        .peer
        .run("nft add chain ip6 seen in { type filter hook prerouting priority raw ; }");
    bench.peer.run(&format!(
        "nft add rule ip6 seen in ip6 daddr {third} counter"
    ));
    let _machine = bench.machine6(|_| {});
    let heard = bench.peer.hear_within(address, 80, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
    let heard = bench.peer.hear_within(third, 80, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
    let returned = bench.peer.run("nft list table ip6 seen");
    assert!(returned.contains("packets 0 "), "{returned}");
    let told = bench.peer.run("nstat -asz Icmp6InRedirects");
    assert!(told.contains(" 0 "), "{told}");
    // It is the rules that prevent it.
    bench.pod.run("nft delete table ip6 kubevirt");
    assert_eq!(bench.peer.hear(address, 80), Ok(format!("far {PEER6}")));
}

/// As a sidecar with a tunnel does, which is there before the machine.
#[test]
fn what_others_route_passes() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let (far, address) = far_behind_pod(&bench);
    bench.pod.run("sysctl -q net.ipv6.conf.all.forwarding=1");
    let machine = bench.machine6(|_| {});
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(bench.peer.hear(address, 80), Ok(format!("far {PEER6}")));
    assert_eq!(far.hear(PEER6, 80), Ok(format!("peer {address}")));
    let heard = machine.guest.hear_within(address, 80, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
    machine.guest.greet(ANY, 8080, "guest");
    let heard = far.hear_within(GUEST6, 8080, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
}
