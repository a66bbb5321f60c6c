//! Directories of the pod in the guest, by virtiofs: rights, updates, and what happens without the
//! program that serves them.

use serde_json::{Value, json};
use tests::{LocalClaim, Manifest, Node, SOON, TestNamespace, eventually, image, on_both_nodes};

on_both_nodes!(
    a_pods_volumes_are_mounted_and_follow_it,
    a_virtual_machines_volumes_are_mounted,
    the_end_of_what_serves_them_is_the_machines,
    what_cannot_be_shared_is_refused,
);

/// The pod `vm` of the tiny guest that shares these directories.
fn sharing(node: Node, names: &[&str]) -> Manifest {
    let filesystem = |name: &&str| json!({ "name": name, "virtiofs": {} });
    let filesystems: Vec<_> = names.iter().map(filesystem).collect();
    let mount = |name: &&str| json!({ "name": name, "mountPath": format!("/volumes/{name}") });
    let mounts: Vec<_> = names.iter().map(mount).collect();
    let spec = json!({ "domain": { "devices": { "filesystems": filesystems } } });
    Manifest::machine_pod("vm", image::TINY, node)
        .with(
            "/metadata/annotations",
            json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
        )
        .with("/spec/containers/0/volumeMounts", json!(mounts))
}

fn object(kind: &str, name: &str, data: Value) -> Manifest {
    Manifest::new(json!({
        "apiVersion": "v1", "kind": kind, "metadata": { "name": name }, "data": data,
    }))
}

/// Runs a shell script in the guest of a container, which must succeed.
#[track_caller]
fn guest(namespace: &TestNamespace, pod: &str, container: &str, script: &str) -> String {
    let arguments = ["exec", pod, "-c", container, "--", "sh", "-ec", script];
    namespace.kubectl(&arguments).expect_success()
}

const MOUNT: &str = "for d in \"$@\"; do mkdir -p /mnt/$d; mount -t virtiofs $d /mnt/$d; done";

fn a_pods_volumes_are_mounted_and_follow_it(node: Node) {
    let namespace = TestNamespace::new("shared");
    namespace.apply(&object("ConfigMap", "settings", json!({ "colour": "red" })));
    namespace.apply(&object("Secret", "key", json!({ "key": "c2VjcmV0" })));
    let volumes = json!([
        { "name": "settings", "configMap": { "name": "settings" } },
        { "name": "key", "secret": { "secretName": "key" } },
        { "name": "token", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token" } },
        ] } },
        { "name": "scratch", "emptyDir": {} },
    ]);
    let mut beside = Manifest::shell_container("beside", "sleep 1000");
    beside["volumeMounts"] = json!([{ "name": "scratch", "mountPath": "/scratch" }]);
    let names = ["settings", "key", "token", "scratch"];
    namespace.apply(
        &sharing(node, &names)
            .with("/spec/volumes", volumes)
            .with("/spec/containers/-", beside),
    );
    namespace.wait_for_log("vm", "machine", image::TINY_READY);
    let vm = |script: &str| guest(&namespace, "vm", "machine", script);
    let other = |script: &str| guest(&namespace, "vm", "beside", script);
    vm(&MOUNT.replace("\"$@\"", &names.join(" ")));

    assert_eq!(vm("cat /mnt/settings/colour /mnt/key/key"), "redsecret");
    assert!(vm("cat /mnt/token/token").starts_with("ey"));
    let refused = vm("touch /mnt/settings/new 2>&1 || true");
    assert!(refused.contains("Read-only"), "{refused}");

    // Both write, both read; the guest's root is nobody on the node.
    vm("echo from the guest > /mnt/scratch/a; chown 0:0 /mnt/scratch/a; chmod 4755 /mnt/scratch/a");
    assert_eq!(other("cat /scratch/a"), "from the guest\n");
    let owner: u32 = other("stat -c %u /scratch/a")
        .trim()
        .parse()
        .expect("a uid");
    assert!(owner >= 2_000_000_000, "{owner}");
    assert_eq!(vm("stat -c %u:%g /mnt/scratch/a"), "0:0\n");
    other("echo from beside > /scratch/b");
    assert_eq!(vm("cat /mnt/scratch/b"), "from beside\n");
    // A link is the guest's to follow, and means the guest's own file.
    other("ln -s /etc/inittab /scratch/link");
    assert_eq!(vm("cat /mnt/scratch/link"), vm("cat /etc/inittab"));
    // 16 MiB there and back.
    let sum = vm("head -c 16777216 /dev/urandom > /mnt/scratch/big; sha256sum < /mnt/scratch/big");
    assert_eq!(other("sha256sum < /scratch/big"), sum);
    let sum = other("head -c 16777217 /dev/urandom > /scratch/back; sha256sum < /scratch/back");
    assert_eq!(vm("sha256sum < /mnt/scratch/back"), sum);

    namespace.apply(&object(
        "ConfigMap",
        "settings",
        json!({ "colour": "blue" }),
    ));
    eventually(SOON * 3, || {
        // A pod that changes is looked at by kubelet at once.
        namespace.kubectl(&["annotate", "pod", "vm", "--overwrite", "look=again"]);
        namespace.kubectl(&["annotate", "pod", "vm", "look-"]);
        match vm("cat /mnt/settings/colour").as_str() {
            "blue" => Ok(()),
            colour => Err(format!("it is {colour}")),
        }
    });
}

