//! Launches that fail at each of their steps, and leave nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::json;

use crate::guest::{self, Then};
use crate::pod::Pod;

fn plain() -> Pod {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod
}

/// The node's runc, but for the command `verb`, which does `instead`.
fn with_runtime(verb: &str, instead: &str) -> Pod {
    let mut pod = plain();
    let path = pod.path("runtime");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" = {verb} ] && {{ {instead}; }}; done\nexec runc \"$@\"\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    pod.node.runtime.path = path;
    pod
}

#[test]
fn no_qemu() {
    let mut pod = plain();
    pod.node.qemu.path = "/usr/bin/no-such-qemu".into();
    pod.refused(&[
        "QEMU is not on this node",
        "/usr/bin/no-such-qemu",
        "qemu.path",
    ]);
    pod.node.qemu.root = "/no/such/tree".into();
    pod.refused(&["QEMU is not on this node", "/no/such/tree", "qemu.root"]);
}

#[test]
fn no_firmware() {
    let mut pod = plain();
    pod.wish(&json!({"domain": {"firmware": {"bootloader": {"efi": {"secureBoot": false}}}}}));
    pod.node.qemu.uefi_vars = "/usr/share/no-such-vars".into();
    pod.refused(&["UEFI firmware", "/usr/share/no-such-vars", "qemu.uefi-vars"]);
}

#[test]
fn no_kvm() {
    let mut pod = plain();
    pod.node.qemu.accelerator = cri_glue::config::AcceleratorChoice::Kvm;
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    if !cpu.contains(" vmx") && !cpu.contains(" svm") {
        pod.refused(&["Kvm", "vmx"]);
    }
}

#[test]
fn the_second_disk_is_wrong() {
    let mut pod = plain();
    fs::create_dir(pod.path("claim")).unwrap();
    pod.mount("/volumes/data", &pod.path("claim"), "rw");
    pod.wish(&json!({
        "domain": {"devices": {"disks": [{"name": "data", "disk": {"bus": "virtio"}}]}},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
    }));
    pod.refused(&["volume data"]);
}

#[test]
fn no_network() {
    let pod = plain();
    crate::pod::run(&format!("ip -n {} link del eth0", pod.name()));
    pod.refused(&["eth0"]);
}

#[test]
fn no_more_uids() {
    let mut pod = plain();
    pod.node.jail.uid_count = 1;
    let uids = pod.path("state/uids");
    fs::create_dir_all(&uids).unwrap();
    std::os::unix::fs::symlink("somebody", uids.join("2000000000")).unwrap();
    pod.refused(&["all 1 uids", "jail.uid-count"]);
}

#[test]
fn a_user_of_the_nodes_range() {
    let mut pod = plain();
    pod.node.jail.uid_count = 10;
    for uid in [2_000_000_000_u32, 2_000_000_009] {
        pod.spec["process"]["user"] = json!({"uid": uid, "gid": 1000});
        let words = [&*format!("user {uid}"), "2000000000 to 2000000009"];
        pod.refused(&words);
    }
    pod.node.qemu.path = "/usr/bin/false".into();
    pod.spec["process"]["user"] = json!({"uid": 2_000_000_010_u32, "gid": 1000});
    pod.refused(&["QEMU ended"]);
}

#[test]
fn the_runtime_is_missing() {
    let mut pod = plain();
    pod.node.runtime.path = "/usr/sbin/no-such-runc".into();
    // Undoing cannot run it either, but there is nothing that it would have to undo.
    pod.refused(&["/usr/sbin/no-such-runc", "runtime.path"]);
}

#[test]
fn the_runtime_does_not_create() {
    with_runtime("create", "echo no >&2; exit 1").refused(&["create failed"]);
    // Our own error: the runtime's words.
    let mut pod = plain();
    pod.spec["process"]["apparmorProfile"] = "no-such-profile".into();
    pod.refused(&["create failed", "apparmor"]);
}

#[test]
fn the_runtime_created_but_said_no() {
    with_runtime("create", "runc \"$@\"; exit 1").refused(&["create failed"]);
}

/// As if the runtime were killed before it wrote down what it did.
#[test]
fn the_runtime_forgot_what_it_created() {
    let pod = with_runtime("create", "runc \"$@\"; rm -r \"$2\"/*; exit 1");
    pod.refused(&["create failed"]);
}

