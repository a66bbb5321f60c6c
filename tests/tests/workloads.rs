//! Workloads of machines, as the examples have them: a Deployment that rolls an update out, a
//! StatefulSet whose members keep their disks, a Job, a native sidecar.

use serde_json::Value;
use tests::{LocalClaim, Manifest, Node, STARTED, TestNamespace, eventually};

/// The example of that file name.
fn example(file: &str) -> String {
    format!("{}/../examples/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn apply(namespace: &TestNamespace, file: &str) {
    namespace
        .kubectl(&["apply", "-f", &example(file)])
        .expect_success();
}

/// Waits until a rollout is complete.
fn rolled_out(namespace: &TestNamespace, object: &str) {
    namespace
        .kubectl(&["rollout", "status", object, "--timeout=300s"])
        .expect_success();
}

#[test]
fn a_deployment_rolls_an_update_out() {
    let namespace = TestNamespace::new("deployment");
    apply(&namespace, "deployment.yaml");
    rolled_out(&namespace, "deployment/front");
    namespace.apply(&Manifest::shell_pod("client", "sleep 3600", Node::One));
    namespace.wait_for("pod", "client", "/status/phase", "Running");
    // Both machines answer behind the one Service.
    let mut seen = std::collections::BTreeSet::new();
    eventually(STARTED, || {
        seen.insert(namespace.fetch("client", "main", "front", 80)?);
        match seen.len() {
            2 => Ok(()),
            _ => Err(format!("only {seen:?} answered")),
        }
    });
    let text = std::fs::read_to_string(example("deployment.yaml")).expect("the example is there");
    let changed = text.replace("version 1", "version 2");
    assert_ne!(changed, text);
    let mut deployment = changed.split("\n---\n");
    let deployment = deployment.next().expect("it comes first");
    let name = namespace.name();
    tests::kubectl_input(&["-n", name, "apply", "-f", "-"], deployment.as_bytes()).expect_success();
    rolled_out(&namespace, "deployment/front");
    for pod in namespace.list("pod", "app=front") {
        let (name, deleted) = (
            &pod["metadata"]["name"],
            &pod["metadata"]["deletionTimestamp"],
        );
        if deleted.is_null() {
            let name = name.as_str().expect("a name");
            let version = namespace.kubectl(&["exec", name, "--", "cat", "/srv/www/version"]);
            assert_eq!(version.expect_success(), "version 2\n");
        }
    }
}

#[test]
fn a_stateful_set_keeps_its_disks() {
    let namespace = TestNamespace::new("statefulset");
    let _claims = [
        LocalClaim::filesystem(&namespace, "data-db-0", Node::One),
        LocalClaim::filesystem(&namespace, "data-db-1", Node::Two),
    ];
    apply(&namespace, "statefulset.yaml");
    keeps_its_disks(&namespace);
}

#[test]
fn a_stateful_set_keeps_its_block_devices() {
    let namespace = TestNamespace::new("statefulset-block");
    let _claims = [
        LocalClaim::block(&namespace, "data-db-0", Node::One),
        LocalClaim::block(&namespace, "data-db-1", Node::Two),
    ];
    let text = std::fs::read_to_string(example("statefulset.yaml")).expect("the example is there");
    let block = text
        .replace("volumeMounts:", "volumeDevices:")
        .replace("mountPath:", "devicePath:")
        .replace("accessModes:", "volumeMode: Block\n        accessModes:");
    let name = namespace.name();
    tests::kubectl_input(&["-n", name, "apply", "-f", "-"], block.as_bytes()).expect_success();
    keeps_its_disks(&namespace);
}

fn keeps_its_disks(namespace: &TestNamespace) {
    rolled_out(namespace, "statefulset/db");
    let shell = |pod: &str, script: &str| {
        namespace
            .kubectl(&["exec", pod, "--", "sh", "-c", script])
            .expect_success()
    };
    for pod in ["db-0", "db-1"] {
        shell(
            pod,
            &format!("printf {pod} | dd of=/dev/vdb conv=fsync 2>/dev/null"),
        );
    }
    let uid = |pod: &str| -> Result<Value, String> {
        Ok(namespace.get("pod", pod)?["metadata"]["uid"].clone())
    };
    let before = uid("db-0").expect("db-0 is there");
    namespace
        .kubectl(&["delete", "pod", "db-0"])
        .expect_success();
    eventually(STARTED, || match uid("db-0") {
        Ok(now) if now != before => Ok(()),
        now => Err(format!("{now:?}")),
    });
    rolled_out(namespace, "statefulset/db");
    for pod in ["db-0", "db-1"] {
        assert_eq!(shell(pod, "head -c 4 /dev/vdb"), pod);
    }
    // Its claims are given back before they go.
    namespace
        .kubectl(&["delete", "statefulset", "db", "--cascade=foreground"])
        .expect_success();
}

#[test]
fn a_job_runs_to_completion() {
    let namespace = TestNamespace::new("job");
    apply(&namespace, "job.yaml");
    namespace
        .kubectl(&[
            "wait",
            "job/compute",
            "--for=condition=Complete",
            "--timeout=300s",
        ])
        .expect_success();
    let log = namespace.kubectl(&["logs", "job/compute"]).expect_success();
    assert!(log.contains("The answer is 42."), "{log}");
}

#[test]
fn a_native_sidecar_reaches_the_guest() {
    let namespace = TestNamespace::new("native-sidecar");
    apply(&namespace, "sidecar.yaml");
    namespace.wait_for_log("watched", "watcher", "the guest serves");
}
