//! What the admission policy lets the controller do, for somebody who has its token.

use serde_json::{Value, json};
use tests::{Manifest, Output, TestNamespace, image, kubectl, kubectl_input};

const CONTROLLER: &str = "system:serviceaccount:kubevirt:vm-crd-controller";

/// A pod as the controller makes them.
fn pod() -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "machine",
            "labels": { "kubevirt.io": "virt-launcher" },
            "annotations": { "kubevirt.io/machine-container": "compute" },
            "ownerReferences": [{
                "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "controller": true,
                "name": "machine", "uid": "5d307ca9-b3ef-428c-8861-06e72d69f223",
            }],
        },
        "spec": {
            "runtimeClassName": "kubevirt",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 107,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "compute", "image": image::TINY, "command": ["vm"],
                "securityContext": {
                    "allowPrivilegeEscalation": false, "runAsNonRoot": true,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    }))
}

/// The same with an image beside the machine's, and `more` of that container.
fn with_image(more: Value) -> Manifest {
    let mut image = json!({
        "name": "image-data", "image": image::TINY, "command": ["vm"], "restartPolicy": "Always",
        "securityContext": {
            "allowPrivilegeEscalation": false, "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        image[key] = value.clone();
    }
    pod()
        .with(
            "/metadata/annotations/kubevirt.io~1image-containers",
            "kernel-boot=k,data=image-data".into(),
        )
        .with("/spec/initContainers", json!([image]))
}

/// What the API server says to the controller; nothing is made.
fn ask(namespace: &str, pod: &Manifest) -> Output {
    let user = format!("--as={CONTROLLER}");
    let arguments = [
        "--namespace",
        namespace,
        "create",
        "--dry-run=server",
        &user,
        "-f",
        "-",
    ];
    kubectl_input(&arguments, pod.to_string().as_bytes())
}

#[track_caller]
fn refused(output: Output, words: &str) {
    assert_ne!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains(words), "{}", output.stderr);
}

#[test]
fn the_controller_makes_machines_and_nothing_else() {
    let namespace = TestNamespace::new("admission");
    ask(namespace.name(), &pod()).expect_success();
    let image = with_image(json!({}));
    ask(namespace.name(), &image).expect_success();
    let container = "/spec/containers/0";
    let unprivileged = "only unprivileged pods of the kubevirt runtime";
    let one_machine = "only pods with a machine as their one container";
    let cases: [(String, Value, &str); 18] = [
        ("/spec/runtimeClassName".into(), Value::Null, unprivileged),
        ("/spec/hostNetwork".into(), true.into(), unprivileged),
        ("/spec/hostPID".into(), true.into(), unprivileged),
        (
            "/spec/automountServiceAccountToken".into(),
            true.into(),
            unprivileged,
        ),
        (
            "/spec/securityContext/runAsUser".into(),
            Value::Null,
            unprivileged,
        ),
        (
            "/spec/securityContext/seccompProfile".into(),
            json!({ "type": "Unconfined" }),
            unprivileged,
        ),
        (
            "/metadata/annotations".into(),
            json!({ "kubevirt.io/machine-container": "other" }),
            one_machine,
        ),
        (
            "/spec/initContainers".into(),
            json!([{ "name": "first", "image": image::BUSYBOX }]),
            one_machine,
        ),
        (format!("{container}/command"), json!(["sh"]), one_machine),
        (
            format!("{container}/env"),
            json!([{ "name": "A", "value": "b" }]),
            one_machine,
        ),
        (
            format!("{container}/ports"),
            json!([{ "containerPort": 22, "hostPort": 22 }]),
            one_machine,
        ),
        (
            format!("{container}/securityContext/runAsNonRoot"),
            false.into(),
            one_machine,
        ),
        (
            format!("{container}/securityContext/runAsUser"),
            0.into(),
            one_machine,
        ),
        (
            format!("{container}/securityContext/capabilities"),
            json!({ "drop": ["NET_RAW"] }),
            one_machine,
        ),
        (
            format!("{container}/securityContext/seccompProfile"),
            json!({ "type": "Unconfined" }),
            one_machine,
        ),
        (
            "/spec/volumes".into(),
            json!([{ "name": "node", "hostPath": { "path": "/" } }]),
            "only in a namespace with the label kubevirt.io/host-disks=allowed",
        ),
        (
            "/spec/volumes".into(),
            json!([{ "name": "scratch", "emptyDir": {} }]),
            "only claims, images, Secrets, ConfigMaps and facts about itself",
        ),
        (
            "/metadata/labels".into(),
            json!({ "app": "other" }),
            "only pods of machines",
        ),
    ];
    for (pointer, value, words) in cases {
        refused(ask(namespace.name(), &pod().with(&pointer, value)), words);
    }
    // What is no image to the shim would run, with a program of whoever made it.
    for more in [
        json!({ "name": "other" }),
        json!({ "restartPolicy": null }),
        json!({ "command": ["sh"] }),
        json!({ "env": [{ "name": "A", "value": "b" }] }),
        json!({ "securityContext": { "allowPrivilegeEscalation": true } }),
        json!({ "securityContext": {
            "allowPrivilegeEscalation": false, "runAsUser": 0, "capabilities": { "drop": ["ALL"] },
        } }),
    ] {
        refused(ask(namespace.name(), &with_image(more)), one_machine);
    }
    for namespace in ["kube-system", "kubevirt"] {
        refused(ask(namespace, &pod()), "cannot run in the namespaces");
    }
}

#[test]
fn the_controller_has_directories_of_the_node_where_that_is_allowed() {
    let namespace = TestNamespace::new("admission-host");
    let name = namespace.name();
    let with_path = |path: &str| {
        let kind = "Directory";
        let volumes = json!([{ "name": "node", "hostPath": { "path": path, "type": kind } }]);
        pod()
            .with("/spec/volumes", volumes)
            .with("/spec/securityContext/runAsGroup", 107.into())
    };
    let words = "only in a namespace with the label kubevirt.io/host-disks=allowed";
    refused(ask(name, &with_path("/data")), words);
    let label = "kubevirt.io/host-disks=allowed";
    kubectl(&["label", "namespace", name, label]).expect_success();
    ask(name, &with_path("/data")).expect_success();
    refused(ask(name, &with_path("/")), words);
    let any = json!([{ "name": "node", "hostPath": { "path": "/data" } }]);
    refused(
        ask(name, &with_path("/data").with("/spec/volumes", any)),
        words,
    );
    for (field, value) in [
        ("runAsUser", 1.into()),
        ("runAsGroup", 0.into()),
        ("supplementalGroups", json!([0])),
    ] {
        let pod = with_path("/data").with(&format!("/spec/securityContext/{field}"), value);
        refused(ask(name, &pod), words);
    }
    let other = "/spec/containers/0/securityContext/runAsGroup";
    refused(ask(name, &with_path("/data").with(other, 0.into())), words);
    let level = "pod-security.kubernetes.io/enforce=baseline";
    kubectl(&["label", "namespace", name, level]).expect_success();
    refused(ask(name, &with_path("/data")), "PodSecurity");
}
