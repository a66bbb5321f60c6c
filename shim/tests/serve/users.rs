//! A pod with a user namespace of its own, which containerd makes before the sandbox.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};

use crate::guest::{GREETING, Then};
use crate::pod::{PATIENCE, Pod, fifo, read};

/// The uid on this machine of root in the namespace, and the size of its range.
const ROOT: u32 = 1 << 20;
const SIZE: u32 = 1 << 16;

/// What holds the namespaces until there is a holder, as containerd's mounts of them do.
struct Keeper(Child);

impl Keeper {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--net", "sleep", "1000"]);
        let child = command.spawn().unwrap();
        let file = |name: &str| format!("/proc/{}/{name}", child.id());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        while fs::read_link(file("ns/net")).unwrap() == own {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(file(map), format!("0 {ROOT} {SIZE}")).unwrap();
        }
        let script = "ip link set lo up; ip link add eth0 type veth peer name gateway; \
                      ip addr add 10.244.9.2/24 dev eth0; ip link set eth0 up; \
                      ip link set gateway up; ip route add default via 10.244.9.1";
        let status = Command::new("nsenter")
            .args(["-t", &child.id().to_string(), "-n", "sh", "-ec", script])
            .status()
            .unwrap();
        assert!(status.success());
        Self(child)
    }

    /// `spec` with the namespaces, and its mounts with their ids mapped.
    fn hold(&self, mut spec: Value) -> Value {
        let path = |name: &str| format!("/proc/{}/ns/{name}", self.0.id());
        let map = json!([{ "containerID": 0, "hostID": ROOT, "size": SIZE }]);
        let linux = &mut spec["linux"];
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map.clone();
        let namespaces = linux["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "network", "path": path("net") }));
        namespaces.push(json!({ "type": "user", "path": path("user") }));
        for mount in spec["mounts"].as_array_mut().unwrap() {
            if mount["type"] == "bind" {
                mount["uidMappings"] = map.clone();
                mount["gidMappings"] = map.clone();
            }
        }
        spec
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A pod with the keeper's namespaces, and in them a sandbox and a machine, to be made.
async fn prepared(keeper: &Keeper) -> Pod {
    let pod = Pod::new().await;
    fs::set_permissions(pod.path(""), Permissions::from_mode(0o711)).unwrap();
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::PowerOff);
    // containerd gives the root of a container's writable layer to its namespace's root.
    chown(pod.image("sandbox"), Some(ROOT), Some(ROOT)).unwrap();
    // It mounts neither file into the sandbox.
    let mut sandbox = keeper.hold(pod.spec("sandbox", "sandbox"));
    sandbox["mounts"].as_array_mut().unwrap().truncate(1);
    pod.write_spec("sandbox", &sandbox);
    pod.write_spec("vm", &keeper.hold(pod.spec("vm", "container")));
    pod
}

/// The lines of `/proc/PID/NAME` as words.
fn words(pid: u32, name: &str, line: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let found = text.lines().find(|found| found.contains(line)).unwrap();
    found.split_whitespace().map(str::to_owned).collect()
}

fn assert_is(pid: u32, uid: u32) {
    let map = [0, ROOT, SIZE].map(|number| number.to_string());
    assert_eq!(words(pid, "uid_map", ""), map);
    let ids: Vec<u32> = words(pid, "status", "Uid:")[1..]
        .iter()
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!(ids, [ROOT + uid; 4]);
}

#[tokio::test]
async fn a_machine_has_the_pods_users() {
    let keeper = Keeper::new();
    let pod = prepared(&keeper).await;
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    assert_is(sandbox.run().await, 65535);
    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    assert_is(vm.create(&stdout).await.unwrap().pid, 107);
    let output = read(&stdout);
    vm.run().await;
    assert_eq!(vm.wait().await, 0);
    assert!(output.await.unwrap().contains(GREETING));
    let message = fs::read_to_string(pod.path("termination-log")).unwrap();
    assert_eq!(message, "the guest powered itself off");
    vm.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn mounts_whose_ids_are_not_mapped_are_refused() {
    let keeper = Keeper::new();
    let pod = prepared(&keeper).await;
    let mut spec = keeper.hold(pod.spec("vm", "container"));
    let mount = spec["mounts"][1].as_object_mut().unwrap();
    mount.remove("uidMappings");
    pod.write_spec("vm", &spec);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = pod.start("vm").await;
    let error = vm.create("").await.unwrap_err().to_string();
    assert!(error.contains("mount /etc/resolv.conf"), "{error}");
    assert!(error.contains("remove hostUsers"), "{error}");
    pod.delete("vm").await;
    sandbox.finish().await;
    pod.assert_clean().await;
}
