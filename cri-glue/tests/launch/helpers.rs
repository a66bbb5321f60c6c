//! Programs beside QEMU: what they are on the node, that they end with it, and what is refused.

use std::fs;
use std::path::Path;

use cri_glue::record;
use serde_json::json;

use crate::boots::{kill, read_until, status_field, wait};
use crate::guest::{self, GREETING, Then};
use crate::pod::{MIB, Pod};

/// A pod that shares the directory `data`.
fn sharing() -> Pod {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.wish(&json!({ "domain": { "devices": {
        "filesystems": [{ "name": "data", "virtiofs": {} }],
    } } }));
    pod.mount("/volumes/data", &pod.path("data"), "rw");
    pod
}

fn shared_directory(pod: &Pod) {
    fs::create_dir(pod.path("data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the product's own tree of QEMU, named by KUBEVIRT_TEST_QEMU_ROOT"]
async fn they_are_as_jailed_as_qemu_and_end_with_it() {
    let mut pod = sharing();
    shared_directory(&pod);
    pod.wish(&json!({ "domain": { "devices": {
        "filesystems": [{ "name": "data", "virtiofs": {} }], "tpm": {},
    } } }));
    pod.spec["process"]["user"]["additionalGids"] = json!([0, 4242]);
    let before = pod.leftovers();
    let mut launched = pod.launch().await.unwrap();
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));

    let names: Vec<_> = launched.helpers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["virtiofsd of data", "swtpm"]);
    for helper in &launched.helpers {
        for field in ["Uid", "NoNewPrivs", "CapEff", "CapBnd", "NSpid"] {
            let (of_helper, of_qemu) = (
                status_field(helper.pid, field),
                status_field(launched.pid, field),
            );
            match field {
                "NSpid" => assert_eq!(of_helper.split_whitespace().count(), 2, "{of_helper}"),
                _ => assert_eq!(of_helper, of_qemu, "{field} of {}", helper.name),
            }
        }
        assert_eq!(status_field(helper.pid, "Groups"), "4242");
        for name in ["mnt", "pid", "net", "ipc", "uts"] {
            let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            assert_eq!(namespace(helper.pid), namespace(launched.pid), "{name}");
        }
        let group = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(group(helper.pid), group(launched.pid));
    }
    let jail = format!("/proc/{}/root", launched.pid);
    assert!(Path::new(&jail).join("volumes/data").is_dir());

    kill(&launched);
    wait(&launched);
    for helper in &mut launched.helpers {
        crate::boots::reap(helper.pid);
        let said = helper.diagnostics.at_end().await;
        assert!(said.len() < 5, "{said:?}");
    }
    drop(launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    assert_eq!(pod.leftovers(), before);
}

/// 64 MiB are the guest's, 224 an emulating QEMU's, and 5 a program's. Needs swtpm.
#[tokio::test(flavor = "multi_thread")]
async fn their_memory_comes_on_top_as_far_as_the_pod_has_it() {
    for (of_pod, expected) in [(None, 293), (Some(290), 290), (Some(350), 293)] {
        let mut pod = Pod::new();
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        pod.wish(&json!({ "domain": { "devices": { "tpm": {} } } }));
        if let Some(mib) = of_pod {
            pod.limit_memory(mib * MIB);
        }
        let launched = pod.launch().await.unwrap();
        let limit = launched.cgroup.as_ref().unwrap().memory_limit();
        assert_eq!(limit.unwrap(), Some(expected * MIB), "{of_pod:?}");
        kill(&launched);
        wait(&launched);
        crate::boots::reap(launched.helpers[0].pid);
        drop(launched);
        tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    }
}

#[test]
fn a_program_that_is_not_on_the_node_is_named() {
    let mut pod = sharing();
    shared_directory(&pod);
    pod.node.qemu.virtiofsd = "/usr/libexec/no-virtiofsd".into();
    pod.refused(&[
        "the directory data needs virtiofsd",
        "/usr/libexec/no-virtiofsd",
        "qemu.virtiofsd",
    ]);
    pod.node.qemu.swtpm = "/usr/bin/no-swtpm".into();
    pod.spec["mounts"].as_array_mut().unwrap().pop();
    pod.wish(&json!({ "domain": { "devices": { "tpm": {} } } }));
    pod.refused(&["domain.devices.tpm needs swtpm", "qemu.swtpm"]);
}

#[test]
fn a_program_that_fails_is_named_with_its_words() {
    let mut pod = sharing();
    shared_directory(&pod);
    pod.node.qemu.root = "/".into();
    // It has other arguments.
    pod.node.qemu.virtiofsd = "/usr/bin/tail".into();
    pod.refused(&["virtiofsd of data does not serve the machine: ", "tail"]);
}

#[test]
fn what_is_no_directory_is_not_shared() {
    let pod = sharing();
    fs::write(pod.path("data"), "a file").unwrap();
    pod.refused(&["data is not a directory", "subPath"]);
    let mut pod = sharing();
    shared_directory(&pod);
    pod.wish(&json!({ "domain": { "devices": {
        "filesystems": [{ "name": "../data", "virtiofs": {} }],
    } } }));
    pod.refused(&["`../data` cannot be the tag"]);
}

/// A mount that the spec does not name is refused, and a name that has no mount.
#[test]
fn names_and_mounts_belong_together() {
    let mut pod = sharing();
    shared_directory(&pod);
    pod.wish(&json!({ "domain": { "devices": {
        "filesystems": [{ "name": "other", "virtiofs": {} }],
    } } }));
    pod.refused(&["/volumes/data"]);
    pod.spec["mounts"].as_array_mut().unwrap().pop();
    pod.refused(&["\"other\" is not in the pod"]);
}
