//! VirtualMachine objects: the five verbs, what each run strategy does when a guest ends, and what
//! the user sees meanwhile.

use serde_json::json;
use tests::{Manifest, Node, SOON, STARTED, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    is_created_launched_stopped_and_deleted,
    is_scheduled_as_a_pod_is,
    always_restarts_after_a_power_off,
    once_runs_once,
    passes_secrets_to_the_guest,
);

fn status(namespace: &TestNamespace, wanted: &str) {
    namespace.wait_for("vm", "vm", "/status/printableStatus", wanted);
}

fn pods(namespace: &TestNamespace) -> Vec<String> {
    let names = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().map(str::to_owned);
    namespace
        .list("pod", "vm.kubevirt.io/name=vm")
        .iter()
        .filter_map(names)
        .collect()
}

fn patch(namespace: &TestNamespace, spec: &serde_json::Value) {
    let patch = json!({ "spec": spec }).to_string();
    namespace
        .kubectl(&["patch", "vm", "vm", "--type=merge", "-p", &patch])
        .expect_success();
}

fn is_created_launched_stopped_and_deleted(node: Node) {
    let namespace = TestNamespace::new("verbs");
    // Created: nothing runs.
    namespace.apply(
        &Manifest::virtual_machine("vm", image::TINY, node)
            .with("/spec/runStrategy", json!("Halted")),
    );
    status(&namespace, "Stopped");
    assert!(pods(&namespace).is_empty());
    assert!(namespace.get("vmi", "vm").is_err());
    // Launched.
    patch(&namespace, &json!({ "runStrategy": "Always" }));
    status(&namespace, "Running");
    let pod = pods(&namespace).pop().expect("a running VM has a pod");
    assert!(pod.starts_with("virt-launcher-vm-"), "{pod}");
    let log = namespace.wait_for_log(&pod, "compute", image::TINY_READY);
    assert!(log.contains("name=vm "), "{log}");
    namespace.wait_for("vm", "vm", "/status/ready", "true");
    let vmi = namespace
        .get("vmi", "vm")
        .expect("a running VM has an instance");
    assert_eq!(vmi["status"]["phase"], "Running");
    assert_eq!(vmi["status"]["nodeName"], node.name());
    let address = namespace.get("pod", &pod).expect("the pod is there")["status"]["podIP"].clone();
    assert_eq!(vmi["status"]["interfaces"][0]["ipAddress"], address);
    // Stopped.
    patch(&namespace, &json!({ "runStrategy": "Halted" }));
    status(&namespace, "Stopped");
    namespace.wait_gone("vmi", "vm");
    eventually(SOON, || {
        let pods = pods(&namespace);
        if pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    // Deleted, while it runs again.
    patch(&namespace, &json!({ "runStrategy": "Always" }));
    status(&namespace, "Running");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vm", "vm");
    namespace.wait_gone("vmi", "vm");
    eventually(SOON, || {
        let pods = pods(&namespace);
        if pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
}

fn is_scheduled_as_a_pod_is(node: Node) {
    let namespace = TestNamespace::new("scheduled");
    namespace.apply(
        &Manifest::virtual_machine("vm", image::BOOT_SECTOR, node).with(
            "/spec/template/spec/nodeSelector",
            json!({ "no-such-label": "true" }),
        ),
    );
    status(&namespace, "ErrorUnschedulable");
    let vmi = namespace.get("vmi", "vm").expect("the instance waits");
    let conditions = vmi["status"]["conditions"].to_string();
    assert!(
        conditions.contains("didn't match Pod's node affinity/selector"),
        "{conditions}"
    );
    // Mended: what never ran is made anew from the new template.
    let selector = json!({ "kubernetes.io/hostname": node.name(), "no-such-label": null });
    patch(
        &namespace,
        &json!({ "template": { "spec": { "nodeSelector": selector } } }),
    );
    status(&namespace, "Running");
}

fn always_restarts_after_a_power_off(node: Node) {
    let namespace = TestNamespace::new("always");
    namespace.apply(&Manifest::virtual_machine("vm", image::POWER_OFF, node));
    let first = eventually(STARTED, || {
        pods(&namespace).pop().ok_or("no pod yet".to_owned())
    });
    eventually(STARTED, || {
        let pods = pods(&namespace);
        let another = pods.iter().any(|pod| pod != &first);
        if another {
            Ok(())
        } else {
            Err(format!("only {pods:?}"))
        }
    });
}

fn once_runs_once(node: Node) {
    let namespace = TestNamespace::new("once");
    namespace.apply(
        &Manifest::virtual_machine("vm", image::POWER_OFF, node)
            .with("/spec/runStrategy", json!("Once")),
    );
    namespace.wait_for("vmi", "vm", "/status/phase", "Succeeded");
    status(&namespace, "Stopped");
    assert!(pods(&namespace).len() <= 1);
}

fn passes_secrets_to_the_guest(node: Node) {
    let namespace = TestNamespace::new("secret");
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "seed",
            "--from-literal=userdata=#!/bin/sh\necho the secret is tangerine\n",
        ])
        .expect_success();
    let seed = json!({ "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": "seed" } } });
    let disk = json!({ "name": "seed", "disk": { "bus": "virtio" } });
    namespace.apply(
        &Manifest::virtual_machine("vm", image::TINY, node)
            .with("/spec/template/spec/volumes/-", seed)
            .with("/spec/template/spec/domain/devices/disks/-", disk),
    );
    status(&namespace, "Running");
    let pod = pods(&namespace).pop().expect("a running VM has a pod");
    namespace.wait_for_log(&pod, "compute", "the secret is tangerine");
}
