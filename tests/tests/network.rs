//! The guest is on the pod network: reached at the pod's address, on its Service and by
//! port-forward, and reaching out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::json;
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, kubectl_spawn, on_both_nodes};

on_both_nodes!(
    is_reached_from_the_other_node,
    is_reached_by_port_forward,
    reaches_out,
    listens_on_listed_ports_only,
    has_the_pods_address_on_a_bridge,
    has_a_queue_for_each_processor,
);

fn service(name: &str) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 8080, "targetPort": 80 }] },
    }))
}

fn is_reached_from_the_other_node(node: Node) {
    let namespace = TestNamespace::new("reached");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.apply(&service("vm"));
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node.other()));
    namespace.apply(&Manifest::shell_pod("neighbour", "sleep 3600", node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let address = pod["status"]["podIP"]
        .as_str()
        .expect("the pod has an address");
    for client in ["client", "neighbour"] {
        for (host, port) in [(address, 80), ("vm", 8080)] {
            let page = eventually(SOON, || namespace.fetch(client, "main", host, port));
            assert_eq!(page.trim(), "vm", "{client} at {host}:{port}");
        }
    }
}

fn is_reached_by_port_forward(node: Node) {
    let namespace = TestNamespace::new("forward");
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let page = forwarded(&namespace);
    assert!(page.trim_end().ends_with("vm"), "{page}");
}

/// The page that the pod `vm` serves at its port 80, by way of the API server.
fn forwarded(namespace: &TestNamespace) -> String {
    let mut forward = kubectl_spawn(&["-n", namespace.name(), "port-forward", "pod/vm", ":80"]);
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    // "Forwarding from 127.0.0.1:41234 -> 80"
    let line = lines.next().expect("port-forward speaks").expect("text");
    let port = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let address = format!(
        "127.0.0.1:{}",
        port.unwrap_or_else(|| panic!("no port in {line}"))
    );
    let page = eventually(SOON, || {
        let mut stream = TcpStream::connect(&address).map_err(|error| error.to_string())?;
        let mut page = String::new();
        stream
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .map_err(|error| error.to_string())?;
        stream
            .read_to_string(&mut page)
            .map_err(|error| error.to_string())?;
        if page.contains("200 OK") {
            Ok(page)
        } else {
            Err(page)
        }
    });
    forward.kill().expect("kubectl runs");
    forward.wait().expect("kubectl ends");
    page
}

fn reaches_out(node: Node) {
    let namespace = TestNamespace::new("out");
    let server = "echo from-the-other-pod > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
    namespace.apply(&Manifest::shell_pod("server", server, node.other()));
    namespace.apply(&service("server"));
    namespace.wait_for("pod", "server", "/status/phase", "Running");
    let script = "#!/bin/sh\ncat /etc/resolv.conf\n\
                  for i in 1 2 3 4 5 6 7 8 9 10; do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 server 8080 && break; sleep 1; done\n\
                  nslookup kubernetes.default.svc.cluster.local\n\
                  cat /sys/class/net/e*/mtu | sed 's/^/mtu=/'\n";
    let spec = json!({ "volumes": [
        { "name": "root", "containerDisk": { "image": image::TINY } },
        { "name": "seed", "cloudInitNoCloud": { "userData": script } },
    ], "domain": { "devices": { "disks": [
        { "name": "root", "disk": { "bus": "virtio" } },
        { "name": "seed", "disk": { "bus": "virtio" } },
    ] } } });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    ));
    let log = namespace.wait_for_log("vm", "machine", "tiny guest user-data ended");
    assert!(
        log.contains("from-the-other-pod"),
        "through the Service, by its short name: {log}"
    );
    assert!(log.contains("10.96.0.1"), "cluster names resolve: {log}");
    assert!(
        log.contains(&format!("search {}.svc.cluster.local", namespace.name())),
        "{log}"
    );
    assert!(log.contains("mtu=1500"), "{log}");
}

fn listens_on_listed_ports_only(node: Node) {
    let namespace = TestNamespace::new("listed");
    let spec = json!({
        "domain": { "devices": { "interfaces": [
            { "name": "default", "masquerade": {}, "ports": [{ "port": 22 }] },
        ] } },
        "networks": [{ "name": "default", "pod": {} }],
    });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    ));
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node.other()));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let address = pod["status"]["podIP"]
        .as_str()
        .expect("the pod has an address")
        .to_owned();
    namespace.wait_for("pod", "client", "/status/phase", "Running");
    let ssh = format!("echo | nc -w 5 {address} 22 | head -c 4");
    eventually(SOON, || {
        let output = namespace.kubectl(&["exec", "client", "--", "sh", "-c", &ssh]);
        if output.text() == "SSH-" {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    });
    assert!(namespace.fetch("client", "main", &address, 80).is_err());
}

fn has_the_pods_address_on_a_bridge(node: Node) {
    let namespace = TestNamespace::new("bridge");
    let script = "#!/bin/sh\nip -4 -o addr\ncat /sys/class/net/e*/address\n";
    let spec = json!({
        "domain": { "devices": {
            "interfaces": [{ "name": "default", "bridge": {} }],
            "disks": [
                { "name": "root", "disk": { "bus": "virtio" } },
                { "name": "seed", "disk": { "bus": "virtio" } },
            ],
        } },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "seed", "cloudInitNoCloud": { "userData": script } },
        ],
    });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    ));
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node.other()));
    let log = namespace.wait_for_log("vm", "machine", "tiny guest user-data ended");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let address = pod["status"]["podIP"]
        .as_str()
        .expect("the pod has an address");
    assert!(log.contains(&format!("inet {address}/")), "{log}");
    let page = eventually(SOON, || namespace.fetch("client", "main", address, 80));
    assert_eq!(page.trim(), "vm");
    let page = forwarded(&namespace);
    assert!(page.trim_end().ends_with("vm"), "{page}");
}

fn has_a_queue_for_each_processor(node: Node) {
    let namespace = TestNamespace::new("queues");
    let script = "#!/bin/sh\nls -d /sys/class/net/e*/queues/rx-*\n";
    let spec = json!({
        "domain": {
            "cpu": { "cores": 2 },
            "devices": {
                "networkInterfaceMultiqueue": true,
                "disks": [
                    { "name": "root", "disk": { "bus": "virtio" } },
                    { "name": "seed", "disk": { "bus": "virtio" } },
                ],
            },
        },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "seed", "cloudInitNoCloud": { "userData": script } },
        ],
    });
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    ));
    let log = namespace.wait_for_log("vm", "machine", "tiny guest user-data ended");
    assert!(log.contains("queues/rx-1"), "{log}");
}
