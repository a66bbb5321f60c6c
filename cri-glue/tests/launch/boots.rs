//! Machines that boot, what they are on the node, and that nothing of them stays.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cri_glue::launch::Launched;
use cri_glue::record;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use serde_json::json;

use crate::guest::{self, GREETING, Then};
use crate::pod::{MIB, Pod};

/// Reads from the console until `words` or its end.
pub(crate) fn read_until(mut console: &UnixStream, words: &str) -> String {
    console
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&text).contains(words) {
        match console.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            Ok(_) => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn status_field(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default()
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

pub(crate) fn kill(launched: &Launched) {
    let pid = Pid::from_raw(launched.pid.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

pub(crate) fn wait(launched: &Launched) -> WaitStatus {
    reap(launched.pid)
}

pub(crate) fn reap(pid: u32) -> WaitStatus {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_pod_boots_in_a_jail_and_leaves_nothing() {
    let mut pod = Pod::new();
    pod.spec["process"]["oomScoreAdj"] = 1000.into();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let before = pod.leftovers();
    let launched = pod.launch().await.unwrap();
    assert!(launched.network.is_some());
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));

    let pid = launched.pid;
    assert!(
        status_field(pid, "Uid").starts_with("2000"),
        "{}",
        status_field(pid, "Uid")
    );
    assert_eq!(status_field(pid, "Groups"), "");
    for field in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(status_field(pid, field), "0000000000000000", "{field}");
    }
    assert_eq!(status_field(pid, "NoNewPrivs"), "1");
    assert_eq!(status_field(pid, "Seccomp"), "2");
    let namespace = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    assert_eq!(namespace(pid, "pid"), namespace(pod.holder_pid, "pid"));
    for name in ["mnt", "ipc", "uts", "net", "pid"] {
        assert_ne!(
            namespace(pid, name),
            namespace(std::process::id(), name),
            "{name}"
        );
    }
    let root = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
    let mut root: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
    root.retain(|name| {
        !["bin", "lib", "lib32", "lib64", "libx32", "sbin"]
            .iter()
            .any(|n| name == n)
    });
    root.sort();
    assert_eq!(root, ["dev", "etc", "proc", "usr"]);
    let write = fs::write(format!("/proc/{pid}/root/x"), "");
    assert_eq!(
        write.unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .unwrap()
            .trim(),
        "1000"
    );

    let cgroup = launched.cgroup.clone().unwrap();
    let limit = cgroup.memory_limit().unwrap().unwrap();
    assert!(limit > 64 * MIB && limit < 512 * MIB, "{limit}");
    assert_eq!(cgroup.cpu_limit_millis().unwrap(), Some(1100));
    let stats = cgroup.stats().unwrap();
    assert!(stats.memory.usage_bytes > 8 * MIB && stats.memory.usage_bytes < limit);
    assert!(stats.cpu.usage_nanoseconds > 1_000_000);
    launched
        .termination_log
        .as_ref()
        .unwrap()
        .write("it was a test")
        .unwrap();
    assert_eq!(
        fs::read_to_string(pod.path("termination-log")).unwrap(),
        "it was a test"
    );

    kill(&launched);
    assert_eq!(wait(&launched).terminating_signal(), Some(9));
    drop(launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    assert_eq!(pod.leftovers(), before);
    assert_eq!(cgroup.stats().unwrap(), cri_glue::cgroup::Stats::default());
    record::undo(&pod.bundle()).unwrap();
}

/// With one of each binding, and addresses of both families.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_all_of_its_interfaces_and_queues() {
    let mut pod = Pod::new();
    pod.wish(&json!({
        "domain": {
            "cpu": { "cores": 2 },
            "devices": {
                "networkInterfaceMultiqueue": true,
                "interfaces": [
                    { "name": "default", "masquerade": {} },
                    { "name": "blue", "bridge": {} },
                    { "name": "red", "bridge": {}, "model": "e1000e" },
                ],
            },
        },
        "networks": [
            { "name": "default", "pod": {} },
            { "name": "blue", "multus": { "networkName": "blue" } },
            { "name": "red", "multus": { "networkName": "red" } },
        ],
    }));
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    pod.inside("ip addr add fd00:9::2/64 dev eth0 nodad");
    for (interface, last) in [("pod16477688c0e", 7), ("net2", 8)] {
        pod.inside(&format!(
            "ip link add {interface} type veth peer name far{last}"
        ));
        pod.inside(&format!("ip addr add 192.0.2.{last}/24 dev {interface}"));
        pod.inside(&format!("ip link set {interface} up"));
    }
    let before = pod.leftovers();
    let launched = pod.launch().await.unwrap();
    // Queues beyond the first wait until the guest's driver takes them.
    for (tap, waiting) in [
        ("tap-eth0", true),
        ("tap-pod16477688", true),
        ("tap-net2", false),
    ] {
        let link = pod.inside(&format!("ip -d -o link show {tap}"));
        assert_eq!(link.contains("numdisabled 1"), waiting, "{link}");
    }
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));
    kill(&launched);
    wait(&launched);
    drop(launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    assert_eq!(pod.leftovers(), before);
}

/// Containerd is a unit that tells systemd when it is ready, and the shim has its variables. A
/// process of its own, since no other test shall have the variable.
#[test]
fn the_runtime_does_not_wait_for_a_word_to_systemd() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "boots::a_guest_that_powers_off_ends_qemu_with_0"])
        .env("NOTIFY_SOCKET", "/run/systemd/notify")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_powers_off_ends_qemu_with_0() {
    let mut pod = Pod::new();
    pod.wish(&json!({"domain": {"devices": {"autoattachPodInterface": false}}}));
    guest::write_disk(&pod.disk("any-name.raw"), Then::PowerOff);
    let mut launched = pod.launch().await.unwrap();
    assert!(launched.network.is_none());
    launched.qmp.cont().await.unwrap();
    let console = read_until(&launched.console, "no such words");
    assert!(console.contains(GREETING), "{console}");
    assert_eq!(wait(&launched).exit_status(), Some(0));
    assert!(launched.qmp.ended().await.powered_off());
    assert_eq!(launched.diagnostics.at_end().await, Vec::<String>::new());
    record::undo(&pod.bundle()).unwrap();
}

