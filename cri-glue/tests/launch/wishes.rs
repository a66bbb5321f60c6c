//! What a spec wishes beside disks: that a real QEMU takes it, and what it cannot have is named.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown};

use cri_glue::record;
use serde_json::{Value, json};

use crate::boots::{kill, read_until, reap, wait};
use crate::guest::{self, GREETING, Then};
use crate::pod::{MIB, Pod};

fn pod(wish: &Value) -> Pod {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.wish(wish);
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_many_wishes_boots() {
    let pod = pod(&json!({
        "startStrategy": "Paused",
        "domain": {
            "clock": { "timezone": "Asia/Kathmandu", "timer": {
                "hpet": { "present": false }, "rtc": { "tickPolicy": "catchup" },
                "pit": { "tickPolicy": "delay" }, "hyperv": {},
            } },
            "cpu": { "model": "qemu64", "features": [
                { "name": "ssse3" }, { "name": "avx512f", "policy": "optional" },
                { "name": "svm", "policy": "disable" },
            ] },
            "features": {
                "smm": {}, "kvm": { "hidden": true },
                "hyperv": { "relaxed": {}, "vapic": {}, "synictimer": { "direct": {} } },
            },
            "firmware": { "serial": "a, b", "bootloader": { "bios": { "useSerial": true } } },
            "chassis": { "manufacturer": "Foo, Inc." },
            "devices": {
                "interfaces": [{
                    "name": "default", "masquerade": {}, "model": "e1000e", "state": "down",
                    "acpiIndex": 3,
                    "dhcpOptions": { "bootFileName": "a", "ntpServers": ["192.0.2.1"] },
                }],
                "autoattachInputDevice": true, "video": { "type": "virtio" },
                "sound": { "name": "s" }, "autoattachMemBalloon": false,
                "panicDevices": [{ "model": "pvpanic" }], "logSerialConsole": false,
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
    }));
    let before = pod.leftovers();
    let launched = pod.launch().await.unwrap();
    assert!(launched.starts_paused && !launched.console_is_logged);
    assert!(!launched.size.balloon);
    launched.qmp.cont().await.unwrap();
    let said = read_until(&launched.console, GREETING);
    assert!(
        said.contains("SeaBIOS") && said.contains(GREETING),
        "{said}"
    );
    assert_eq!(launched.qmp.memory_bytes().await.unwrap(), 64 * MIB);
    kill(&launched);
    wait(&launched);
    drop(launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    assert_eq!(pod.leftovers(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_console_has_none() {
    let pod = pod(&json!({ "domain": { "devices": { "autoattachSerialConsole": false } } }));
    let mut launched = pod.launch().await.unwrap();
    launched.qmp.cont().await.unwrap();
    let mut said = String::new();
    launched.console.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    kill(&launched);
    wait(&launched);
    drop(launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
}

#[test]
fn processors_that_the_node_cannot_be_are_refused() {
    let feature = |name: &str, policy: &str| {
        let features = json!([{ "name": "ssse3" }, { "name": name, "policy": policy }]);
        pod(&json!({ "domain": { "cpu": { "features": features } } }))
    };
    let missing = feature("avx512f", "require");
    missing.refused(&["domain.cpu.features[1]", "cannot have avx512f on this node"]);
    let forbidden = feature("sse2", "forbid");
    forbidden.refused(&[
        "domain.cpu.features[1]",
        "this node has sse2, which is forbidden",
    ]);
    feature("nonsense", "optional").refused(&["nonsense"]);
}

/// Needs OVMF and swtpm.
#[tokio::test(flavor = "multi_thread")]
async fn what_persists_is_in_the_claim() {
    let mut pod = pod(&json!({ "domain": {
        "features": { "smm": {} },
        "firmware": { "bootloader": { "efi": { "persistent": true } } },
        "devices": { "tpm": { "persistent": true } },
    } }));
    pod.spec["process"]["user"] = json!({ "uid": 107, "gid": 107 });
    let claim = pod.path("state-claim");
    fs::create_dir(&claim).unwrap();
    chown(&claim, Some(107), Some(107)).unwrap();
    // The jail's user goes through the directories above.
    for above in claim.ancestors().skip(1).take(1) {
        fs::set_permissions(above, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    pod.mount("/state", &claim, "rw");
    let vars = claim.join("uefi-vars-secure.fd");
    let mut kept = None;
    for _ in 0..2 {
        let launched = pod.launch().await.unwrap();
        launched.qmp.cont().await.unwrap();
        let metadata = fs::metadata(&vars).unwrap();
        assert_eq!((metadata.uid(), metadata.len()), (107, 540_672));
        let inode = *kept.get_or_insert(metadata.ino());
        assert_eq!(metadata.ino(), inode, "it is made once");
        let state = claim.join("tpm/tpm2-00.permall");
        eventually(|| state.exists());
        kill(&launched);
        wait(&launched);
        reap(launched.helpers[0].pid);
        drop(launched);
        tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    }
    assert_eq!(fs::read_dir(&claim).unwrap().count(), 2);
}

fn eventually(mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("it does not come to that");
}

#[test]
fn mounts_without_a_wish_and_wishes_without_a_mount_are_refused() {
    let mut keeps_nothing = pod(&json!({}));
    let directory = keeps_nothing.path("d");
    fs::create_dir(&directory).unwrap();
    keeps_nothing.mount("/state", &directory, "rw");
    keeps_nothing.refused(&["mount /state", "keeps nothing there"]);

    let persistent = json!({ "domain": { "devices": { "tpm": { "persistent": true } } } });
    let mut nowhere = pod(&persistent);
    nowhere.refused(&["no claim is mounted at /state"]);
    let directory = nowhere.path("d");
    fs::create_dir(&directory).unwrap();
    nowhere.mount("/state", &directory, "rw");
    nowhere.refused(&["tpm.persistent", "securityContext.runAsUser"]);

    let source = json!({ "secret": { "secretName": "keys" } });
    let method = json!({ "qemuGuestAgent": { "users": ["root"] } });
    let keys = json!({ "sshPublicKey": { "source": source, "propagationMethod": method } });
    pod(&json!({ "accessCredentials": [keys] })).refused(&["/access-credentials/keys"]);
    let mut unused = pod(&json!({}));
    let directory = unused.path("d");
    fs::create_dir(&directory).unwrap();
    unused.mount("/access-credentials/keys", &directory, "ro");
    unused.refused(&["mount /access-credentials/keys", "accessCredentials"]);
}
