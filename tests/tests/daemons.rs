//! Machines outlive the daemons: containerd and kubelet restart under them, and a shim that is
//! killed takes its machine along and leaves nothing.

use serde_json::json;
use tests::{Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(survives_restarts, a_killed_shim_leaves_nothing);

/// A guest that prints a number each second, so that the log shows whether it goes on.
fn counting(name: &str, node: Node) -> Manifest {
    let script = "#!/bin/sh\nn=0; while :; do n=$((n+1)); echo count=$n; sleep 1; done\n";
    let spec = json!({
        "domain": { "devices": { "disks": [
            { "name": "root", "disk": { "bus": "virtio" } },
            { "name": "seed", "disk": { "bus": "virtio" } },
        ] } },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "seed", "cloudInitNoCloud": { "userData": script } },
        ],
    });
    Manifest::machine_pod(name, image::TINY, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
    )
}

fn counted(namespace: &TestNamespace) -> u32 {
    let log = namespace.kubectl(&["logs", "vm", "--tail=5"]).text();
    log.lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("count=")?.parse().ok())
        .unwrap_or(0)
}

fn goes_on(namespace: &TestNamespace) {
    let before = counted(namespace);
    eventually(SOON, || match counted(namespace) {
        now if now > before + 1 => Ok(()),
        now => Err(format!("the guest counted from {before} to {now}")),
    });
}

fn survives_restarts(node: Node) {
    let namespace = TestNamespace::new("restarts");
    namespace.apply(&counting("vm", node));
    namespace.wait_for_log("vm", "machine", "count=2");
    for daemon in ["containerd", "kubelet"] {
        node.shell(&format!("kill $(pidof {daemon})"))
            .expect_success();
        let ready = format!("{daemon} is back");
        eventually(SOON, || {
            let output = node.shell(&format!("pidof {daemon}"));
            if output.code == Some(0) {
                Ok(())
            } else {
                Err(ready.clone())
            }
        });
        namespace.wait_for("pod", "vm", "/status/phase", "Running");
        goes_on(&namespace);
    }
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["restartCount"], 0,
        "{pod:#}"
    );
    let log = namespace.kubectl(&["logs", "vm"]).expect_success();
    let counts: Vec<u32> = log
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count=")?.parse().ok())
        .collect();
    let gapless = counts.windows(2).all(|pair| pair[1] == pair[0] + 1);
    assert!(gapless, "the log lost lines: {counts:?}");
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}

fn a_killed_shim_leaves_nothing(node: Node) {
    let namespace = TestNamespace::new("killed-shim");
    namespace.apply(&Manifest::machine_pod("vm", image::BOOT_SECTOR, node));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let uid = pod["metadata"]["uid"]
        .as_str()
        .expect("a pod has a uid")
        .to_owned();
    let qemu = format!("grep -l {uid} /proc/[0-9]*/cgroup 2>/dev/null | wc -l");
    assert_ne!(
        node.shell(&qemu).text().trim(),
        "0",
        "the pod's cgroup holds processes"
    );
    // The shim's bundle tells which process serves this pod's sandbox.
    let script = format!(
        "for p in /proc/[0-9]*; do case \"$(readlink $p/exe)\" in *containerd-shim-kubevirt-v1) \
         id=$(tr '\\0' '\\n' < $p/cmdline | grep -A1 '^-id$' | tail -1); [ -n \"$id\" ] && \
         grep -q {uid} /run/containerd/io.containerd.runtime.v2.task/k8s.io/$id/config.json \
         && kill -9 ${{p#/proc/}};; esac; done; true"
    );
    node.shell(&script).expect_success();
    namespace.wait_for("pod", "vm", "/status/phase", "Failed");
    eventually(STARTED, || match node.shell(&qemu).text().trim() {
        "0" => Ok(()),
        left => Err(format!("{left} processes of the pod are left")),
    });
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}
