//! A node whose configuration is wrong, or whose QEMU is missing, says so in the pod's events, and
//! runs the machine as soon as it is mended.

use serde_json::json;
use tests::{Manifest, Node, NodeConfiguration, TestNamespace, image, on_both_nodes};

on_both_nodes!(says_what_is_wrong_and_goes_on_once_mended);

/// With this configuration the pod waits with an event that holds `words`; without, it runs.
fn says(namespace: &TestNamespace, node: Node, name: &str, content: &str, words: &[&str]) {
    let wrong = NodeConfiguration::new(node, content);
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
