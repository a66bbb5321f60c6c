//! Pods with a user namespace of their own (`hostUsers: false`): on the node that has one to give,
//! and on the one whose containerd is too old for it.

use serde_json::json;
use tests::{LocalClaim, Manifest, Node, TestNamespace, image};

/// What of the node's ids a pod of kubelet's has.
const IDS_PER_POD: u32 = 65536;

fn machine_pod(node: Node) -> Manifest {
    Manifest::machine_pod("vm", image::TINY, node).with("/spec/hostUsers", json!(false))
}

/// The uid of QEMU on the node, and the uid there of its user namespace's root.
#[track_caller]
fn uids(namespace: &TestNamespace, node: Node) -> (u32, u32) {
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let script = format!(
        "for p in /proc/[0-9]*; do grep -q qemu $p/comm 2>/dev/null && grep -q {uid} $p/cgroup \
         && {{ grep Uid: $p/status; cat $p/uid_map; }}; done; true"
    );
    let found = node.shell(&script).expect_success();
    let numbers: Vec<u32> = found
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [uid, effective, saved, files, first, root, size] = numbers[..] else {
        panic!("of one QEMU with one range: {found}");
    };
    assert!([effective, saved, files].iter().all(|other| *other == uid));
    assert_eq!((first, size), (0, IDS_PER_POD), "{found}");
    (uid, root)
}

#[test]
fn a_machine_and_what_is_beside_it_have_users_of_their_own() {
    let node = Node::Two;
    let namespace = TestNamespace::new("users");
    let claim = LocalClaim::filesystem(&namespace, "data", node);
    let spec = json!({
        "domain": { "devices": {
            "disks": [
                { "name": "root", "disk": { "bus": "virtio" } },
                { "name": "data", "disk": { "bus": "virtio" } },
            ],
            "filesystems": [{ "name": "scratch", "virtiofs": {} }],
            "tpm": {},
        } },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
        ],
    });
    let mut beside = Manifest::shell_container("beside", "sleep 1000");
    beside["volumeMounts"] = json!([{ "name": "scratch", "mountPath": "/scratch" }]);
    namespace.apply(
        &machine_pod(node)
            .with(
                "/metadata/annotations",
                json!({
                    "kubevirt.io/vmi-spec": spec.to_string(),
                    "kubevirt.io/volume-sizes": "{\"data\": \"4Mi\"}",
                }),
            )
            .with(
                "/spec/volumes",
                json!([
                    { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
                    { "name": "scratch", "emptyDir": {} },
                ]),
            )
            .with(
                "/spec/containers/0/volumeMounts",
                json!([
                    { "name": "data", "mountPath": "/volumes/data" },
                    { "name": "scratch", "mountPath": "/volumes/scratch" },
                ]),
            )
            .with("/spec/containers/-", beside),
    );
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let run = |container: &str, script: &str| {
        let arguments = ["exec", "vm", "-c", container, "--", "sh", "-ec", script];
        namespace.kubectl(&arguments).expect_success()
    };

    // On the node they are nobody else, QEMU not even the root of its pod.
    let (uid, root) = uids(&namespace, node);
    assert!(root >= IDS_PER_POD, "{root}");
    assert_eq!(uid - root, 107);
    let map = run("beside", "cat /proc/self/uid_map; id -u");
    let numbers: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(numbers, ["0", &root.to_string(), "65536", "0"]);

    // On volumes they are who they are in their pod.
    run("machine", "echo there > /dev/vdb; sync");
    let disk = format!("{}/disk.img", claim.directory());
    let script = format!("stat -c %u {disk}; head -c 5 {disk}");
    assert_eq!(node.shell(&script).expect_success(), "0\nthere");
    run(
        "machine",
        "mkdir /mnt/s; mount -t virtiofs scratch /mnt/s; echo guest > /mnt/s/a",
    );
    assert_eq!(
        run("beside", "stat -c %u /scratch/a; cat /scratch/a"),
        "107\nguest\n"
    );
    run("beside", "echo beside > /scratch/b");
    assert_eq!(run("machine", "cat /mnt/s/b"), "beside\n");

    // Another pod's are others.
    let other = TestNamespace::new("other-users");
    other.apply(&machine_pod(node));
    other.wait_for_log("vm", "machine", image::TINY_READY);
    let (other_uid, other_root) = uids(&other, node);
    assert_eq!(other_uid - other_root, 107);
    assert!(other_root.abs_diff(root) >= IDS_PER_POD);

    namespace
        .kubectl(&["delete", "pod", "vm", "--grace-period=1"])
        .expect_success();
    namespace.wait_gone("pod", "vm");
}

/// By containerd itself.
#[test]
fn a_user_that_the_namespace_does_not_have_is_refused() {
    let namespace = TestNamespace::new("no-such-user");
    let pod = machine_pod(Node::Two).with("/spec/securityContext", json!({ "runAsUser": 70000 }));
    namespace.expect_refused(&pod, &["70000 cannot be mapped"]);
}

#[test]
fn an_old_containerd_refuses_it() {
    let namespace = TestNamespace::new("no-users");
    let words = ["does not support user namespaces", "hostUsers"];
    namespace.expect_refused(&machine_pod(Node::One), &words);
}
