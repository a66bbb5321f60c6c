//! A running machine is resized with its pod: the guest sees it, and the pod's status tells it.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Manifest, Node, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    processors_come_and_go,
    memory_comes_and_goes,
    memory_that_the_guest_holds_stays,
    a_limit_beyond_the_machine_is_refused_by_name,
);

const MIB: u64 = 1 << 20;

/// How long a resize may take, a failed one to be tried again with it.
const RETRIED: Duration = Duration::from_secs(180);

/// A machine pod with this memory limit, whose guest can grow to `max_guest`.
fn pod(image: &str, node: Node, memory: &str, max_guest: Option<&str>) -> Manifest {
    let spec = json!({ "domain": { "memory": { "maxGuest": max_guest } } });
    Manifest::machine_pod("vm", image, node)
        .with(
            "/metadata/annotations",
            json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
        )
        .with("/spec/containers/0/resources/limits/memory", json!(memory))
        // A limit cannot go below its request, which is the limit unless it is given.
        .with(
            "/spec/containers/0/resources/requests/memory",
            json!("64Mi"),
        )
}

/// Asks for another limit.
#[track_caller]
fn resize(namespace: &TestNamespace, resource: &str, limit: &str) {
    let resources = json!({ "limits": { resource: limit } });
    let patch =
        json!({ "spec": { "containers": [{ "name": "machine", "resources": resources }] } });
    let patch = patch.to_string();
    namespace
        .kubectl(&[
            "patch",
            "pod",
            "vm",
            "--subresource",
            "resize",
            "-p",
            &patch,
        ])
        .expect_success();
}

/// Waits until the pod's status tells the limit, and no resize under way.
#[track_caller]
fn wait_resized(namespace: &TestNamespace, resource: &str, limit: &str) {
    eventually(RETRIED, || {
        let pod = namespace.get("pod", "vm")?;
        let told = &pod["status"]["containerStatuses"][0]["resources"]["limits"][resource];
        match (told == limit, condition(&pod)) {
            (true, None) => Ok(()),
            (_, condition) => Err(format!("{resource} is {told}: {condition:?}")),
        }
    });
}

/// The message of the condition that tells of a resize under way.
fn condition(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let resizing = conditions
        .iter()
        .find(|condition| condition["type"] == "PodResizeInProgress")?;
    Some(resizing["message"].as_str().unwrap_or_default().to_owned())
}

/// Waits for a message of kubelet about the resize that holds `text`.
#[track_caller]
fn wait_refused(namespace: &TestNamespace, text: &str) {
    eventually(RETRIED, || {
        let pod = namespace.get("pod", "vm")?;
        match condition(&pod) {
            Some(message) if message.contains(text) => Ok(()),
            other => Err(format!("{text:?} is not in {other:?}")),
        }
    });
}

/// What a command in the guest prints.
fn guest(namespace: &TestNamespace, command: &str) -> Result<String, String> {
    let output = namespace.kubectl(&["exec", "vm", "--", "sh", "-c", command]);
    match output.code {
        Some(0) => Ok(output.text().trim().to_owned()),
        _ => Err(format!("{output:?}")),
    }
}

#[track_caller]
fn wait_for_processors(namespace: &TestNamespace, wanted: &str) {
    eventually(STARTED, || match guest(namespace, "nproc")? {
        seen if seen == wanted => Ok(()),
        seen => Err(format!("{seen} processors, not {wanted}")),
    });
}

/// The memory that the guest's kernel manages, in bytes.
fn guest_memory(namespace: &TestNamespace) -> Result<u64, String> {
    let text = guest(namespace, "grep MemTotal /proc/meminfo")?;
    let kib = text.split_whitespace().nth(1);
    let kib: Option<u64> = kib.and_then(|kib| kib.parse().ok());
    kib.map(|kib| kib * 1024).ok_or(text)
}

fn processors_come_and_go(node: Node) {
    let namespace = TestNamespace::new("processors");
    namespace.apply(&pod(image::TINY, node, "128Mi", None));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    wait_for_processors(&namespace, "1");
    for limit in ["2", "1", "2"] {
        resize(&namespace, "cpu", limit);
        wait_resized(&namespace, "cpu", limit);
        wait_for_processors(&namespace, limit);
    }
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

fn memory_comes_and_goes(node: Node) {
    let namespace = TestNamespace::new("memory");
    // Kubelet asks for no limit below what the container uses, QEMU's own need with it.
    namespace.apply(&pod(image::TINY, node, "512Mi", Some("1Gi")));
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let mut before = 0;
    eventually(STARTED, || {
        guest_memory(&namespace).map(|bytes| before = bytes)
    });
    // Above and back, below and back.
    for (limit, more) in [("768Mi", 256), ("512Mi", 0), ("448Mi", -64), ("512Mi", 0)] {
        resize(&namespace, "memory", limit);
        wait_resized(&namespace, "memory", limit);
        let now = guest_memory(&namespace).expect("the guest answers");
        let wanted = before.saturating_add_signed(more * MIB as i64);
        // What was added brings its own descriptions of pages.
        assert!(
            now.abs_diff(wanted) <= 8 * MIB,
            "{limit}: {before}, now {now}"
        );
    }
}

fn memory_that_the_guest_holds_stays(node: Node) {
    let namespace = TestNamespace::new("holds");
    // A boot sector has no driver to return anything with.
    namespace.apply(&pod(image::BOOT_SECTOR, node, "512Mi", None));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    resize(&namespace, "memory", "384Mi");
    wait_refused(&namespace, "still holds 512 MiB");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    assert_eq!(pod["status"]["phase"], "Running");
    let told = &pod["status"]["containerStatuses"][0];
    assert_eq!(told["resources"]["limits"]["memory"], "512Mi");
    assert_eq!(told["restartCount"], 0);
    resize(&namespace, "memory", "512Mi");
    wait_resized(&namespace, "memory", "512Mi");
}

fn a_limit_beyond_the_machine_is_refused_by_name(node: Node) {
    let namespace = TestNamespace::new("beyond");
    namespace.apply(&pod(image::BOOT_SECTOR, node, "128Mi", Some("192Mi")));
    namespace.wait_for_log("vm", "machine", "boot-sector guest ready");
    resize(&namespace, "memory", "256Mi");
    wait_refused(
        &namespace,
        "more than the 192 MiB that this machine can have",
    );
    resize(&namespace, "memory", "128Mi");
    wait_resized(&namespace, "memory", "128Mi");
}
