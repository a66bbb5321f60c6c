//! A node whose configuration is wrong, or whose QEMU is missing, says so in the pod's events, and
//! runs the machine as soon as it is mended; what it is told to trace, it traces.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Manifest, Node, NodeConfiguration, SOON, TestNamespace, eventually, image, on_both_nodes,
};

on_both_nodes!(
    says_what_is_wrong_and_goes_on_once_mended,
    traces_the_phases_of_a_pod,
);

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
    wrong.mend();
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

/// The spans in lines of OTLP's JSON.
fn spans_of(lines: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).expect("OTLP's JSON");
    let span = |line: Value| line["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone();
    lines.lines().map(line).map(span).collect()
}

/// The spans of this name.
fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

fn traces_the_phases_of_a_pod(node: Node) {
    let namespace = TestNamespace::new("traces");
    let file = format!("/var/lib/kubevirt-tests/{}.jsonl", namespace.name());
    node.shell("mkdir -p /var/lib/kubevirt-tests")
        .expect_success();
    let traced = NodeConfiguration::new(node, &format!("[log]\ntraces = \"{file}\""));
    namespace.apply(&Manifest::machine_pod("vm", image::BOOT_SECTOR, node));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    drop(traced);
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
    // The pod's sandbox goes a little later than the pod.
    let spans = eventually(SOON, || {
        let spans = spans_of(&node.shell(&format!("cat {file}")).expect_success());
        let deleted = named(&spans, "delete").into_iter();
        let deleted: BTreeSet<_> = deleted.map(|it| it["attributes"].to_string()).collect();
        match deleted.len() {
            2 => Ok(spans),
            _ => Err(format!("not both were deleted: {deleted:?}")),
        }
    });
    node.shell(&format!("rm {file}")).expect_success();
    for (name, times) in [
        ("create", 2),
        ("prepare", 1),
        ("start", 2),
        ("open-disks", 1),
        ("attach-networks", 1),
        ("create-jail", 1),
        ("exec-qemu", 1),
        ("wait-for-monitor", 1),
    ] {
        assert_eq!(named(&spans, name).len(), times, "{name}: {spans:#?}");
    }
    let disks = named(&spans, "open-disks")[0];
    let prepare = named(&spans, "prepare")[0];
    assert_eq!(disks["parentSpanId"], prepare["spanId"]);
    assert!(
        named(&spans, "create")
            .iter()
            .any(|create| create["spanId"] == prepare["parentSpanId"]),
        "{spans:#?}"
    );
    let trace = &spans[0]["traceId"];
    assert!(
        spans.iter().all(|span| &span["traceId"] == trace),
        "{spans:#?}"
    );
}
