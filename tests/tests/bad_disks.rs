//! Disks that are none, and disks made to reach for more than their image: refused by name.

use serde_json::json;
use tests::Entry::{File, Symlink};
use tests::{ContainerDisk, Entry, LocalClaim, Manifest, Node, TestNamespace, on_both_nodes};

on_both_nodes!(
    two_disks,
    an_empty_disk,
    a_truncated_disk,
    a_backing_file,
    a_link_out_of_the_image,
    a_claim_of_somebody_else,
    a_claim_with_a_link,
);

/// A pod of an image with these entries is refused in these words.
#[track_caller]
fn refused(case: &str, node: Node, entries: &[(&str, Entry<'_>)], words: &[&str]) {
    let namespace = TestNamespace::new(case);
    let image = ContainerDisk::new(&namespace, node, entries);
    let pod = Manifest::machine_pod("vm", image.reference(), node);
    namespace.expect_refused(&pod, words);
}

/// The header of a qcow2 image of version 3 and 1 MiB whose tables are at `tables`, with a backing
/// file's name at `backing` unless that is 0.
fn qcow2(tables: u64, backing: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3u32.to_be_bytes());
    header.extend(backing.to_be_bytes());
    header.extend(if backing == 0 { 0u32 } else { 11 }.to_be_bytes());
    header.extend(16u32.to_be_bytes()); // clusters of 64 KiB
    header.extend((1u64 << 20).to_be_bytes());
    header.extend(0u32.to_be_bytes()); // not encrypted
    header.extend(1u32.to_be_bytes()); // entries of the L1 table, and where it is
    header.extend(tables.to_be_bytes());
    header.extend((tables + 0x10000).to_be_bytes()); // the reference count table
    header.extend(1u32.to_be_bytes());
    header.extend([0; 12]); // no snapshots
    header.extend([0; 24]); // no features
    header.extend(4u32.to_be_bytes());
    header.extend(104u32.to_be_bytes());
    header.extend([0; 8]); // no extensions
    header.extend(b"/etc/shadow");
    header
}

fn two_disks(node: Node) {
    let entries = [
        ("disk/one.img", File(&[0; 512])),
        ("disk/two.img", File(&[0; 512])),
    ];
    refused(
        "two-disks",
        node,
        &entries,
        &["more than one file", "one.img", "two.img"],
    );
}

fn an_empty_disk(node: Node) {
    let entries = [("disk/disk.img", File(&[]))];
    refused("empty", node, &entries, &["the image is empty"]);
}

fn a_truncated_disk(node: Node) {
    let disk = qcow2(1 << 30, 0);
    let entries = [("disk/disk.qcow2", File(&disk))];
    refused("truncated", node, &entries, &["truncated", "get it again"]);
}

fn a_backing_file(node: Node) {
    let disk = qcow2(0x10000, 112);
    let entries = [("disk/disk.qcow2", File(&disk))];
    refused("backing", node, &entries, &["backing file", "flatten it"]);
}

fn a_link_out_of_the_image(node: Node) {
    for (case, target) in [
        ("link", "/etc/shadow"),
        ("link-up", "../../../../../../etc/shadow"),
    ] {
        let entries = [("disk/disk.img", Symlink(target))];
        refused(
            case,
            node,
            &entries,
            &["a symbolic link, not a regular file"],
        );
    }
}

/// A pod of user 1000 with a claim as its disk is refused in these words.
#[track_caller]
fn claim_refused(case: &str, node: Node, make: &str, words: &[&str]) {
    let namespace = TestNamespace::new(case);
    let claim = LocalClaim::filesystem(&namespace, "data", node);
    node.shell(&format!("cd {} && {make}", claim.directory()))
        .expect_success();
    let image = ContainerDisk::new(&namespace, node, &[("disk/disk.img", File(&[0; 512]))]);
    let spec = json!({
        "domain": { "devices": { "disks": [
            { "name": "root", "disk": { "bus": "virtio" } },
            { "name": "data", "disk": { "bus": "virtio" } },
        ] } },
        "volumes": [
            { "name": "root", "containerDisk": { "image": image.reference() } },
            { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
        ],
    });
    let pod = Manifest::machine_pod("vm", image.reference(), node)
        .with(
            "/metadata/annotations",
            json!({ "kubevirt.io/vmi-spec": spec.to_string() }),
        )
        .with("/spec/securityContext", json!({ "runAsUser": 1000 }))
        .with(
            "/spec/volumes",
            json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]),
        )
        .with(
            "/spec/containers/0/volumeMounts",
            json!([{ "name": "data", "mountPath": "/volumes/data" }]),
        );
    namespace.expect_refused(&pod, words);
}

fn a_claim_of_somebody_else(node: Node) {
    claim_refused(
        "claim-foreign",
        node,
        "truncate -s 1M disk.img && chmod 600 disk.img",
        &["volume data", "cannot be opened by user 1000"],
    );
}

fn a_claim_with_a_link(node: Node) {
    claim_refused(
        "claim-link",
        node,
        "ln -s /etc/shadow disk.img",
        &["volume data", "a symbolic link, not a regular file"],
    );
}