fn a_virtual_machines_volumes_are_mounted(node: Node) {
    let namespace = TestNamespace::new("shared-vm");
    let claim = LocalClaim::filesystem(&namespace, "data", node);
    namespace.apply(&object("ConfigMap", "settings", json!({ "colour": "red" })));
    namespace.apply(&object("Secret", "key", json!({ "key": "c2VjcmV0" })));
    let names = ["settings", "key", "account", "about", "data"];
    let filesystems = names.map(|name| json!({ "name": name, "virtiofs": {} }));
    let label = json!({ "path": "name", "fieldRef": { "fieldPath": "metadata.labels['vm.kubevirt.io/name']" } });
    let mut vm = Manifest::virtual_machine("vm", image::TINY, node)
        .with(
            "/spec/template/spec/domain/devices/filesystems",
            json!(filesystems),
        )
        .with("/spec/template/spec/domain/devices/tpm", json!({}));
    for volume in [
        json!({ "name": "settings", "configMap": { "name": "settings" } }),
        json!({ "name": "key", "secret": { "secretName": "key" } }),
        json!({ "name": "account", "serviceAccount": { "serviceAccountName": "default" } }),
        json!({ "name": "about", "downwardAPI": { "fields": [label] } }),
        json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }),
    ] {
        vm = vm.with("/spec/template/spec/volumes/-", volume);
    }
    namespace.apply(&vm);
    namespace.wait_for("vm", "vm", "/status/printableStatus", "Running");
    let pods = namespace.list("pods", "vm.kubevirt.io/name=vm");
    let pod = pods[0]["metadata"]["name"].as_str().expect("a name");
    namespace.wait_for_log(pod, "compute", image::TINY_READY);
    let vm = |script: &str| guest(&namespace, pod, "compute", script);
    vm(&MOUNT.replace("\"$@\"", &names.join(" ")));
    let told = vm("cat /mnt/settings/colour /mnt/key/key /mnt/account/namespace /mnt/about/name");
    assert_eq!(told, format!("redsecret{}vm", namespace.name()));
    assert!(vm("cat /mnt/account/ca.crt").contains("BEGIN CERTIFICATE"));
    vm("echo kept > /mnt/data/file");
    let kept = node.shell(&format!("cat {}/file", claim.directory()));
    assert_eq!(kept.expect_success(), "kept\n");
    assert_eq!(vm("cat /sys/class/tpm/tpm0/tpm_version_major"), "2\n");
    // What the firmware measured.
    let measured = vm("cat /sys/class/tpm/tpm0/pcr-sha256/0");
    assert!(
        measured.trim().len() == 64 && measured.trim() != "0".repeat(64),
        "{measured}"
    );
}

/// A guest would hang on a directory that nobody serves.
fn the_end_of_what_serves_them_is_the_machines(node: Node) {
    let namespace = TestNamespace::new("served");
    let name = namespace.name();
    let volumes = json!([{ "name": name, "emptyDir": {} }]);
    namespace.apply(&sharing(node, &[name]).with("/spec/volumes", volumes));
    namespace.wait_for("pod", "vm", "/status/phase", "Running");
    let kill = format!(
        "for p in /proc/[0-9]*; do \
         tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q -- '^/usr/libexec/virtiofsd .*--shared-dir=/volumes/{name} ' \
         && kill -9 ${{p##*/}} && echo killed; done; true"
    );
    assert_eq!(node.shell(&kill).expect_success(), "killed\n");
    namespace.wait_for("pod", "vm", "/status/phase", "Failed");
    let pod = namespace.get("pod", "vm").expect("the pod is there");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    let message = ended["message"].as_str().unwrap_or_default();
    let expected = format!("because virtiofsd of {name}, which served it, ended with signal 9");
    assert!(message.contains(&expected), "{ended:#}");
}

fn what_cannot_be_shared_is_refused(node: Node) {
    let namespace = TestNamespace::new("unshared");
    namespace.apply(&object("ConfigMap", "settings", json!({ "colour": "red" })));
    let volumes = json!([{ "name": "settings", "configMap": { "name": "settings" } }]);
    let of_a_file = sharing(node, &["settings"])
        .with("/spec/volumes", volumes.clone())
        .with("/spec/containers/0/volumeMounts/0/subPath", json!("colour"));
    namespace.expect_refused(&of_a_file, &["settings is not a directory", "subPath"]);
    let unnamed = sharing(node, &[])
        .with("/spec/volumes", volumes.clone())
        .with(
            "/spec/containers/0/volumeMounts",
            json!([{ "name": "settings", "mountPath": "/volumes/settings" }]),
        );
    namespace.expect_refused(&unnamed, &["no volume settings", "/volumes/settings"]);
    let missing = sharing(node, &["settings"]).with("/spec/containers/0/volumeMounts", json!([]));
    namespace.expect_refused(&missing, &["\"settings\" is not in the pod"]);
}
