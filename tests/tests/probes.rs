//! Probes of a machine that ask more than whether a command succeeds: those that take too long, and
//! those by gRPC.

use std::path::PathBuf;

use serde_json::{Value, json};
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(one_that_takes_too_long_leaves_nothing, grpc_asks_the_guest);

fn machine(namespace: &TestNamespace, node: Node, readiness: Value) {
    namespace.apply(&Manifest::machine_pod("vm", image::TINY, node).with_readiness(readiness));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
}

fn wait_ready(namespace: &TestNamespace, ready: &str) {
    namespace.wait_for("pod", "vm", "/status/containerStatuses/0/ready", ready);
}

#[track_caller]
fn guest(namespace: &TestNamespace, script: &str) -> String {
    let exec = ["exec", "vm", "--", "sh", "-c", script];
    namespace.kubectl(&exec).expect_success()
}

/// Descriptors that the pod's shim has open.
fn descriptors(namespace: &TestNamespace, node: Node) -> u32 {
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let uid = pod["metadata"]["uid"].as_str().expect("a pod has a uid");
    let script = format!(
        "for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in *containerd-shim-kubevirt-v1) \
         id=$(tr '\\0' '\\n' < $p/cmdline | grep -A1 '^-id$' | tail -1); [ -n \"$id\" ] && \
         grep -q {uid} /run/containerd/io.containerd.runtime.v2.task/k8s.io/$id/config.json \
         && ls $p/fd | wc -l;; esac; done; true"
    );
    let count = node.shell(&script).expect_success();
    count.trim().parse().unwrap_or_else(|_| panic!("{count:?}"))
}

/// How often kubelet saw the probe take too long.
fn time_outs(namespace: &TestNamespace) -> u64 {
    let events = [
        "get",
        "events",
        "--field-selector",
        "type=Warning",
        "-o",
        "json",
    ];
    let events = namespace.kubectl(&events).expect_success();
    let events: Value = serde_json::from_str(&events).expect("kubectl prints JSON");
    let events = events["items"].as_array().into_iter().flatten();
    events
        .filter(|event| event["message"].to_string().contains("timed out after 1s"))
        .filter_map(|event| event["count"].as_u64())
        .sum()
}

fn one_that_takes_too_long_leaves_nothing(node: Node) {
    let namespace = TestNamespace::new("probe-slow");
    // It has a child, which must go as well.
    let slow = "test ! -e /run/slow || { sleep 1000; echo never; }";
    let probe = json!({
        "exec": { "command": ["sh", "-c", slow] },
        "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1,
    });
    machine(&namespace, node, probe);
    wait_ready(&namespace, "true");
    let before = descriptors(&namespace, node);
    guest(&namespace, "touch /run/slow");
    wait_ready(&namespace, "false");
    eventually(SOON, || match time_outs(&namespace) {
        count if count >= 5 => Ok(()),
        count => Err(format!("{count} time-outs")),
    });
    // Those before the last one are gone.
    let running = guest(&namespace, "ps | grep -c '[s]leep 1000' || true");
    assert!(
        running.trim().parse::<u32>().is_ok_and(|count| count <= 2),
        "{running}"
    );
    guest(&namespace, "rm /run/slow");
    wait_ready(&namespace, "true");
    let left =
        "ps | grep '[s]leep 1000'; cat /sys/class/virtio-ports/*/name | grep -c ^exec- || true";
    eventually(SOON, || {
        match guest(&namespace, left).trim().parse::<u32>() {
            // Its own two ports, and those of a probe that runs just now or ended just now.
            Ok(ports) if ports <= 6 => Ok(()),
            left => Err(format!("{left:?} is left in the guest")),
        }
    });
    // A probe has some descriptors for a moment.
    eventually(SOON, || match descriptors(&namespace, node) {
        now if now <= before + 4 => Ok(()),
        now => Err(format!("the shim had {before} descriptors, now {now}")),
    });
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn grpc_asks_the_guest(node: Node) {
    let namespace = TestNamespace::new("probe-grpc");
    let probe = json!({
        "grpc": { "port": 9090 },
        "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1,
    });
    machine(&namespace, node, probe);
    wait_ready(&namespace, "false");
    namespace.wait_for_event("vm", "Readiness probe failed");
    let directory = std::env::var_os("CLUSTER_DIR").expect("the cluster's environment");
    let server = PathBuf::from(directory).join("bin/grpc-health");
    let server = server.to_str().expect("text");
    namespace
        .kubectl(&["cp", server, "vm:/tmp/grpc-health"])
        .expect_success();
    let start = "chmod 755 /tmp/grpc-health; /tmp/grpc-health :9090 > /dev/null 2>&1 < /dev/null &";
    guest(&namespace, start);
    wait_ready(&namespace, "true");
    guest(&namespace, "killall grpc-health");
    wait_ready(&namespace, "false");
}
