//! What a real DHCP client gets: busybox's udhcpc in the guest.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::bench::{Bench, Machine, PEER, POD, may_run};
use vm_api::machine::MachineDhcp;

use crate::network::Dns;

/// Keeps what the client was told, and applies it as a guest would.
const SCRIPT: &str = r#"#!/bin/sh
if [ "$1" = bound ]; then
    env > "$(dirname "$0")/lease"
    ip link set "$interface" mtu "$mtu"
    ip addr add "$ip/$mask" dev "$interface"
    ip route add default via "$router"
fi
"#;

/// The guest's lease, as `name=value` lines.
pub(super) fn lease(machine: &Machine, directory: &Path) -> String {
    let script = directory.join("script");
    fs::write(&script, SCRIPT).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    machine.guest.run(&format!(
        "busybox udhcpc -f -n -q -t 10 -T 1 -i eth0 -O mtu -O search -O broadcast -O staticroutes -O bootfile \
         -O tftp -O ntpsrv -O 224 -s {}",
        script.display()
    ));
    fs::read_to_string(directory.join("lease")).unwrap()
}

pub(super) fn assert_says(lease: &str, name: &str, value: &str) {
    let line = format!("{name}={value}");
    assert!(
        lease.lines().any(|given| given.trim() == line),
        "no {line} in:\n{lease}"
    );
}

#[test]
fn a_client_gets_all_that_the_pod_has() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(|_| {});
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    for (name, value) in [
        ("ip", "10.0.2.2"),
        ("subnet", "255.255.255.0"),
        ("broadcast", "10.0.2.255"),
        ("router", "10.0.2.1"),
        ("serverid", "10.0.2.1"),
        ("mtu", "1400"),
        ("dns", "10.96.0.10"),
        ("domain", "shop.svc.cluster.local"),
        ("search", "shop.svc.cluster.local cluster.local"),
        ("hostname", "web-0"),
        ("lease", "4294967295"),
    ] {
        assert_says(&lease, name, value);
    }
    bench.peer.greet([0, 0, 0, 0], 80, "peer");
    assert_eq!(machine.guest.hear(PEER, 80), Ok(format!("peer {POD}")));
}

#[test]
fn a_client_gets_what_the_owner_wants() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(|request| {
        request.dhcp = MachineDhcp {
            boot_file: Some("pxelinux.0".into()),
            boot_server: Some("192.0.2.9".into()),
            time_servers: vec!["192.0.2.3".parse().unwrap(), "192.0.2.4".parse().unwrap()],
            private: [(224, "abc".to_owned())].into(),
        };
    });
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    for (name, value) in [
        ("bootfile", "pxelinux.0"),
        ("siaddr", "192.0.2.9"),
        ("tftp", "192.0.2.9"),
        ("ntpsrv", "192.0.2.3 192.0.2.4"),
        ("opt224", "616263"),
        ("hostname", "web-0"),
    ] {
        assert_says(&lease, name, value);
    }
}

#[test]
fn a_node_local_name_server_gets_a_route() {
    if !may_run() {
        return;
    }
    let bench = Bench::new();
    let machine = bench.machine_without_lease(|request| {
        request.dns = Dns::parse("nameserver 169.254.20.10\nnameserver 127.0.0.1");
    });
    let directory = tempfile::tempdir().unwrap();
    let lease = lease(&machine, directory.path());
    assert_says(&lease, "dns", "169.254.20.10");
    assert_says(
        &lease,
        "staticroutes",
        "169.254.20.10/32 10.0.2.1 0.0.0.0/0 10.0.2.1",
    );
}