#[test]
fn the_runtime_does_not_start() {
    with_runtime("start", "exit 1").refused(&["start failed"]);
}

#[test]
fn qemu_ends_at_once() {
    let mut pod = plain();
    pod.node.qemu.path = "/usr/bin/false".into();
    pod.refused(&["QEMU ended"]);
    pod.node.qemu.path = "/bin/ls".into();
    pod.refused(&["QEMU ended", "--help"]);
}

#[test]
fn the_machine_type_is_unknown_to_qemu() {
    let mut pod = plain();
    pod.wish(&json!({"domain": {"machine": {"type": "pc-q35-99.9"}}}));
    pod.refused(&["unsupported machine type"]);
}

#[test]
fn the_record_cannot_be_written() {
    let pod = plain();
    let record = pod.bundle().join("kubevirt-record.jsonl");
    std::os::unix::fs::symlink("/nonexistent/record", &record).unwrap();
    pod.refused(&["cannot write the record"]);
}

#[test]
fn no_vsock() {
    let mut pod = plain();
    pod.wish(&json!({"domain": {"devices": {"autoattachVSOCK": true}}}));
    pod.refused(&["domain.devices.autoattachVSOCK", "machine.vsock = true"]);
    if !std::path::Path::new("/dev/vhost-vsock").exists() {
        pod.node.machine.vsock = true;
        pod.refused(&["domain.devices.autoattachVSOCK", "/dev/vhost-vsock"]);
    }
}

#[test]
fn no_huge_pages() {
    let mut pod = plain();
    pod.wish(&json!({"domain": {"memory": {"hugepages": {"pageSize": "1Gi"}}}}));
    pod.refused(&["domain.memory.hugepages", "resources.limits[hugepages-1Gi]"]);
    let limits =
        json!([{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 1_i64 << 40}]);
    pod.spec["linux"]["resources"]["hugepageLimits"] = limits;
    pod.refused(&["huge pages of 1Gi free", "needs 1024", "vm.nr_hugepages"]);
    let wish = json!({"guest": "64Mi", "hugepages": {"pageSize": "1Gi"}});
    pod.wish(&json!({"domain": {"memory": wish}}));
    pod.refused(&["no multiple of its huge pages of 1Gi"]);
}

/// The file system of a node, with nothing on it but a pod; gone with the value.
struct SmallNode(PathBuf);

impl SmallNode {
    /// Moves what `pod` has to a file system of 2 MiB.
    fn of(pod: &Pod) -> Self {
        let directory = pod.path("");
        crate::pod::run(&format!(
            "cd {}; mkdir ../$$; cp -a . ../$$/
             mount -t tmpfs -o size=2m,mode=755 small $PWD; cp -a ../$$/. $PWD; rm -r ../$$",
            directory.display()
        ));
        Self(directory)
    }

    /// Leaves so many bytes free.
    fn leave(&self, bytes: u64) {
        let path = self.0.join("filler");
        let mut filler = fs::File::create(path).unwrap();
        let full = std::io::copy(&mut std::io::repeat(1), &mut filler).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.saturating_sub(bytes)).unwrap();
    }
}

impl Drop for SmallNode {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// Little by little there is more space, so that each file in turn is the first for which there is none.
#[test]
fn a_full_disk() {
    let pod = plain();
    let node = SmallNode::of(&pod);
    // Where no space is for the container's own bundle, there is no machine to be refused.
    fs::write(pod.bundle().join("config.json"), pod.spec.to_string()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut refused = 0;
    for free in (0..).step_by(4 << 10) {
        node.leave(free);
        let before = pod.leftovers();
        match runtime.block_on(pod.launch()) {
            Err(error) => {
                let error = error.to_string();
                // The runtime's own words do not always say why.
                let words = ["no space", "create failed"];
                let named = words.iter().any(|word| error.to_lowercase().contains(word));
                assert!(named, "with {free} bytes free: {error}");
                assert!(!error.contains('\n'), "one sentence: {error}");
                assert_eq!(pod.leftovers(), before, "with {free} bytes free");
                refused += 1;
            }
            Ok(launched) => {
                drop(launched);
                cri_glue::record::undo(&pod.bundle()).unwrap();
                assert_eq!(pod.leftovers(), before);
                break;
            }
        }
    }
    assert!(refused > 3, "{refused}");
}
