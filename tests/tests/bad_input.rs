//! Wrong input gets one clear sentence where the user looks, leaves nothing, and is mended by
//! mending the input.

use serde_json::json;
use tests::{Manifest, Node, TestNamespace, image, on_both_nodes};

on_both_nodes!(
    no_disk_in_the_image,
    a_claim_that_is_no_disk,
    memory_too_small,
    annotation_that_is_no_json,
    annotation_with_an_unknown_field,
    host_network,
    two_machine_images,
    a_mount_nobody_refers_to,
    a_vm_recovers_once_mended,
    a_vm_without_its_secret,
);

/// The pod gets an event that holds every one of `words`, and its machine never runs.
#[track_caller]
fn refused(namespace: &TestNamespace, pod: &Manifest, words: &[&str]) {
    namespace.apply(pod);
    let message = namespace.wait_for_event("vm", words[0]);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    let status = namespace.get("pod", "vm").expect("the pod is there")["status"].clone();
    assert_ne!(
        status["containerStatuses"][0]["started"], true,
        "{status:#}"
    );
    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}

fn annotated(node: Node, annotation: &str) -> Manifest {
    Manifest::machine_pod("vm", image::BOOT_SECTOR, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/vmi-spec": annotation }),
    )
}

fn no_disk_in_the_image(node: Node) {
    let namespace = TestNamespace::new("no-disk");
    let pod = Manifest::machine_pod("vm", image::BUSYBOX, node).with(
        "/metadata/annotations",
        json!({ "kubevirt.io/machine-container": "machine" }),
    );
    refused(&namespace, &pod, &["disk", "image"]);
}

fn a_claim_that_is_no_disk(node: Node) {
    let namespace = TestNamespace::new("no-claim");
    let spec = json!({ "volumes": [
        { "name": "root", "containerDisk": { "image": image::BOOT_SECTOR } },
        { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
    ] });
    // The spec refers to a claim that the pod does not mount.
    refused(
        &namespace,
        &annotated(node, &spec.to_string()),
        &["data", "/volumes/data"],
    );
}

fn memory_too_small(node: Node) {
    let namespace = TestNamespace::new("small");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/containers/0/resources/limits/memory", json!("1Mi"));
    refused(&namespace, &pod, &["memory"]);
}

fn annotation_that_is_no_json(node: Node) {
    let namespace = TestNamespace::new("no-json");
    refused(
        &namespace,
        &annotated(node, "{not json"),
        &["kubevirt.io/vmi-spec", "line 1"],
    );
}

fn annotation_with_an_unknown_field(node: Node) {
    let namespace = TestNamespace::new("unknown");
    let spec = json!({ "domain": { "cpu": { "corse": 2 } } });
    refused(
        &namespace,
        &annotated(node, &spec.to_string()),
        &["domain.cpu.corse"],
    );
}

fn host_network(node: Node) {
    let namespace = TestNamespace::new("host-network");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/hostNetwork", json!(true));
    refused(&namespace, &pod, &["hostNetwork"]);
}

fn two_machine_images(node: Node) {
    let namespace = TestNamespace::new("two");
    let second = json!({
        "name": "second", "image": image::BOOT_SECTOR, "imagePullPolicy": "IfNotPresent",
        "command": ["vm"], "resources": { "requests": { "cpu": "50m" }, "limits": { "cpu": "1", "memory": "64Mi" } },
    });
    namespace.apply(
        &Manifest::machine_pod("vm", image::BOOT_SECTOR, node).with("/spec/containers/-", second),
    );
    let message = namespace.wait_for_event("vm", "kubevirt.io/machine-container");
    assert!(message.contains("second"), "{message}");
}

fn a_mount_nobody_refers_to(node: Node) {
    let namespace = TestNamespace::new("mount");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with(
            "/spec/volumes",
            json!([{ "name": "scratch", "emptyDir": {} }]),
        )
        .with(
            "/spec/containers/0/volumeMounts",
            json!([
                { "name": "scratch", "mountPath": "/scratch" },
            ]),
        );
    refused(&namespace, &pod, &["/scratch"]);
}

fn conditions(namespace: &TestNamespace) -> String {
    let vmi = namespace
        .get("vmi", "vm")
        .map(|vmi| vmi["status"]["conditions"].to_string());
    vmi.unwrap_or_default()
}

fn a_vm_recovers_once_mended(node: Node) {
    let namespace = TestNamespace::new("mended");
    let sound = Manifest::virtual_machine("vm", image::BOOT_SECTOR, node).with(
        "/spec/template/spec/domain/devices/sound",
        json!({ "name": "card", "model": "ich9" }),
    );
    namespace.apply(&sound);
    namespace.wait_for_event("vm", "domain.devices.sound");
    assert!(
        namespace.list("pod", "vm.kubevirt.io/name=vm").is_empty(),
        "no pod is made"
    );
    assert!(
        conditions(&namespace).contains("UnsupportedField"),
        "{}",
        conditions(&namespace)
    );
    namespace.apply(&Manifest::virtual_machine("vm", image::BOOT_SECTOR, node));
    namespace.wait_for("vm", "vm", "/status/printableStatus", "Running");
}

fn a_vm_without_its_secret(node: Node) {
    let namespace = TestNamespace::new("no-secret");
    let seed = json!({ "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": "seed" } } });
    let disk = json!({ "name": "seed", "disk": { "bus": "virtio" } });
    namespace.apply(
        &Manifest::virtual_machine("vm", image::TINY, node)
            .with("/spec/template/spec/volumes/-", seed)
            .with("/spec/template/spec/domain/devices/disks/-", disk),
    );
    let selector = "vm.kubevirt.io/name=vm";
    let pod = tests::eventually(tests::SOON, || {
        let pod = namespace
            .list("pod", selector)
            .pop()
            .ok_or("no pod yet".to_owned())?;
        pod["metadata"]["name"]
            .as_str()
            .map(str::to_owned)
            .ok_or("no name".to_owned())
    });
    namespace.wait_for_event(&pod, "secret \"seed\" not found");
    namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "seed",
            "--from-literal=userdata=#!/bin/sh\n",
        ])
        .expect_success();
    namespace.wait_for("vm", "vm", "/status/printableStatus", "Running");
}
