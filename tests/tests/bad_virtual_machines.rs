//! A VirtualMachine with wrong input says so in its status, and recovers once the input is mended.

use serde_json::{Value, json};
use tests::{LocalClaim, Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_field_that_is_not_supported,
    a_volume_that_is_not_supported,
    a_missing_secret,
    a_missing_claim,
    more_memory_than_the_node_has,
    no_disk_in_the_image,
);

fn status(namespace: &TestNamespace, wanted: &str) {
    namespace.wait_for("vm", "vm", "/status/printableStatus", wanted);
}

/// The conditions of the instance, or else of the machine, as text.
fn conditions(namespace: &TestNamespace) -> String {
    ["vmi", "vm"]
        .iter()
        .filter_map(|kind| namespace.get(kind, "vm").ok())
        .map(|object| object["status"]["conditions"].to_string())
        .collect()
}

fn pod(namespace: &TestNamespace) -> Result<String, String> {
    let pods = namespace.list("pod", "vm.kubevirt.io/name=vm");
    let name = pods
        .first()
        .and_then(|pod| pod["metadata"]["name"].as_str());
    name.map(str::to_owned).ok_or("no pod yet".to_owned())
}

/// The machine says `word` in an event and in its conditions, has no pod, and runs once mended.
fn is_refused_and_recovers(node: Node, wrong: &Manifest, namespace: &TestNamespace, word: &str) {
    namespace.apply(wrong);
    namespace.wait_for_event("vm", word);
    pod(namespace).expect_err("no pod is made");
    let conditions = conditions(namespace);
    assert!(conditions.contains("UnsupportedField"), "{conditions}");
    assert!(conditions.contains(word), "{conditions}");
    namespace.apply(&Manifest::virtual_machine("vm", image::BOOT_SECTOR, node));
    status(namespace, "Running");
}

fn a_field_that_is_not_supported(node: Node) {
    let namespace = TestNamespace::new("transitional");
    let wrong = Manifest::virtual_machine("vm", image::BOOT_SECTOR, node).with(
        "/spec/template/spec/domain/devices/useVirtioTransitional",
        json!(true),
    );
    is_refused_and_recovers(
        node,
        &wrong,
        &namespace,
        "domain.devices.useVirtioTransitional",
    );
}

fn a_volume_that_is_not_supported(node: Node) {
    let namespace = TestNamespace::new("vm-host-path");
    let volume = json!({ "name": "root", "containerPath": { "path": "/etc" } });
    let wrong = Manifest::virtual_machine("vm", image::BOOT_SECTOR, node)
        .with("/spec/template/spec/volumes/0", volume);
    is_refused_and_recovers(node, &wrong, &namespace, "volumes[0].containerPath");
}

/// `vm` with one more disk, from this volume source.
fn with_volume(namespace: &TestNamespace, node: Node, source: (&str, Value)) {
    let disk = json!({ "name": "more", "disk": { "bus": "virtio" } });
    namespace.apply(
        &Manifest::virtual_machine("vm", image::TINY, node)
            .with(
                "/spec/template/spec/volumes/-",
                json!({ "name": "more", source.0: source.1 }),
            )
            .with("/spec/template/spec/domain/devices/disks/-", disk),
    );
}

fn a_missing_secret(node: Node) {
    let namespace = TestNamespace::new("no-secret");
    let seed = json!({ "secretRef": { "name": "seed" } });
    with_volume(&namespace, node, ("cloudInitNoCloud", seed));
    let pod = eventually(SOON, || pod(&namespace));
    namespace.wait_for_event(&pod, "secret \"seed\" not found");
    let literal = "--from-literal=userdata=#!/bin/sh\n";
    namespace
        .kubectl(&["create", "secret", "generic", "seed", literal])
        .expect_success();
    status(&namespace, "Running");
}

fn a_missing_claim(node: Node) {
    let namespace = TestNamespace::new("no-pvc");
    let claim = json!({ "claimName": "data" });
    with_volume(&namespace, node, ("persistentVolumeClaim", claim));
    status(&namespace, "ErrorPvcNotFound");
    let conditions = conditions(&namespace);
    assert!(conditions.contains("data"), "{conditions}");
    let _claim = LocalClaim::filesystem(&namespace, "data", node);
    status(&namespace, "Running");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vm", "vm");
}

fn more_memory_than_the_node_has(node: Node) {
    let namespace = TestNamespace::new("much-memory");
    namespace.apply(
        &Manifest::virtual_machine("vm", image::BOOT_SECTOR, node)
            .with("/spec/template/spec/domain/memory/guest", json!("512Gi")),
    );
    status(&namespace, "ErrorUnschedulable");
    let conditions = conditions(&namespace);
    assert!(conditions.contains("Insufficient memory"), "{conditions}");
    namespace.apply(&Manifest::virtual_machine("vm", image::BOOT_SECTOR, node));
    status(&namespace, "Running");
}

fn no_disk_in_the_image(node: Node) {
    let namespace = TestNamespace::new("vm-no-disk");
    namespace.apply(&Manifest::virtual_machine("vm", image::BUSYBOX, node));
    let refused = "no disk in the image";
    let pod = eventually(SOON, || pod(&namespace));
    namespace.wait_for_event(&pod, refused);
    eventually(SOON, || match conditions(&namespace) {
        conditions if conditions.contains(refused) => Ok(()),
        conditions => Err(conditions),
    });
    namespace.apply(&Manifest::virtual_machine("vm", image::BOOT_SECTOR, node));
    status(&namespace, "Running");
}
