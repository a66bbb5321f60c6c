//! A whole distribution as a guest: systemd, cloud-init, sshd and the guest agent of Debian, with
//! the user data that a user gives.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tests::{Manifest, Node, TestNamespace, Tunnel, eventually, image};

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
fn takes_the_password_of_a_secret_and_keys_and_files_by_ssh() {
    let namespace = TestNamespace::new("debian");
    let dir = tempfile::tempdir().expect("a directory");
    let user_data = format!("{USER_DATA}ssh_authorized_keys: ['{}']\n", key(dir.path()));
    namespace.apply(&Manifest::new(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "seed" },
        "stringData": { "userdata": user_data },
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
    is_served_by_ssh(&namespace, dir.path());
    namespace.kubectl(&["delete", "vm", "vm"]).expect_success();
    namespace.wait_gone("vm", "vm");
}

/// A key without a passphrase in `dir`; its public half.
fn key(dir: &Path) -> String {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "user", "-f", "key"])
        .current_dir(dir));
    let public = fs::read_to_string(dir.join("key.pub")).expect("a public key");
    public.trim().to_owned()
}

/// `virtctl ssh` and `scp` run OpenSSH's programs over the stream of a port of the machine; here they
/// run over the same stream. A file goes in by the one protocol of `scp` and back by the other.
fn is_served_by_ssh(namespace: &TestNamespace, dir: &Path) {
    let tunnel = Tunnel::open(format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachines/vm/portforward/22/tcp",
        namespace.name()
    ));
    let port = format!("-oPort={}", tunnel.port);
    let client = |program: &str, more: &[&str]| {
        let options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"];
        let batch = ["BatchMode=yes", "IdentitiesOnly=yes", "LogLevel=ERROR"];
        let mut command = Command::new(program);
        for option in options.iter().chain(&batch) {
            command.args(["-o", option]);
        }
        command.args(["-i", "key", &port]).args(more);
        run(command.current_dir(dir))
    };
    assert_eq!(client("ssh", &["debian@127.0.0.1", "id -un"]), "debian\n");
    let bytes: Vec<u8> = (0..1_000_003_u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    fs::write(dir.join("there"), &bytes).expect("a file");
    client("scp", &["there", "debian@127.0.0.1:file"]);
    client("scp", &["-O", "debian@127.0.0.1:file", "back"]);
    assert!(fs::read(dir.join("back")).expect("the file") == bytes);
}

fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}
