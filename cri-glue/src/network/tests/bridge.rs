//! A machine with its pod's address.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
};

use super::{
    bench::{
        Bench, LONG_ENOUGH, Machine, Netns, PEER, PEER6, POD, POD6, SOON, may_run, snapshot, tcp,
    },
    lease::{assert_says, lease},
};
use crate::network::{Binding, Request, set_up, undo};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LINK: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

fn bridge(request: &mut Request) {
    request.binding = Binding::Bridge;
    request.mac = None;
}

/// A machine whose guest has the pod's address already.
fn machine(bench: &Bench) -> Machine {
    let machine = bench.machine_without_lease(bridge);
    machine.guest.run(&format!("ip addr add {POD}/24 dev eth0"));
    machine
        .guest
        .run(&format!("ip route add default via {PEER}"));
    machine
}

fn mac(netns: &Netns) -> String {
    netns.run("cat /sys/class/net/eth0/address")
}

#[test]
fn a_guest_takes_the_pods_addresses_over() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(bridge);
    assert_eq!(mac(&machine.guest), mac(&bench.pod));
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    for (name, value) in [
        ("ip", "10.244.1.7"),
        ("subnet", "255.255.255.0"),
        ("router", "10.244.1.1"),
        ("serverid", "169.254.75.10"),
        ("mtu", "1400"),
        ("dns", "10.96.0.10"),
        ("hostname", "web-0"),
    ] {
        assert_says(&lease, name, value);
    }
    assert!(!lease.contains("staticroutes"), "{lease}");
    bench.peer.greet(ANY, 80, "peer");
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    bench.peer.run(&format!("busybox ping -c 1 -W 2 {POD}"));
}

/// The words of the lease's static routes: a prefix and its router, in turn.
fn static_routes(lease: &str) -> Vec<&str> {
    let routes = lease
        .lines()
        .find_map(|line| line.strip_prefix("staticroutes="));
    routes.unwrap().split(' ').collect()
}

/// As of Calico: the router is no host of the pod's network.
#[test]
fn a_router_elsewhere_gets_a_route() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    bench.pod.run("ip addr flush dev eth0");
    bench.pod.run(&format!("ip addr add {POD}/32 dev eth0"));
    bench
        .pod
        .run("ip route add 169.254.1.1 dev eth0 scope link");
    bench
        .pod
        .run("ip route add default via 169.254.1.1 dev eth0");
    let machine = bench.machine_without_lease(bridge);
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    assert_says(&lease, "subnet", "255.255.255.255");
    let mut routes = static_routes(&lease);
    assert_eq!(routes.len(), 4, "{routes:?}");
    routes.sort_unstable();
    assert_eq!(
        routes,
        ["0.0.0.0", "0.0.0.0/0", "169.254.1.1", "169.254.1.1/32"]
    );
}

/// As of the plugin ptp: who shares the pod's prefix is behind its router too.
#[test]
fn a_prefix_that_is_routed_is_no_link() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    for change in [
        "addr flush dev eth0".to_owned(),
        format!("addr add {POD}/24 dev eth0 noprefixroute"),
        format!("route add {PEER} dev eth0 scope link src {POD}"),
        format!("route add 10.244.1.0/24 via {PEER} src {POD}"),
        format!("route add default via {PEER}"),
    ] {
        bench.pod.run(&format!("ip {change}"));
    }
    let machine = bench.machine_without_lease(bridge);
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    assert_says(&lease, "subnet", "255.255.255.255");
    let words = static_routes(&lease);
    let mut routes: Vec<_> = words.chunks(2).map(|route| route.join(" via ")).collect();
    assert_eq!(routes.remove(0), "10.244.1.1/32 via 0.0.0.0");
    assert_eq!(
        routes,
        ["10.244.1.0/24 via 10.244.1.1", "0.0.0.0/0 via 10.244.1.1"]
    );
    // As a client does it, the guest reaches who has such an address.
    let guest = &machine.guest;
    guest.run("ip addr flush dev eth0");
    guest.run(&format!("ip addr add {POD}/32 dev eth0"));
    guest.run(&format!("ip route add {PEER} dev eth0"));
    guest.run(&format!("ip route add 10.244.1.0/24 via {PEER}"));
    bench.peer.run("ip addr add 10.244.1.9/32 dev lo");
    bench.peer.run("sysctl -q net.ipv4.conf.eth0.arp_ignore=1");
    let other = Ipv4Addr::new(10, 244, 1, 9);
    bench.peer.greet(other, 80, "other");
    assert_eq!(guest.hear(other, 80), Ok(format!("other {POD}")));
}

#[test]
fn the_pods_localhost_reaches_the_guest() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    // Many distributions set this, and network namespaces inherit it.
    for scope in ["all", "default", "eth0"] {
        let parameter = format!("net.ipv4.conf.{scope}.rp_filter=1");
        bench.pod.run(&format!("sysctl -q {parameter}"));
    }
    let machine = machine(&bench);
    machine.guest.greet(ANY, 8080, "guest");
    assert_eq!(bench.pod.hear(LOCALHOST, 8080), Ok(format!("guest {LINK}")));
    assert_eq!(bench.pod.hear(POD, 8080), Ok(format!("guest {LINK}")));
    bench.pod.greet(ANY, 9090, "sidecar");
    crate::network::reserve(&machine.undo, &[tcp(9090)]).unwrap();
    assert_eq!(
        bench.pod.hear(LOCALHOST, 9090),
        Ok("sidecar 127.0.0.1".into())
    );
}

