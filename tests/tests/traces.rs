//! A start as one trace, from the controller's annotation to the guest's first line.

use serde_json::{Value, json};
use tests::{
    Manifest, Node, NodeConfiguration, STARTED, TestNamespace, eventually, image, on_both_nodes,
};

on_both_nodes!(a_start_is_one_trace_to_the_guests_first_line);

/// Where the shims of the node write their spans.
const FILE: &str = "/var/log/kubevirt-traces-of-a-test.jsonl";

/// The spans that the node's shims wrote for the trace.
fn spans(node: Node, trace: &str) -> Vec<Value> {
    let text = node
        .shell(&format!("cat {FILE} 2>/dev/null || true"))
        .expect_success();
    let span = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("each line is JSON");
        line["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
    };
    let all = text.lines().map(span);
    all.filter(|span| span["traceId"] == trace).collect()
}

fn a_start_is_one_trace_to_the_guests_first_line(node: Node) {
    let _configuration = NodeConfiguration::new(node, &format!("[log]\ntraces = \"{FILE}\""));
    let namespace = TestNamespace::new("traces");
    let template = json!({ "annotations": { "kubevirt.io/trace": "true" } });
    let machine = Manifest::virtual_machine("vm", image::TINY, node);
    namespace.apply(&machine.with("/spec/template/metadata", template));
    namespace.wait_for("vm", "vm", "/status/printableStatus", "Running");
    let instance = namespace.get("vmi", "vm").expect("the instance is there");
    let uid = instance["metadata"]["uid"].as_str().expect("a UID");
    let trace = uid.replace('-', "");
    let pods = namespace.list("pods", "vm.kubevirt.io/name=vm");
    let parent = &pods[0]["metadata"]["annotations"]["kubevirt.io/traceparent"];
    let parent = parent.as_str().expect("the pod names its trace");
    assert_eq!(parent[3..35], trace);

    let spans = eventually(STARTED, || {
        let spans = spans(node, &trace);
        match spans.iter().any(|span| span["name"] == "first-line") {
            true => Ok(spans),
            false => Err(format!("the guest's first line is not among {spans:#?}")),
        }
    });
    let named = |name: &str| {
        let found = spans.iter().find(|span| span["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} among {spans:#?}"))
    };
    for name in ["create", "start", "first-line"] {
        assert_eq!(named(name)["parentSpanId"], parent[36..52], "{name}");
    }
    let time = |span: &Value, key: &str| -> u128 {
        let text = span[key].as_str().expect("a time");
        text.parse().expect("nanoseconds")
    };
    let (prepared, line) = (named("open-disks"), named("first-line"));
    assert!(time(prepared, "endTimeUnixNano") <= time(line, "startTimeUnixNano"));
    assert!(time(line, "startTimeUnixNano") < time(line, "endTimeUnixNano"));
    node.shell(&format!("rm -f {FILE}")).expect_success();
}
