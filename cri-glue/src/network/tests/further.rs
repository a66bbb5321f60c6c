//! Machines with further interfaces, as Multus makes them. Each has a guest of its own here, which
//! shows that they do not get in each other's way.

use std::{net::Ipv4Addr, thread, time::Instant};

use super::{
    bench::{Bench, GATEWAY, LONG_ENOUGH, Netns, PEER, POD, SOON, may_run, snapshot},
    lease::{assert_says, lease},
};
use crate::network::{Binding, Request, derive_mac, set_up, undo};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const FURTHER_POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const FURTHER_PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A second wire of the pod's, and who is at its other end.
fn further_wire(bench: &Bench) -> Netns {
    let peer = Netns::new("further");
    bench.pod.run(&format!(
        "ip link add net1 mtu 1450 type veth peer name eth0 netns {}",
        peer.name
    ));
    for (netns, device, last) in [(&bench.pod, "net1", 7), (&peer, "eth0", 1)] {
        netns.run(&format!("ip addr add 192.0.2.{last}/24 dev {device}"));
        netns.run(&format!("ip addr add fd00:8::{last}/64 dev {device} nodad"));
        netns.run(&format!("ip link set {device} up"));
    }
    peer
}

fn further(binding: Binding) -> impl FnOnce(&mut Request) {
    move |request| {
        request.interfaces = ["pod16477688c0e", "net1"].map(String::from).to_vec();
        request.binding = binding;
        request.primary = false;
        request.mac = (binding == Binding::Masquerade).then(|| derive_mac("further"));
    }
}

#[test]
fn a_further_network_has_its_bridge() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let peer = further_wire(&bench);
    let machine = bench.machine(|_| {});
    let other = bench.machine_without_lease(further(Binding::Bridge));
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&other, directory.path());
    assert_says(&lease, "ip", "192.0.2.7");
    assert_says(&lease, "mtu", "1450");
    assert!(!lease.contains("router="), "{lease}");
    peer.greet(ANY, 80, "further");
    bench.peer.greet(ANY, 80, "peer");
    let heard = other.guest.hear(FURTHER_PEER, 80);
    assert_eq!(heard, Ok(format!("further {FURTHER_POD}")));
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
    // The pod's localhost is the first one's.
    machine.guest.greet(ANY, 8080, "guest");
    other.guest.greet(ANY, 8080, "other");
    assert_eq!(
        bench.pod.hear(Ipv4Addr::LOCALHOST, 8080),
        Ok(format!("guest {GATEWAY}"))
    );
    let heard = peer.hear(FURTHER_POD, 8080);
    assert_eq!(heard, Ok(format!("other {FURTHER_PEER}")));
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    // And the kernel believes loopback addresses on no other link.
    let trusting = bench
        .pod
        .run("sysctl -n net.ipv4.conf.tap-eth0.route_localnet");
    assert_eq!(trusting.trim(), "1");
    let trusting = bench
        .pod
        .run("sysctl -n net.ipv4.conf.tap-net1.route_localnet");
    assert_eq!(trusting.trim(), "0");
    // Nor does one guest get out by the other's interface.
    let heard = machine.guest.hear_within(FURTHER_PEER, 80, LONG_ENOUGH);
    assert!(heard.is_err());
    drop(other);
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
}

/// Of what is sent to groups of hosts, a macvlan takes in what its own host has joined: an IPv6
/// neighbour would look for the guest in vain.
#[test]
fn a_guest_on_a_macvlan_is_found_by_its_neighbours() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let peer = Netns::new("macvlan");
    for step in [
        &format!(
            "link add lower type veth peer name eth0 netns {}",
            peer.name
        ),
        "link set lower up",
        "link add link lower name net1 type macvlan mode bridge",
        "link set net1 up",
    ] {
        bench.pod.run(&format!("ip {step}"));
    }
    peer.run("ip addr add fd00:9::1/64 dev eth0 nodad");
    peer.run("ip link set eth0 up");
    let other = bench.machine_without_lease(further(Binding::Bridge));
    let guest = "fd00:9::2".parse::<std::net::Ipv6Addr>().unwrap();
    other
        .guest
        .run(&format!("ip addr add {guest}/64 dev eth0 nodad"));
    other
        .guest
        .greet(std::net::Ipv6Addr::UNSPECIFIED, 8080, "guest");
    assert_eq!(peer.hear(guest, 8080), Ok("guest fd00:9::1".into()));
    let flags = || bench.pod.run("ip -o link show net1").contains("ALLMULTI");
    assert!(flags());
    drop(other);
    assert!(!flags());
}

