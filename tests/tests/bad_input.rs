//! Wrong pods get one clear sentence in their events, and leave nothing.

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
    an_unsupported_volume,
);

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
    namespace.expect_refused(&pod, &["disk", "image"]);
}

fn a_claim_that_is_no_disk(node: Node) {
    let namespace = TestNamespace::new("no-claim");
    let spec = json!({ "volumes": [
        { "name": "root", "containerDisk": { "image": image::BOOT_SECTOR } },
        { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
    ] });
    // The spec refers to a claim that the pod does not mount.
    namespace.expect_refused(
        &annotated(node, &spec.to_string()),
        &["data", "/volumes/data"],
    );
}

fn memory_too_small(node: Node) {
    let namespace = TestNamespace::new("small");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/containers/0/resources/limits/memory", json!("1Mi"));
    namespace.expect_refused(&pod, &["memory"]);
}

fn annotation_that_is_no_json(node: Node) {
    let namespace = TestNamespace::new("no-json");
    namespace.expect_refused(
        &annotated(node, "{not json"),
        &["kubevirt.io/vmi-spec", "line 1"],
    );
}

fn annotation_with_an_unknown_field(node: Node) {
    let namespace = TestNamespace::new("unknown");
    let spec = json!({ "domain": { "cpu": { "corse": 2 } } });
    namespace.expect_refused(&annotated(node, &spec.to_string()), &["domain.cpu.corse"]);
}

fn host_network(node: Node) {
    let namespace = TestNamespace::new("host-network");
    let pod = Manifest::machine_pod("vm", image::BOOT_SECTOR, node)
        .with("/spec/hostNetwork", json!(true));
    namespace.expect_refused(&pod, &["hostNetwork"]);
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
    namespace.expect_refused(&pod, &["/scratch"]);
}

fn an_unsupported_volume(node: Node) {
    let namespace = TestNamespace::new("container-path");
    let spec = json!({ "volumes": [
        { "name": "root", "containerPath": { "path": "/etc/shadow" } },
    ] });
    namespace.expect_refused(
        &annotated(node, &spec.to_string()),
        &["volumes[0].containerPath", "not supported"],
    );
}