#[test]
fn the_pod_itself_is_silent_on_its_wire() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let _machine = machine(&bench);
    bench
        .peer
        .greet(std::net::Ipv6Addr::UNSPECIFIED, 80, "peer");
    let addresses: [std::net::IpAddr; 2] = [PEER.into(), PEER6.into()];
    for address in addresses {
        let heard = bench.pod.hear_within(address, 80, LONG_ENOUGH);
        assert_eq!(heard, Err(ErrorKind::TimedOut), "{address}");
    }
}

#[test]
fn ipv6_of_the_guests_own_making_does_not_pass() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let machine = machine(&bench);
    machine
        .guest
        .run(&format!("ip addr add {POD6}/64 dev eth0 nodad"));
    bench
        .peer
        .greet(std::net::Ipv6Addr::UNSPECIFIED, 80, "peer");
    let heard = machine.guest.hear_within(PEER6, 80, LONG_ENOUGH);
    assert!(heard.is_err(), "{heard:?}");
}

/// Whether what the guest sends from its address `from` arrives at the peer.
fn arrives(machine: &Machine, from: Ipv4Addr, bench: &Bench) -> bool {
    let server = bench.peer.within(|| UdpSocket::bind((PEER, 0))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = machine.guest.within(|| UdpSocket::bind((from, 0)));
    client.unwrap().send_to(b"x", (PEER, port)).unwrap();
    server.recv(&mut [0; 16]).is_ok()
}

#[test]
fn a_guest_speaks_only_for_itself() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = machine(&bench);
    assert!(arrives(&machine, POD, &bench));
    let neighbour = Ipv4Addr::new(10, 244, 1, 9);
    machine
        .guest
        .run(&format!("ip addr add {neighbour}/24 dev eth0"));
    assert!(!arrives(&machine, neighbour, &bench));
    // Nor does it answer for others.
    let asks = |bench: &Bench| {
        let command = format!("busybox arping -c 2 -w 2 -I eth0 {neighbour}");
        let status = std::process::Command::new("ip")
            .args(["netns", "exec", &bench.peer.name, "sh", "-c", &command])
            .stdout(std::process::Stdio::null())
            .status();
        status.unwrap().success()
    };
    assert!(!asks(&bench));
    machine
        .guest
        .run("ip link set eth0 address 02:00:00:00:00:99");
    assert!(!arrives(&machine, POD, &bench));
}

#[test]
fn a_guest_does_not_reach_the_pods_localhost() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = machine(&bench);
    let (guest, pod) = (&machine.guest, &bench.pod);
    guest.run("sysctl -q net.ipv4.conf.all.route_localnet=1");
    guest.run("ip addr del 127.0.0.1/8 dev lo");
    guest.run(&format!("ip route add 127.0.0.0/8 via {PEER}"));
    let server = pod.within(|| UdpSocket::bind((LOCALHOST, 0))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let client = guest.within(|| UdpSocket::bind((POD, 0))).unwrap();
    client.send_to(b"x", server.local_addr().unwrap()).unwrap();
    assert!(server.recv(&mut [0; 16]).is_err());
}

/// Nothing of the machine's DHCP gets on the wire, nor does it hear the wire.
#[test]
fn dhcp_is_between_the_guest_and_the_pod() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(bridge);
    let server = bench.peer.within(|| UdpSocket::bind((ANY, 67))).unwrap();
    server.set_read_timeout(Some(LONG_ENOUGH)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    lease(&machine, directory.path());
    assert!(server.recv(&mut [0; 1500]).is_err());
}

#[test]
fn a_network_without_addresses_is_the_guests_own_affair() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    bench.pod.run("ip addr flush dev eth0");
    let machine = bench.machine_without_lease(bridge);
    let guest = &machine.guest;
    guest.run("ip addr add 10.244.1.99/24 dev eth0");
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(guest.hear(PEER, 80), Ok("peer 10.244.1.99".into()));
    // The network has a DHCP server of its own, perhaps.
    let server = bench.peer.within(|| UdpSocket::bind((ANY, 67))).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let client = guest.within(|| UdpSocket::bind((ANY, 68))).unwrap();
    client.set_broadcast(true).unwrap();
    client
        .send_to(b"x", (Ipv4Addr::new(10, 244, 1, 255), 67))
        .unwrap();
    server.recv(&mut [0; 16]).unwrap();
}

#[test]
fn undoing_gives_the_pod_its_address_back() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let before = snapshot(&bench.pod);
    let mut request = bench.request();
    bridge(&mut request);
    let mut recorded = None;
    let network = set_up(&request, &mut |undo| {
        recorded = Some(serde_json::to_string(undo).unwrap());
        Ok(())
    });
    let network = network.unwrap();
    assert_ne!(snapshot(&bench.pod), before);
    // From the record alone, while QEMU still has the tap, and after it was killed.
    let from_record = serde_json::from_str(&recorded.unwrap()).unwrap();
    undo(&from_record).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
    drop(network);
    undo(&from_record).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
    let mut killed = bench.machine_without_lease(bridge);
    killed.kill();
    bench.wait_until_tapless();
    // A machine starts again where one was killed.
    drop(machine(&bench));
    undo(&killed.undo).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
    bench.peer.greet(ANY, 80, "peer");
    assert_eq!(bench.pod.hear(PEER, 80), Ok(format!("peer {POD}")));
}

#[test]
fn a_failure_half_way_leaves_the_pod_as_it_was() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let before = snapshot(&bench.pod);
    let sidecar = bench.pod.within(|| UdpSocket::bind((ANY, 67))).unwrap();
    let mut request = bench.request();
    bridge(&mut request);
    bench.set_up(&request).unwrap_err();
    assert_eq!(snapshot(&bench.pod), before);
    drop(sidecar);
}
