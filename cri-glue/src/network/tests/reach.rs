//! Who reaches whom, and under which address.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Instant,
};

use super::bench::{Bench, GATEWAY, LONG_ENOUGH, Netns, PEER, POD, POD_MTU, SOON, may_run, tcp};
use crate::network::{Inbound, MacAddress, set_up};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_guest_reaches_out_under_the_pods_address() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
    machine.guest.run(&format!("busybox ping -c 1 -W 2 {PEER}"));
}

#[test]
fn all_that_comes_for_the_pod_reaches_the_guest() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    // The guest sees who is calling.
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    // Protocols without ports too: it is the guest who answers a ping, or does not.
    bench.peer.run(&format!("busybox ping -c 1 -W 2 {POD}"));
    machine
        .guest
        .run("sysctl -q net.ipv4.icmp_echo_ignore_all=1");
    let ping = format!("! busybox ping -c 1 -W 1 {POD} >/dev/null");
    let status = std::process::Command::new("ip")
        .args(["netns", "exec", &bench.peer.name, "sh", "-c", &ping])
        .status()
        .unwrap();
    assert!(status.success(), "somebody else than the guest answered");
}

#[test]
fn datagrams_pass_in_both_directions() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    let server = machine
        .guest
        .within(|| UdpSocket::bind((ANY, 5353)))
        .unwrap();
    let client = bench.peer.within(|| UdpSocket::bind((ANY, 0))).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    client.send_to(b"ask", (POD, 5353)).unwrap();
    let mut message = [0; 16];
    let (_, from) = server.recv_from(&mut message).unwrap();
    server.send_to(b"answer", from).unwrap();
    let (size, from) = client.recv_from(&mut message).unwrap();
    assert_eq!(
        (&message[..size], from),
        (&b"answer"[..], (POD, 5353).into())
    );
}

/// What `kubectl port-forward` does: containerd dials localhost within the pod.
#[test]
fn the_pods_localhost_reaches_the_guest() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(
        bench.pod.hear(LOCALHOST, 8080),
        Ok(format!("guest {GATEWAY}"))
    );
    assert_eq!(bench.pod.hear(POD, 8080), Ok(format!("guest {POD}")));
    // Other loopback addresses are the pod's own.
    bench.pod.greet(Ipv4Addr::new(127, 0, 0, 2), 8080, "pod");
    assert_eq!(
        bench.pod.hear(Ipv4Addr::new(127, 0, 0, 2), 8080),
        Ok("pod 127.0.0.1".into())
    );
}

#[test]
fn a_guest_reaches_itself_by_the_pods_address() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(
        machine.guest.hear(POD, 8080),
        Ok(format!("guest {GATEWAY}"))
    );
    // Nor is it told to call itself directly (the kernel drops redirects of translated connections).
    let redirects = machine.guest.run("nstat -asz IcmpInRedirects");
    assert!(redirects.contains(" 0 "), "{redirects}");
}

/// Many distributions set this, and network namespaces inherit it.
#[test]
fn a_strict_check_of_reverse_paths_breaks_nothing() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    for scope in ["all", "default", "eth0"] {
        let parameter = format!("net.ipv4.conf.{scope}.rp_filter=1");
        bench.pod.run(&format!("sysctl -q {parameter}"));
    }
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    for (caller, address) in [(&bench.pod, LOCALHOST), (&machine.guest, POD)] {
        assert_eq!(caller.hear(address, 8080), Ok(format!("guest {GATEWAY}")));
    }
}

#[test]
fn ports_of_other_containers_stay_theirs() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|request| request.others = vec![tcp(9090)]);
    machine.guest.greet(ANY, 9090, "guest");
    bench.pod.greet(ANY, 9090, "sidecar");
    assert_eq!(bench.peer.hear(POD, 9090), Ok(format!("sidecar {PEER}")));
    assert_eq!(
        bench.pod.hear(LOCALHOST, 9090),
        Ok("sidecar 127.0.0.1".into())
    );
    assert_eq!(bench.pod.hear(POD, 9090), Ok(format!("sidecar {POD}")));
    assert_eq!(machine.guest.hear(POD, 9090), Ok("sidecar 10.0.2.2".into()));
    // The same number of another protocol is not theirs.
    let server = machine
        .guest
        .within(|| UdpSocket::bind((ANY, 9090)))
        .unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    bench
        .peer
        .within(|| UdpSocket::bind((ANY, 0)))
        .unwrap()
        .send_to(b"x", (POD, 9090))
        .unwrap();
    server.recv(&mut [0; 16]).unwrap();
}

#[test]
fn connections_that_are_older_stay_theirs() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let connect = |caller: &Netns, address| {
        let listener = bench.pod.within(|| TcpListener::bind((ANY, 0))).unwrap();
        let to = (address, listener.local_addr().unwrap().port());
        let client = caller.within(|| TcpStream::connect(to)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    };
    let mut pairs = [
        connect(&bench.peer, POD),
        connect(&bench.pod, POD),
        connect(&bench.pod, LOCALHOST),
    ];
    let _machine = bench.machine(|_| {});
    for (client, server) in &mut pairs {
        for (from, to) in [(&*client, &*server), (&*server, &*client)] {
            let (mut from, mut to) = (from, to);
            to.set_read_timeout(Some(SOON)).unwrap();
            from.write_all(b"still").unwrap();
            let mut word = [0; 5];
            to.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"still");
        }
    }
}

