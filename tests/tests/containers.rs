//! Other containers of a machine's pod are ordinary ones: init containers run first, sidecars beside
//! the guest, and what a pod's containers share they share with the guest.

use serde_json::json;
use tests::{Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(init_containers_run_first, a_sidecar_lives_beside_the_guest);

fn init_containers_run_first(node: Node) {
    let namespace = TestNamespace::new("init");
    let init = Manifest::shell_container("first", "echo the init container ran");
    namespace.apply(
        &Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
            .with("/spec/initContainers", json!([init])),
    );
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    let log = namespace
        .kubectl(&["logs", "vm", "-c", "first"])
        .expect_success();
    assert_eq!(log.trim(), "the init container ran");
}

fn a_sidecar_lives_beside_the_guest(node: Node) {
    let namespace = TestNamespace::new("sidecar");
    let script = "echo from the sidecar > /tmp/index.html; exec httpd -f -p 8081 -h /tmp";
    let mut sidecar = Manifest::shell_container("sidecar", script);
    sidecar["ports"] = json!([{ "containerPort": 8081 }]);
    namespace
        .apply(&Manifest::machine_pod("vm", image::TINY, node).with("/spec/containers/-", sidecar));
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", node.other()));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let address = pod["status"]["podIP"]
        .as_str()
        .expect("the pod has an address");
    let page = eventually(SOON, || namespace.fetch("client", "main", address, 8081));
    assert_eq!(
        page.trim(),
        "from the sidecar",
        "a declared port stays the sidecar's"
    );
    let page = eventually(SOON, || namespace.fetch("vm", "sidecar", "127.0.0.1", 80));
    assert_eq!(
        page.trim(),
        "vm",
        "the sidecar reaches the guest on localhost"
    );
    let code = namespace
        .kubectl(&["exec", "vm", "-c", "sidecar", "--", "sh", "-c", "exit 7"])
        .code;
    assert_eq!(code, Some(7));
}
