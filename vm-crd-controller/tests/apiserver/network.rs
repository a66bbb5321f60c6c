//! A network of the tests' own: nothing that they start reaches the machine's, or is reached from it.

use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// The address at which the API server finds the controller: an endpoint may have none of loopback.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Moves this process, which has no other threads yet, into a network namespace with that address.
///
/// Needs root and iproute2.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (the tests run as root)");
    let address = format!("{ADDRESS}/24");
    let commands: [&[&str]; 6] = [
        &["link", "set", "lo", "up"],
        // The other end is there so that the link has a carrier.
        &["link", "add", "api", "type", "veth", "peer", "name", "peer"],
        &["address", "add", &address, "dev", "api"],
        &["link", "set", "peer", "up"],
        &["link", "set", "api", "up"],
        // kube-apiserver looks for its own address by the default route.
        &["route", "add", "default", "dev", "api"],
    ];
    for arguments in commands {
        let status = Command::new("ip").args(arguments).status();
        let status = status.expect("run ip (iproute2)");
        assert!(status.success(), "ip {arguments:?} ended with {status}");
    }
}
