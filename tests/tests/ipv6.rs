//! IPv6 of a machine: an address, both ways to others, Services, pods without IPv4, and what the
//! bridge does without.

use std::panic::AssertUnwindSafe;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use serde_json::json;
use tests::{
    Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, kubectl, on_both_nodes,
};

on_both_nodes!(
    is_reached_and_reaches_out,
    does_without_ipv4,
    leaves_a_bridged_guest_its_ipv4,
);

/// The nodes' network of pods: shared by the cases that take it as it is.
static NETWORK: RwLock<()> = RwLock::new(());

/// The guest's own address behind masquerade.
const GUEST: &str = "inet6 fd10:0:2::2/";

/// A server that answers its own name, and at /cgi-bin/client who asked.
const SERVER: &str = "mkdir -p /tmp/cgi-bin; hostname > /tmp/index.html
    { echo '#!/bin/sh'; echo 'printf \"\\r\\n%s\\n\" \"$REMOTE_ADDR\"'; } > /tmp/cgi-bin/client
    chmod 755 /tmp/cgi-bin/client; exec httpd -f -p 80 -h /tmp";

/// A Service of IPv6 alone.
fn service(name: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "ipFamilies": ["IPv6"],
            "selector": { "app": name },
            "ports": [{ "port": 8080, "targetPort": 80 }],
        },
    }))
}

/// The address of the Service.
#[track_caller]
fn service_address(namespace: &TestNamespace, name: &str) -> String {
    let service = namespace
        .get("service", name)
        .expect("the Service is there");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    assert!(address.starts_with("fd00:10:96::"), "{address}");
    address.to_owned()
}

/// What the guest says to a script, once it is `wanted`.
#[track_caller]
fn guest(namespace: &TestNamespace, script: &str, wanted: &str) -> String {
    eventually(SOON, || {
        let output = namespace.kubectl(&["exec", "vm", "--", "sh", "-c", script]);
        if output.text().contains(wanted) {
            Ok(output.text())
        } else {
            Err(format!("{output:?}"))
        }
    })
}

fn is_reached_and_reaches_out(node: Node) {
    let _network = NETWORK.read().unwrap_or_else(PoisonError::into_inner);
    let namespace = TestNamespace::new("ipv6");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.apply(&Manifest::shell_pod("far", SERVER, node.other()));
    namespace.apply(&Manifest::shell_pod("near", SERVER, node));
    for name in ["vm", "far"] {
        namespace.apply(&service(name));
    }
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let (vm, far) = (namespace.addresses("vm"), namespace.addresses("far"));
    guest(&namespace, "ip -6 -o addr show scope global", GUEST);
    guest(&namespace, "ip -6 route", "default via fe80::");

    let at_service = service_address(&namespace, "vm");
    for client in ["far", "near"] {
        for (host, port) in [(&*vm.v6, 80), (&at_service, 8080), ("vm", 8080)] {
            let page = eventually(SOON, || namespace.fetch(client, "main", host, port));
            assert_eq!(page.trim(), "vm", "{client} at {host}:{port}");
        }
    }
    // Both families at once, and the host's way in, which tries both.
    assert_eq!(
        namespace.fetch("far", "main", &vm.v4, 80).as_deref(),
        Ok("vm\n")
    );
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("vm"), "{page}");

    // It speaks to others under the pod's own address.
    let ask = |host: &str, port| {
        format!("printf 'GET /cgi-bin/client HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port}")
    };
    for (host, port) in [
        (far.v6, 80),
        (service_address(&namespace, "far"), 8080),
        ("far".into(), 8080),
    ] {
        guest(&namespace, &ask(&host, port), &format!("\n[{}]\n", vm.v6));
    }
}

/// A namespace whose pods have IPv6 alone: while it lives, so have all new pods of both nodes.
struct Ipv6Alone {
    namespace: TestNamespace,
    _network: RwLockWriteGuard<'static, ()>,
}

impl Ipv6Alone {
    const CNI: &str = "/etc/cni/net.d/00-ipv6.conflist";

