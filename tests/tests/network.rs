//! The guest is on the pod network: reached at the pod's address, on its Service and by
//! port-forward, and reaching out.

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    is_reached_from_the_other_node,
    is_reached_by_port_forward,
    reaches_out,
    listens_on_listed_ports_only,
    has_the_pods_address_on_a_bridge,
    has_a_queue_for_each_processor,
    has_a_port_of_its_node,
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
    let page = namespace.forwarded("vm", 80);
    assert!(page.trim_end().ends_with("vm"), "{page}");
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
    let page = namespace.forwarded("vm", 80);
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

/// A port that nobody else on the nodes has.
const HOST_PORT: u16 = 28_080;

fn has_a_port_of_its_node(node: Node) {
    let namespace = TestNamespace::new("host-port");
    let ports = json!([{ "containerPort": 80, "hostPort": HOST_PORT }]);
    let pod = Manifest::machine_pod("vm", image::TINY, node);
    namespace.apply(&pod.with("/spec/containers/0/ports", ports));
    namespace.apply(&Manifest::shell_pod("far", "sleep 3600", node.other()));
    namespace.apply(&Manifest::shell_pod("near", "sleep 3600", node));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let info: Value = namespace.get("node", node.name()).expect("the node");
    let address = info["status"]["addresses"][0]["address"]
        .as_str()
        .expect("an address");
    for client in ["far", "near"] {
        let page = eventually(SOON, || namespace.fetch(client, "main", address, HOST_PORT));
        assert_eq!(page.trim(), "vm", "{client}");
    }
    // From the node itself, and its loopback.
    for host in [address, "127.0.0.1"] {
        let ask =
            format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {host} {HOST_PORT}");
        let page = node.shell(&ask).text();
        assert!(page.trim_end().ends_with("\nvm"), "{host}: {page}");
    }
}
