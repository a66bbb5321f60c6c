//! The files of `examples/`, as the documentation has a user apply them.

use tests::{Manifest, Node, SOON, TestNamespace, eventually, image};

/// Applies the example of that file name.
fn apply(namespace: &TestNamespace, file: &str) {
    let path = format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"));
    namespace.kubectl(&["apply", "-f", &path]).expect_success();
}

/// The name of the pod of the VirtualMachine `name`, once there is one.
fn pod_of(namespace: &TestNamespace, name: &str) -> String {
    let selector = format!("vm.kubevirt.io/name={name}");
    eventually(SOON, || {
        let pods = namespace.list("pod", &selector);
        let name = pods
            .first()
            .and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or("no pod yet".to_owned())
    })
}

#[test]
fn a_virtual_machine() {
    let namespace = TestNamespace::new("example-vm");
    apply(&namespace, "vm.yaml");
    let pod = pod_of(&namespace, "hello");
    namespace.wait_for_log(&pod, "compute", "Hello from hello");
}

#[test]
fn a_plain_pod() {
    let namespace = TestNamespace::new("example-pod");
    apply(&namespace, "pod.yaml");
    namespace.wait_for_log("hello", "machine", image::TINY_READY);
}

#[test]
fn a_machine_behind_a_service() {
    let namespace = TestNamespace::new("example-service");
    apply(&namespace, "service.yaml");
    let pod = pod_of(&namespace, "web");
    namespace.wait_for_log(&pod, "compute", "Set up by the Secret of web");
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", Node::One));
    namespace.wait_for("pod", "client", "/status/phase", "Running");
    let page = eventually(SOON, || namespace.fetch("client", "main", "web", 80));
    assert_eq!(page.trim(), "web");
}
