//! A node whose configuration is wrong, or whose QEMU is missing, says so in the pod's events, and
//! runs the machine as soon as it is mended.

use serde_json::json;
use tests::{Manifest, Node, TestNamespace, image, on_both_nodes};

on_both_nodes!(says_what_is_wrong_and_goes_on_once_mended);

const FILE: &str = "/etc/kubevirt/config.toml";

/// A configuration of the node for a while; the one before comes back with the value's end.
struct Configuration(Node);

impl Configuration {
    #[track_caller]
    fn new(node: Node, content: &str) -> Self {
        node.shell(&format!("cp {FILE} {FILE}.before"))
            .expect_success();
        let this = Self(node);
        node.shell(&format!("printf '%s\\n' '{content}' > {FILE}"))
            .expect_success();
        this
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| self.0.shell(&format!("mv {FILE}.before {FILE}")));
    }
}

/// With this configuration the pod waits with an event that holds `words`; without, it runs.
fn says(namespace: &TestNamespace, node: Node, name: &str, content: &str, words: &[&str]) {
    let wrong = Configuration::new(node, content);
    namespace.apply(
        &Manifest::machine_pod(name, image::BOOT_SECTOR, node)
            .with("/spec/restartPolicy", json!("Always")),
    );
    let message = namespace.wait_for_event(name, words[0]);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    drop(wrong);
    namespace.wait_for_log(name, "machine", "boot-sector guest ready");
    namespace
        .kubectl(&["delete", "pod", name, "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", name);
}

fn says_what_is_wrong_and_goes_on_once_mended(node: Node) {
    let namespace = TestNamespace::new("configuration");
    let unknown = "[qemu]\naccelerater = \"kvm\"";
    let words = ["accelerater", "config.toml:2:1"];
    says(&namespace, node, "wrong", unknown, &words);
    let missing = "[qemu]\npath = \"/usr/bin/no-qemu\"";
    let words = ["/usr/bin/no-qemu", "qemu.path"];
    says(&namespace, node, "missing", missing, &words);
}