    #[track_caller]
    fn new() -> Self {
        let network = NETWORK.write().unwrap_or_else(PoisonError::into_inner);
        // A pod is taken off the network that is the nodes' when it ends.
        eventually(STARTED, || {
            let deleted = "jsonpath={.items[*].metadata.deletionTimestamp}";
            let objects = ["get", "namespaces,pods", "--all-namespaces", "-o", deleted];
            let pods = kubectl(&objects).expect_success();
            if pods.is_empty() {
                Ok(())
            } else {
                Err(format!("pods are still being deleted: {pods}"))
            }
        });
        let this = Self {
            namespace: TestNamespace::new("ipv6-alone"),
            _network: network,
        };
        let cni = Self::CNI;
        for node in [Node::One, Node::Two] {
            let put = format!("cp /etc/cni/bench-ipv6.conflist {cni}.new && mv {cni}.new {cni}");
            node.shell(&put).expect_success();
        }
        this
    }

    /// Runs the pod on a network of that many addresses, as soon as its node has seen it change, and
    /// returns the first address.
    #[track_caller]
    fn run(&self, pod: &Manifest, name: &str, addresses: usize) -> String {
        eventually(STARTED, || {
            self.namespace.apply(pod);
            self.namespace
                .wait_for("pod", name, "/status/phase", "Running");
            let status = self.namespace.get("pod", name)?["status"].take();
            let ips = status["podIPs"].as_array().ok_or("no addresses")?;
            if ips.len() == addresses {
                return Ok(ips[0]["ip"].as_str().expect("an address").to_owned());
            }
            let delete = ["delete", "pod", name, "--grace-period=1"];
            self.namespace.kubectl(&delete).expect_success();
            Err(format!("{status:#}"))
        })
    }
}

impl Drop for Ipv6Alone {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.namespace.kubectl(&["delete", "pods", "--all"]);
            for (node, name) in [(Node::One, "after-1"), (Node::Two, "after-2")] {
                node.shell(&format!("rm -f {}", Self::CNI));
                self.run(&Manifest::shell_pod(name, "sleep 3600", node), name, 2);
            }
        }));
    }
}

fn does_without_ipv4(node: Node) {
    let alone = Ipv6Alone::new();
    let namespace = &alone.namespace;
    let client = Manifest::shell_pod("client", SERVER, node.other());
    let client = alone.run(&client, "client", 1);
    let machine = Manifest::machine_pod("vm", image::TINY, node);
    let address = alone.run(&machine, "vm", 1);
    namespace.apply(&service("vm"));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    assert!(address.starts_with("fd00:10:244:"), "{address}");

    guest(namespace, "ip -6 -o addr show scope global", GUEST);
    let ipv4 = guest(namespace, "ip -4 -o addr; echo asked", "asked");
    assert!(!ipv4.contains("eth0"), "{ipv4}");
    // The cluster's DNS has an IPv4 address.
    for (host, port) in [(address, 80), (service_address(namespace, "vm"), 8080)] {
        let page = eventually(SOON, || namespace.fetch("client", "main", &host, port));
        // Its name is what DHCP tells over IPv4 alone.
        assert_eq!(page.trim(), "tiny", "at {host}:{port}");
    }
    let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5";
    guest(namespace, &format!("{ask} {client} 80"), "client");
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("tiny"), "{page}");
}

fn leaves_a_bridged_guest_its_ipv4(node: Node) {
    let _network = NETWORK.read().unwrap_or_else(PoisonError::into_inner);
    let namespace = TestNamespace::new("ipv6-bridge");
    let spec = json!({
        "domain": { "devices": { "interfaces": [{ "name": "default", "bridge": {} }] } },
        "networks": [{ "name": "default", "pod": {} }],
    });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    ));
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node.other()));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let vm = namespace.addresses("vm");
    let addresses = guest(
        &namespace,
        "ip -o addr show scope global",
        &format!("inet {}/", vm.v4),
    );
    assert!(!addresses.contains("inet6"), "{addresses}");
    let page = eventually(SOON, || namespace.fetch("client", "main", &vm.v4, 80));
    assert_eq!(page.trim(), "vm");
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("vm"), "{page}");
    // What the user guide says of it: nobody answers there.
    assert!(
        namespace
            .reached("client", &[&vm.v4, &vm.v6])
            .contains(&vm.v4)
    );
    assert!(namespace.fetch("client", "main", &vm.v6, 80).is_err());
}