/// The shim was killed: nobody knows anything but the bundle, and QEMU still runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_undoes_a_running_machine() {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let before = pod.leftovers();
    let launched = pod.launch().await.unwrap();
    let pid = launched.pid;
    std::mem::forget(launched);
    let reaper = std::thread::spawn(move || {
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        waitpid(Some(pid), WaitOptions::empty()).unwrap();
    });
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    reaper.join().unwrap();
    assert_eq!(pod.leftovers(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_ends_with_the_holder() {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let launched = pod.launch().await.unwrap();
    kill_process(
        Pid::from_raw(pod.holder_pid.try_into().unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    assert_eq!(wait(&launched).terminating_signal(), Some(9));
    record::undo(&pod.bundle()).unwrap();
}

/// Writes go to an overlay in the container's own layer, never to the image.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_a_lower_layer_that_stays_as_it_is() {
    let pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let layers = ["lower", "upper", "work"].map(|name| pod.path(name));
    fs::rename(pod.rootfs(), &layers[0]).unwrap();
    for directory in [&layers[1], &layers[2], &pod.rootfs()] {
        fs::create_dir(directory).unwrap();
    }
    let [lower, upper, work] = layers.each_ref().map(|path| path.display());
    let mut record = record::Record::open(&pod.bundle()).unwrap();
    record
        .note(&record::Step::Mount { path: pod.rootfs() })
        .unwrap();
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    crate::pod::run(&format!(
        "mount -t overlay overlay -o {options} {}",
        pod.rootfs().display()
    ));
    let launched = pod.launch().await.unwrap();
    let written: Vec<_> = fs::read_dir(&layers[1])
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let [overlay] = written.as_slice() else {
        panic!("{written:?}")
    };
    assert!(
        overlay.to_string_lossy().ends_with("-boot.qcow2"),
        "{overlay:?}"
    );
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));
    kill(&launched);
    wait(&launched);
    record::undo(&pod.bundle()).unwrap();
    assert_eq!(fs::read_dir(&layers[1]).unwrap().count(), 0);
    assert_eq!(fs::read_dir(pod.rootfs()).unwrap().count(), 0, "unmounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn uefi_has_variables_of_its_own() {
    let mut pod = Pod::new();
    pod.spec["linux"]["resources"]["memory"]["limit"] = (128 * MIB).into();
    pod.wish(&json!({"domain": {"firmware": {"bootloader": {"efi": {"secureBoot": false}}}}}));
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    let before = pod.leftovers();
    let launched = pod.launch().await.unwrap();
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, "BdsDxe").contains("BdsDxe"));
    kill(&launched);
    wait(&launched);
    tokio::task::block_in_place(|| record::undo(&pod.bundle())).unwrap();
    assert_eq!(pod.leftovers(), before);
}