#[test]
fn ports_of_later_containers_become_theirs() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 9090, "guest");
    assert_eq!(bench.peer.hear(POD, 9090), Ok(format!("guest {PEER}")));
    bench.pod.greet(ANY, 9090, "sidecar");
    for _ in 0..2 {
        crate::network::reserve(&machine.undo, &[tcp(9090)]).unwrap();
        assert_eq!(bench.peer.hear(POD, 9090), Ok(format!("sidecar {PEER}")));
    }
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
}

#[test]
fn only_listed_ports_reach_the_guest() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let inbound = Inbound::Only(vec![tcp(8080), tcp(9090)]);
    let machine = bench.machine(|request| {
        request.inbound = inbound;
        request.others = vec![tcp(9090)];
    });
    for port in [8080, 8081, 9090] {
        machine.guest.greet(ANY, port, "guest");
    }
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    assert_eq!(
        bench.pod.hear(LOCALHOST, 8080),
        Ok(format!("guest {GATEWAY}"))
    );
    for port in [8081, 9090] {
        assert_eq!(
            bench.peer.hear(POD, port),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
        assert_eq!(
            bench.pod.hear(LOCALHOST, port),
            Err(std::io::ErrorKind::ConnectionRefused)
        );
    }
}

#[test]
fn thousands_of_ports_can_be_listed() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|request| {
        request.inbound = Inbound::Only((1..=5000).map(tcp).collect());
    });
    machine.guest.greet(ANY, 4999, "guest");
    assert_eq!(bench.peer.hear(POD, 4999), Ok(format!("guest {PEER}")));
}

#[test]
fn segments_fit_the_pods_network_even_if_the_guest_does_not_know_its_mtu() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    let listener = bench
        .peer
        .within(|| std::net::TcpListener::bind((ANY, 80)))
        .unwrap();
    let stream = machine
        .guest
        .within(|| std::net::TcpStream::connect((PEER, 80)))
        .unwrap();
    let _accepted = listener.accept().unwrap();
    assert!(machine.guest.run("ip link show eth0").contains("mtu 1500"));
    // Headers of IPv4 and TCP, with time stamps.
    let largest = format!("mss:{}", POD_MTU - 40 - 12);
    let port = stream.local_addr().unwrap().port();
    let sockets = bench.peer.run("ss -tinH state established");
    assert!(sockets.contains(&largest), "port {port}: {sockets}");
}

#[test]
fn nothing_is_forwarded_to_the_guests_own_address() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(ANY, 8080, "guest");
    bench
        .peer
        .run(&format!("ip route add 10.0.2.0/24 via {POD}"));
    let heard = bench
        .peer
        .hear_within(super::bench::GUEST, 8080, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
}

/// As a sidecar with a tunnel does. The guest takes no part in it.
#[test]
fn what_others_route_passes() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let far = Netns::new("far");
    let (pod, address) = (&bench.pod, Ipv4Addr::new(10, 9, 0, 2));
    pod.run(&format!(
        "ip link add tunnel type veth peer name eth0 netns {}",
        far.name
    ));
    pod.run("ip addr add 10.9.0.1/24 dev tunnel");
    pod.run("ip link set tunnel up");
    pod.run("sysctl -q net.ipv4.ip_forward=1");
    far.run(&format!("ip addr add {address}/24 dev eth0"));
    far.run("ip link set eth0 up");
    far.run("ip route add default via 10.9.0.1");
    bench
        .peer
        .run(&format!("ip route add 10.9.0.0/24 via {POD}"));
    let machine = bench.machine(|_| {});
    far.greet(ANY, 80, "far");
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(bench.peer.hear(address, 80), Ok(format!("far {PEER}")));
    assert_eq!(far.hear(PEER, 80), Ok(format!("peer {address}")));
    let heard = machine.guest.hear_within(address, 80, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
    machine.guest.greet(ANY, 8080, "guest");
    let heard = far.hear_within(super::bench::GUEST, 8080, LONG_ENOUGH);
    assert_eq!(heard, Err(std::io::ErrorKind::TimedOut));
}

#[test]
fn a_guest_network_of_ones_own_choice_works() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(|request| {
        request.guest_network = Some("192.0.2.64/29".parse().unwrap());
        request.mac = Some("02:00:00:00:00:07".parse::<MacAddress>().unwrap());
    });
    machine.guest.run("ip addr add 192.0.2.66/29 dev eth0");
    machine.guest.run("ip route add default via 192.0.2.65");
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
}

/// The aim is 10 ms. The limit is wider, since a test machine does other things meanwhile.
#[test]
fn setting_up_is_fast() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let mut times = vec![];
    for _ in 0..9 {
        let start = Instant::now();
        let network = set_up(&bench.request(), &mut |_| Ok(())).unwrap();
        times.push(start.elapsed());
        let start = Instant::now();
        crate::network::undo(&network.undo).unwrap();
        println!("up {:?}, down {:?}", times.last().unwrap(), start.elapsed());
    }
    times.sort();
    println!("median of setting a network up: {:?}", times[4]);
    assert!(times[4].as_millis() < 50, "{times:?}");
}