#[test]
fn a_further_network_can_be_masqueraded() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let peer = further_wire(&bench);
    let machine = bench.machine6(|_| {});
    let other = bench.machine_without_lease(further(Binding::Masquerade));
    let directory = tempfile::tempdir().unwrap();
    // The script wants a router.
    other
        .guest
        .run("sysctl -q net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=64");
    let script = "busybox udhcpc -f -n -q -t 10 -T 1 -i eth0 -O staticroutes -s";
    let path = directory.path().join("script");
    std::fs::write(&path, "#!/bin/sh\nenv > \"$(dirname \"$0\")/$1\"\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, executable).unwrap();
    other.guest.run(&format!("{script} {}", path.display()));
    let lease = std::fs::read_to_string(directory.path().join("bound")).unwrap();
    // Not the network of the first one's guest.
    assert_says(&lease, "ip", "172.29.2.2");
    assert_says(&lease, "staticroutes", "192.0.2.0/24 172.29.2.1");
    assert!(!lease.contains("router="), "{lease}");
    other.guest.run("ip addr add 172.29.2.2/24 dev eth0");
    other.guest.run("ip route add 192.0.2.0/24 via 172.29.2.1");
    peer.greet(ANY, 80, "further");
    let heard = other.guest.hear(FURTHER_PEER, 80);
    assert_eq!(heard, Ok(format!("further {FURTHER_POD}")));
    other.guest.greet(ANY, 8080, "other");
    let heard = peer.hear(FURTHER_POD, 8080);
    assert_eq!(heard, Ok(format!("other {FURTHER_PEER}")));
    // By IPv6, the way to that network alone is advertised.
    let start = Instant::now();
    let routes = loop {
        let routes = other.guest.run("ip -6 route");
        if routes.contains("fd00:8::/64 via fe80::1") {
            break routes;
        }
        assert!(start.elapsed() < SOON * 6, "{routes}");
        thread::sleep(SOON / 50);
    };
    assert!(!routes.contains("default"), "{routes}");
    drop(machine);
}

#[test]
fn undoing_all_leaves_the_pod_as_it_was() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let _peer = further_wire(&bench);
    let before = snapshot(&bench.pod);
    for binding in [Binding::Bridge, Binding::Masquerade] {
        let mut request = bench.request();
        let first = set_up(&request, &mut |_| Ok(())).unwrap();
        further(binding)(&mut request);
        let second = set_up(&request, &mut |_| Ok(())).unwrap();
        // The last one first, as of a record.
        undo(&second.undo).unwrap();
        undo(&first.undo).unwrap();
        assert_eq!(snapshot(&bench.pod), before, "{binding:?}");
    }
}

#[test]
fn a_network_that_is_not_there_is_named() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let mut request = bench.request();
    further(Binding::Bridge)(&mut request);
    insta::assert_snapshot!(bench.set_up(&request).unwrap_err(), @"the pod has no network interface pod16477688c0e or net1 (No such device (os error 19)); look whether the cluster's network plugin set the pod up");
}

#[test]
fn an_interface_has_as_many_queues_as_are_asked_for() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let mut request = bench.request();
    request.queues = 4;
    let network = bench.set_up(&request).unwrap();
    assert_eq!(network.tap.len(), 4);
    let queues = bench.pod.run("ls /sys/class/net/tap-eth0/queues");
    assert_eq!(queues.matches("rx-").count(), 4, "{queues}");
    undo(&network.undo).unwrap();
}
