//! What remains when a machine is gone, in every way it can go.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use super::bench::{Bench, Netns, PEER, POD, may_run, snapshot};
use crate::network::{NetworkError, NetworkUndo, set_up, undo};

#[test]
fn undoing_leaves_the_pod_as_it_was() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    // Tables of others stay.
    bench.pod.run("nft add table ip others");
    bench.pod.run("nft add table ip6 others");
    // A pod may have its own ideas about some of its interfaces.
    bench.pod.run("ip link add net1 type veth peer name other");
    bench.pod.run("sysctl -q net.ipv6.conf.net1.accept_ra=0");
    bench.pod.run("sysctl -q net.ipv6.conf.net1.forwarding=1");
    let before = snapshot(&bench.pod);
    let mut recorded = None;
    let network = set_up(&bench.request(), &mut |undo| {
        recorded = Some(serde_json::to_string(undo).unwrap());
        Ok(())
    })
    .unwrap();
    assert_ne!(snapshot(&bench.pod), before);
    // From the record alone, while QEMU still has the tap.
    let from_record: NetworkUndo = serde_json::from_str(&recorded.unwrap()).unwrap();
    assert_eq!(from_record, network.undo);
    undo(&from_record).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
    undo(&from_record).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
}

/// A router takes no advertisements, unless it is told to: the pod must not lose its way out.
#[test]
fn a_pod_keeps_what_it_has_from_a_router() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let accepts = || {
        bench
            .pod
            .run("sysctl -n net.ipv6.conf.eth0.accept_ra net.ipv6.conf.all.forwarding")
    };
    bench
        .pod
        .run("ip -6 route add default via fe80::99 dev eth0 metric 2048 proto ra expires 600");
    let before = accepts();
    assert_eq!(before, "1\n0\n");
    let network = bench.set_up(&bench.request()).unwrap();
    assert_eq!(accepts(), "2\n1\n");
    assert!(bench.pod.run("ip -6 route").contains("fe80::99"));
    undo(&network.undo).unwrap();
    assert_eq!(accepts(), before);
    assert!(bench.pod.run("ip -6 route").contains("fe80::99"));
}

#[test]
fn undoing_is_done_when_the_namespace_is_gone() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let network = bench.set_up(&bench.request()).unwrap();
    let path = bench.pod.path();
    drop(bench);
    undo(&network.undo).unwrap();
    // What a namespace was mounted on may be left.
    std::fs::write(&path, "").unwrap();
    let result = undo(&network.undo);
    std::fs::remove_file(&path).unwrap();
    result.unwrap();
}

#[test]
fn a_later_pod_at_the_same_path_is_left_alone() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let network = bench.set_up(&bench.request()).unwrap();
    let later = Bench::new();
    let _machine = later.set_up(&later.request()).unwrap();
    let before = snapshot(&later.pod);
    let mut record = serde_json::to_value(&network.undo).unwrap();
    record["namespace"] = later.pod.path().to_str().unwrap().into();
    undo(&serde_json::from_value(record).unwrap()).unwrap();
    assert_eq!(snapshot(&later.pod), before);
    undo(&network.undo).unwrap();
}

#[test]
fn a_machine_starts_again_where_one_was_killed() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let before = snapshot(&bench.pod);
    let mut killed = bench.machine(|_| {});
    killed.kill();
    bench.wait_until_tapless();
    // The rules are still there, the tap is not.
    let machine = bench.machine(|_| {});
    machine.guest.greet(Ipv4Addr::UNSPECIFIED, 8080, "guest");
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
    drop(machine);
    undo(&killed.undo).unwrap();
    assert_eq!(snapshot(&bench.pod), before);
}

#[test]
fn a_second_machine_in_a_pod_is_refused() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine(|_| {});
    machine.guest.greet(Ipv4Addr::UNSPECIFIED, 8080, "guest");
    let error = set_up(&bench.request(), &mut |_| panic!("nothing is to be undone")).unwrap_err();
    assert!(matches!(error, NetworkError::TapExists { .. }), "{error}");
    // The first goes on.
    assert_eq!(bench.peer.hear(POD, 8080), Ok(format!("guest {PEER}")));
}

#[test]
fn a_failure_half_way_leaves_the_pod_as_it_was() {
    if !may_run() {
        return;
    }
    let bench = Bench::dual_stack();
    let before = snapshot(&bench.pod);
    let refused = |address: IpAddr, port| {
        let sidecar = bench.pod.within(|| UdpSocket::bind((address, port)));
        let error = bench.set_up(&bench.request()).unwrap_err();
        assert_eq!(snapshot(&bench.pod), before);
        drop(sidecar.unwrap());
        error.to_string()
    };
    insta::assert_snapshot!(refused(Ipv4Addr::UNSPECIFIED.into(), 67), @"cannot open the DHCP server's socket on tap-eth0: Address already in use (os error 98)");
    insta::assert_snapshot!(refused(Ipv6Addr::UNSPECIFIED.into(), 547), @"cannot open the DHCPv6 server's socket on tap-eth0: Address already in use (os error 98)");
    bench.set_up(&bench.request()).unwrap();
}

#[test]
fn nothing_is_done_that_cannot_be_recorded() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let before = snapshot(&bench.pod);
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    let error = set_up(&bench.request(), &mut |_| Err(full())).unwrap_err();
    insta::assert_snapshot!(error, @"cannot record how to undo the machine's network: no storage space");
    assert_eq!(snapshot(&bench.pod), before);
}

#[test]
fn pods_that_cannot_hold_a_machine_are_refused() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut crate::network::Request)| {
        let mut request = bench.request();
        change(&mut request);
        bench.set_up(&request).unwrap_err().to_string()
    };
    insta::assert_snapshot!(refused(&|request| request.namespace = "/proc/self/ns/net".into()), @"/proc/self/ns/net is the node's own network namespace: a machine needs a pod network of its own, so remove hostNetwork from the pod");
    insta::assert_snapshot!(refused(&|request| request.namespace = "/etc/passwd".into()), @"/etc/passwd is no namespace; the pod's network may be gone already");
    insta::assert_snapshot!(refused(&|request| request.namespace = "/run/netns/none".into()), @"cannot open the pod's network namespace /run/netns/none: No such file or directory (os error 2)");
    insta::assert_snapshot!(refused(&|request| request.namespace = "/proc/self/ns/mnt".into()), @"cannot enter the pod's network namespace /proc/self/ns/mnt: Invalid argument (os error 22)");
    insta::assert_snapshot!(refused(&|request| request.interfaces = vec!["net1".into()]), @"the pod has no network interface net1 (No such device (os error 19)); look whether the cluster's network plugin set the pod up");
    insta::assert_snapshot!(
        refused(&|request| request.guest_network = Some("10.244.0.0/16".parse().unwrap())),
        @"the guest network 10.244.0.0/16 overlaps with 10.244.1.7/24, which the pod uses itself: choose another vmNetworkCIDR"
    );
    let bare = Netns::new("bare");
    bare.run("ip link add eth0 type veth peer name other");
    // Nobody reaches an address of the link alone.
    bare.run("ip link set eth0 up");
    insta::assert_snapshot!(refused(&|request| request.namespace = bare.path()), @"the pod's network interface eth0 has no address: a machine needs one, so look whether the cluster's network plugin set the pod up");
}
