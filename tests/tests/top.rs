//! `kubectl top pod` shows what a machine uses of its node, by way of the real metrics server.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Manifest, Node, TestNamespace, eventually, image, kubectl, kubectl_input};

/// Loaded by `cargo xtask cluster extras`.
const IMAGE: &str = "kubevirt.local/bench/metrics-server:1";

/// A rate needs two samples of the kubelet's, and two rounds of the metrics server.
const PATIENCE: Duration = Duration::from_secs(120);

/// The metrics server, as its own manifests have it, in the case's namespace; gone with the value.
struct MetricsServer<'a>(&'a TestNamespace);

/// What it makes beyond its namespace.
const CLUSTER_WIDE: [&str; 4] = [
    // First: while it is there and its server is not, no namespace can be finished.
    "apiservice/v1beta1.metrics.k8s.io",
    "clusterrole/kubevirt-test-metrics-server",
    "clusterrolebinding/kubevirt-test-metrics-server",
    "clusterrolebinding/kubevirt-test-metrics-server-auth",
];

impl<'a> MetricsServer<'a> {
    #[track_caller]
    fn start(namespace: &'a TestNamespace) -> Self {
        let this = Self(namespace);
        let apply = |object: &Value| {
            let arguments = ["apply", "--server-side", "-f", "-"];
            kubectl_input(&arguments, object.to_string().as_bytes()).expect_success();
        };
        let name = "kubevirt-test-metrics-server";
        apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name },
            "rules": [
                { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
                { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"] },
            ],
        }));
        let subject =
            json!({ "kind": "ServiceAccount", "name": "default", "namespace": namespace.name() });
        for (binding, role) in [
            (name.to_owned(), name),
            (format!("{name}-auth"), "system:auth-delegator"),
        ] {
            apply(&json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": { "name": binding },
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
                },
                "subjects": [subject],
            }));
        }
        let pod = Manifest::shell_pod("metrics-server", "", Node::Two)
            .with(
                "/spec/containers/0",
                json!({
                    "name": "main",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "args": [
                        "--secure-port=10250",
                        "--cert-dir=/certificates",
                        "--kubelet-preferred-address-types=InternalIP",
                        "--kubelet-certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
                        // As often as it can.
                        "--metric-resolution=10s",
                        "--kubelet-request-timeout=8s",
                    ],
                    "readinessProbe": {
                        "httpGet": { "path": "/livez", "port": 10250, "scheme": "HTTPS" },
                        "periodSeconds": 1,
                    },
                    "volumeMounts": [{ "name": "certificates", "mountPath": "/certificates" }],
                }),
            )
            .with("/spec/volumes", json!([{ "name": "certificates", "emptyDir": {} }]));
        namespace.apply(&pod);
        namespace.apply(&Manifest::new(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "metrics-server" },
            "spec": {
                "selector": { "app": "metrics-server" },
                "ports": [{ "port": 443, "targetPort": 10250 }],
            },
        })));
        let ready = "/status/containerStatuses/0/ready";
        namespace.wait_for("pod", "metrics-server", ready, "true");
        apply(&json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": "v1beta1.metrics.k8s.io" },
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
                // Its certificate is of its own making.
                "insecureSkipTLSVerify": true,
                "service": { "name": "metrics-server", "namespace": namespace.name() },
            },
        }));
        this
    }
}

impl Drop for MetricsServer<'_> {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| {
            if std::thread::panicking() {
                eprintln!("{}", self.0.kubectl(&["logs", "metrics-server"]).text());
            }
            for object in CLUSTER_WIDE {
                kubectl(&["delete", "--ignore-not-found", object]);
            }
        });
    }
}

/// What `kubectl top pod` says of a pod: thousandths of a processor, and MiB.
fn top(namespace: &TestNamespace, pod: &str) -> Result<(u32, u32), String> {
    let output = namespace.kubectl(&["top", "pod", pod, "--no-headers"]);
    let text = output.text();
    let mut words = text.split_whitespace().skip(1);
    let mut number = |unit| words.next()?.strip_suffix(unit)?.parse().ok();
    let shown = number("m").zip(number("Mi"));
    shown.ok_or_else(|| format!("{output:?}"))
}

/// One case for both nodes: a cluster has one metrics server.
#[test]
fn shows_processor_and_memory() {
    let namespace = TestNamespace::new("top");
    for node in [Node::One, Node::Two] {
        namespace.apply(&Manifest::machine_pod(node.name(), image::TINY, node));
    }
    let _server = MetricsServer::start(&namespace);
    for node in [Node::One, Node::Two] {
        namespace.wait_for_log(node.name(), "machine", image::TINY_READY);
        // A processor that is never idle.
        let busy = "while :; do :; done > /dev/null 2>&1 < /dev/null &";
        namespace
            .kubectl(&["exec", node.name(), "--", "sh", "-c", busy])
            .expect_success();
    }
    for node in [Node::One, Node::Two] {
        eventually(PATIENCE, || match top(&namespace, node.name())? {
            // The guest's kernel and QEMU itself; at most what the pod's limit and QEMU's need are.
            (cpu, memory) if cpu >= 100 && (64..600).contains(&memory) => Ok(()),
            (cpu, memory) => Err(format!("{} m, {memory} MiB", cpu)),
        });
    }
}
