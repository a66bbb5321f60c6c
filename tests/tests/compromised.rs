//! A QEMU that its guest has taken over: a program runs in its place, with its descriptors, user and
//! jail, and tries the node. The same program run as root on the node shows that each of its attacks
//! succeeds where nothing stops it.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{LocalClaim, Manifest, Node, NodeConfiguration, TestNamespace, image, on_both_nodes};

on_both_nodes!(gets_no_more_than_its_pod_has);

const ATTACK: &str = include_str!("compromised/attack.sh");

/// The user of QEMU, who owns the disks of the claims.
const USER: u32 = 107;

/// A tree with the attack in QEMU's place; gone with the value.
struct Tree {
    node: Node,
    path: String,
}

impl Tree {
    #[track_caller]
    fn new(namespace: &TestNamespace, node: Node) -> Self {
        let path = format!("/var/lib/kubevirt-tests/{}-qemu", namespace.name());
        let this = Self { node, path };
        let script = format!(
            "mkdir -p {0}/usr/bin && cp /bin/busybox {0}/usr/bin/ && \
             {0}/usr/bin/busybox --install {0}/usr/bin && \
             printf '%s' '{1}' >{2} && chmod 755 {2}",
            this.path,
            ATTACK.replace('\'', r"'\''"),
            this.qemu(),
        );
        node.shell(&script).expect_success();
        this
    }

    fn qemu(&self) -> String {
        format!("{}/usr/bin/qemu-system-x86_64", self.path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let remove = format!("rm -rf {}", self.path);
        let _ = std::panic::catch_unwind(|| self.node.shell(&remove));
    }
}

/// A claim whose disk begins with `mark`.
fn claim(namespace: &TestNamespace, mark: &str, node: Node) -> LocalClaim {
    let claim = LocalClaim::filesystem(namespace, mark, node);
    let disk = format!("{}/disk.img", claim.directory());
    node.shell(&format!(
        "printf {mark} >{disk} && truncate -s 1M {disk} && chown {USER} {disk}"
    ))
    .expect_success();
    claim
}

/// What the attack says that it could do, and could not.
fn said(text: &str) -> [BTreeSet<String>; 2] {
    ["could:", "could not:"].map(|what| {
        let (_, list) = text
            .split_once(what)
            .unwrap_or_else(|| panic!("no {what:?} in: {text}"));
        let end = list.find(['\n', ';', ':']).unwrap_or(list.len());
        list[..end].split_whitespace().map(str::to_owned).collect()
    })
}

fn gets_no_more_than_its_pod_has(node: Node) {
    attack(node, None);
}

#[test]
fn gets_no_more_in_a_user_namespace() {
    attack(Node::Two, Some(false));
}

/// Has the attack run in a pod with these `hostUsers`.
fn attack(node: Node, host_users: Option<bool>) {
    let namespace = TestNamespace::new("compromised");
    let tree = Tree::new(&namespace, node);
    let (writable, readonly) = (
        claim(&namespace, "writable", node),
        claim(&namespace, "readonly", node),
    );

    let on_the_node = node.shell(&format!(
        "exec 9</ 8</dev/zero 7<{}/disk.img 6<{}/disk.img; unshare -m {}",
        writable.directory(),
        readonly.directory(),
        tree.qemu(),
    ));
    let [all, failed] = said(&on_the_node.stderr);
    assert!(failed.is_empty(), "as root on the node: {failed:?}");
    assert!(all.len() > 20, "{all:?}");

    let spec = json!({
        "domain": { "devices": { "disks": [
            { "name": "root", "disk": { "bus": "virtio" } },
            { "name": "writable", "disk": { "bus": "virtio" } },
            { "name": "readonly", "disk": { "bus": "virtio" } },
        ] } },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image::TINY } },
            { "name": "writable", "persistentVolumeClaim": { "claimName": "writable" } },
            { "name": "readonly", "persistentVolumeClaim": { "claimName": "readonly" } },
        ],
    });
    let volume =
        |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
    let pod = Manifest::machine_pod("vm", image::TINY, node)
        .with("/spec/hostUsers", json!(host_users))
        .with(
            "/metadata/annotations",
            json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
        )
        .with(
            "/spec/volumes",
            json!([volume("writable"), volume("readonly")]),
        )
        .with(
            "/spec/containers/0/volumeMounts",
            json!([
                { "name": "writable", "mountPath": "/volumes/writable" },
                { "name": "readonly", "mountPath": "/volumes/readonly", "readOnly": true },
            ]),
        )
        .with(
            "/spec/securityContext",
            json!({
                "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" },
            }),
        );
    let _qemu = NodeConfiguration::new(node, &format!("[qemu]\nroot = \"{}\"", tree.path));
    namespace.apply(&pod);
    let [could, could_not] = said(&namespace.wait_for_event("vm", "could not:"));
    assert_eq!(could, BTreeSet::from(["write_a_claim".to_owned()]));
    assert_eq!(&could | &could_not, all, "nothing was left untried");
}
