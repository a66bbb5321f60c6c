//! `kubevirt-node status`, as an administrator asks it.

use serde_json::Value;
use tests::{Manifest, Node, TestNamespace, image, kubectl, on_both_nodes};

on_both_nodes!(shows_what_runs_and_why_slowly);

/// The installer's pod on `node`.
#[track_caller]
fn installer(node: Node) -> String {
    let field = format!("--field-selector=spec.nodeName={}", node.name());
    let pods = kubectl(&[
        "--namespace=kubevirt",
        "get",
        "pods",
        "--selector=app.kubernetes.io/name=kubevirt-node",
        &field,
        "--output=jsonpath={.items[0].metadata.name}",
    ]);
    pods.expect_success()
}

#[track_caller]
fn status(pod: &str, format: &str) -> String {
    let output = format!("--output={format}");
    let command = ["exec", pod, "--", "kubevirt-node", "status", &output];
    kubectl(&[&["--namespace=kubevirt"], &command[..]].concat()).expect_success()
}

fn shows_what_runs_and_why_slowly(node: Node) {
    let namespace = TestNamespace::new("status");
    namespace.apply(&Manifest::machine_pod("vm", image::BOOT_SECTOR, node));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    let installer = installer(node);

    let text = status(&installer, "text");
    let pod = format!("{}/vm: shim ", namespace.name());
    assert!(text.contains(&pod), "{text}");
    // The test cluster's nodes have no virtualization.
    assert!(text.contains("accelerator  tcg"), "{text}");
    assert!(text.contains("note: machines are emulated"), "{text}");
    assert!(!text.contains("WRONG"), "{text}");

    let json: Value = serde_json::from_str(&status(&installer, "json")).expect("JSON");
    let machines = json["machines"].as_array().expect("a list");
    let machine = machines
        .iter()
        .find(|it| it["namespace"] == namespace.name())
        .unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(machine["pod"], "vm");
    assert_eq!(machine["qemu"]["accelerator"], "tcg");
    assert!(machine["qemu"]["kib"].as_u64() > Some(1 << 10), "{json:#}");
    for program in ["shim", "qemu", "containerd"] {
        assert!(json["versions"][program].is_string(), "{json:#}");
    }
}
