//! IPv6 of a machine: an address, both ways to others, Services, pods without IPv4, and what the
//! bridge does without.

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, kubectl, on_both_nodes};

on_both_nodes!(is_reached_and_reaches_out, leaves_a_bridged_guest_its_ipv4,);

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

    let service = |name| {
        let service: Value = namespace
            .get("service", name)
            .expect("the Service is there");
        let address = service["spec"]["clusterIP"].as_str().expect("an address");
        assert!(address.starts_with("fd00:10:96::"), "{address}");
        address.to_owned()
    };
    let at_service = service("vm");
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
    for (host, port) in [(far.v6, 80), (service("far"), 8080), ("far".into(), 8080)] {
        guest(&namespace, &ask(&host, port), &format!("\n[{}]\n", vm.v6));
    }
}

/// The handler of node 2 whose pods have IPv6 alone, as a class of the test's own.
struct Ipv6Class(String);

impl Ipv6Class {
    #[track_caller]
    fn new(namespace: &TestNamespace) -> Self {
        let class = namespace.get("runtimeclass", "kubevirt");
        let overhead = class.expect("the product is installed")["overhead"].clone();
        let name = namespace.name().to_owned();
        namespace.apply(&Manifest::new(json!({
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": { "name": name },
            "handler": "bench-ipv6",
            "overhead": overhead,
        })));
        Self(name)
    }
}

impl Drop for Ipv6Class {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| kubectl(&["delete", "runtimeclass", &self.0]));
    }
}

#[test]
fn does_without_ipv4() {
    let node = Node::Two;
    let namespace = TestNamespace::new("ipv6-alone");
    let class = Ipv6Class::new(&namespace);
    let pod = Manifest::machine_pod("vm", image::TINY, node);
    namespace.apply(&pod.with("/spec/runtimeClassName", json!(class.0)));
    namespace.apply(&Manifest::shell_pod("client", SERVER, node.other()));
    namespace.apply(&service("vm"));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let status = namespace.get("pod", "vm").expect("the pod is there")["status"].clone();
    let addresses = status["podIPs"].as_array().expect("a list");
    let [address] = &addresses[..] else {
        panic!("{status}");
    };
    let address = address["ip"].as_str().expect("an address");
    assert!(address.starts_with("fd00:10:244:"), "{address}");

    guest(&namespace, "ip -6 -o addr show scope global", GUEST);
    let ipv4 = guest(&namespace, "ip -4 -o addr; echo asked", "asked");
    assert!(!ipv4.contains("eth0"), "{ipv4}");
    for (host, port) in [(address, 80), ("vm", 8080)] {
        let page = eventually(SOON, || namespace.fetch("client", "main", host, port));
        // Its name is what DHCP tells over IPv4 alone.
        assert_eq!(page.trim(), "tiny", "at {host}:{port}");
    }
    let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5";
    let client = namespace.addresses("client").v6;
    guest(&namespace, &format!("{ask} {client} 80"), "client");
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("tiny"), "{page}");
}

fn leaves_a_bridged_guest_its_ipv4(node: Node) {
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
