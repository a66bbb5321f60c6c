//! A whole distribution as a guest: systemd, cloud-init, sshd and the guest agent of Debian, with
//! the user data that a user gives.

use std::time::Duration;

use serde_json::json;
use tests::{Manifest, Node, TestNamespace, eventually, image};

/// Debian boots in about a minute of emulation on cores of its own.
const BOOTED: Duration = Duration::from_secs(600);

/// The user data proves the password by logging in with it, which only `su` from another user asks
/// for.
const USER_DATA: &str = "#cloud-config
password: tangerine
chpasswd: { expire: false }
runcmd:
  - [runuser, -u, nobody, --, sh, -c, \"echo tangerine | su debian -c 'echo accepted for $(id -un)'\"]
final_message: the end of cloud-init
";

#[test]
fn reaches_the_end_of_cloud_init_with_a_password_from_a_secret() {
    let namespace = TestNamespace::new("debian");
    namespace.apply(&Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "seed" },
        "stringData": { "userdata": USER_DATA },
    })));
    let seed = json!({ "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": "seed" } } });
    let disk = json!({ "name": "seed", "disk": { "bus": "virtio" } });
    namespace.apply(
        &Manifest::virtual_machine("vm", image::DEBIAN, Node::Two)
            .with("/spec/template/spec/domain/memory/guest", json!("512Mi"))
            .with("/spec/template/spec/volumes/-", seed)
            .with("/spec/template/spec/domain/devices/disks/-", disk),
    );
    let log = eventually(BOOTED, || {
        let selector = ["logs", "-l", "vm.kubevirt.io/name=vm", "--tail=-1"];
        let log = namespace.kubectl(&selector).text();
        if log.contains("the end of cloud-init") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    assert!(
        log.contains("vm login:"),
        "the guest has the VM's name: {log}"
    );
    assert!(log.contains("accepted for debian"), "{log}");
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vm", "vm");
}