/// Claim, block device, empty disk and seed beside the image's disk.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_volume() {
    let mut pod = Pod::new();
    guest::write_disk(&pod.disk("disk.img"), Then::Halt);
    for directory in ["claim", "secret"] {
        fs::create_dir(pod.path(directory)).unwrap();
    }
    fs::write(pod.path("secret/userdata"), "#cloud-config\n").unwrap();
    pod.mount("/volumes/data", &pod.path("claim"), "rw");
    pod.mount("/volumes/seed", &pod.path("secret"), "ro");
    pod.annotate("kubevirt.io/volume-sizes", r#"{"data": "100Mi"}"#);
    pod.wish(&json!({
        "domain": {"devices": {"disks": [
            {"name": "data", "disk": {"bus": "virtio"}, "serial": "DATA"},
            {"name": "scratch", "disk": {"bus": "scsi"}},
            {"name": "seed", "disk": {"bus": "virtio"}},
        ]}},
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "scratch", "emptyDisk": {"capacity": "10Mi"}},
            {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "s"}}},
        ]
    }));
    let launched = pod.launch().await.unwrap();
    let image = fs::metadata(pod.path("claim/disk.img")).unwrap();
    assert_eq!(image.len(), 94 * MIB);
    assert_eq!(fs::read_dir(pod.path("claim")).unwrap().count(), 1);
    let disks = launched.qmp.disk_stats().await.unwrap();
    let names: Vec<_> = disks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));

    // A second machine on the same claim, on the same node.
    let mut other = Pod::new();
    other.spec["mounts"] = pod.spec["mounts"].clone();
    for key in ["kubevirt.io/volume-sizes", "kubevirt.io/vmi-spec"] {
        let value = pod.spec["annotations"][key].clone();
        other.annotate(key, value);
    }
    guest::write_disk(&other.disk("disk.img"), Then::Halt);
    let error = other.launch().await.unwrap_err().to_string();
    assert!(
        error.contains("volume data") && error.contains("in use"),
        "{error}"
    );

    kill(&launched);
    wait(&launched);
    drop(launched);
    record::undo(&pod.bundle()).unwrap();
    // What was the first's is the second's now, contents and all.
    let launched = other.launch().await.unwrap();
    kill(&launched);
    wait(&launched);
    record::undo(&other.bundle()).unwrap();
}

/// A block device is the machine's alone as long as it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_device_is_exclusive() {
    let device = LoopDevice::new();
    let pod = || {
        let mut pod = Pod::new();
        guest::write_disk(&pod.disk("disk.img"), Then::Halt);
        let (major, minor) = device.number();
        pod.spec["linux"]["devices"] =
            json!([{"path": "/volumes/data", "type": "b", "major": major, "minor": minor}]);
        pod.spec["linux"]["resources"]["devices"]
            .as_array_mut()
            .unwrap()
            .push(json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "mrw"}));
        pod.wish(&json!({
            "domain": {"devices": {"disks": [{"name": "data", "disk": {"bus": "virtio"}}]}},
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]
        }));
        pod
    };
    let (first, second) = (pod(), pod());
    let launched = first.launch().await.unwrap();
    launched.qmp.cont().await.unwrap();
    assert!(read_until(&launched.console, GREETING).contains(GREETING));
    let error = second.launch().await.unwrap_err().to_string();
    assert!(
        error.contains("volume data") && error.contains("in use"),
        "{error}"
    );
    kill(&launched);
    wait(&launched);
    drop(launched);
    record::undo(&first.bundle()).unwrap();
    let launched = second.launch().await.unwrap();
    kill(&launched);
    wait(&launched);
    record::undo(&second.bundle()).unwrap();
}

struct LoopDevice(String, tempfile::NamedTempFile);

impl LoopDevice {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * MIB).unwrap();
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(
            String::from_utf8(output.stdout).unwrap().trim().to_owned(),
            file,
        )
    }

    fn number(&self) -> (u32, u32) {
        let device = rustix::fs::stat(self.0.as_str()).unwrap().st_rdev;
        (rustix::fs::major(device), rustix::fs::minor(device))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .args(["--detach", &self.0])
            .status();
        self.1.as_file().set_len(0).unwrap();
    }
}
