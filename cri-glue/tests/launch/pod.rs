//! A pod made by hand: namespaces, a holder, control groups, and a machine container's bundle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cri_glue::bundle::Bundle;
use cri_glue::config::{AcceleratorChoice, NodeConfig};
use cri_glue::launch::{self, LaunchError, Launched, Request};
use cri_glue::sandbox::Sandbox;
use serde_json::{Value, json};

use crate::dead_runs;

pub(crate) const MIB: u64 = 1 << 20;

/// A pod with one container, which is not created yet.
pub(crate) struct Pod {
    name: String,
    directory: tempfile::TempDir,
    holder: Child,
    pub(crate) holder_pid: u32,
    pub(crate) node: NodeConfig,
    pub(crate) spec: Value,
    /// Roots of containers that are images, by name.
    pub(crate) images: BTreeMap<String, PathBuf>,
}

impl Pod {
    /// A pod whose machine container has 64 MiB and an empty root.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        dead_runs::clean_up();
        // As the shim is: QEMU becomes our child once runc has ended.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}x{number}", dead_runs::PREFIX, std::process::id());
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join(&name);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(
            directory.path().join("resolv.conf"),
            "nameserver 10.96.0.10\n",
        )
        .unwrap();
        fs::write(directory.path().join("termination-log"), "").unwrap();
        make_network(&name);
        let (holder, holder_pid) = make_holder();
        let mut node = NodeConfig::default();
        // The node's own QEMU, unless the product's tree is to be tried.
        let root = std::env::var_os("KUBEVIRT_TEST_QEMU_ROOT").unwrap_or_else(|| "/".into());
        node.qemu.root = root.into();
        node.qemu.accelerator = AcceleratorChoice::Tcg;
        node.runtime.state = directory.path().join("state");
        let spec = json!({
            "ociVersion": "1.0.2-dev",
            "process": {
                "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
                "args": ["vm"], "cwd": "/", "oomScoreAdj": 900
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                bind("/etc/resolv.conf", &directory.path().join("resolv.conf"), "rw"),
                bind("/dev/termination-log", &directory.path().join("termination-log"), "rw"),
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "vm",
                "io.kubernetes.cri.sandbox-id": "s1",
                "io.kubernetes.cri.sandbox-name": "pod-a",
                "io.kubernetes.cri.sandbox-namespace": "default"
            },
            "linux": {
                "cgroupsPath": format!("/{name}/container"),
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 64 * MIB},
                    "cpu": {"shares": 512, "quota": 100_000, "period": 100_000}
                },
                "namespaces": [{"type": "mount"}]
            }
        });
        Self {
            name,
            directory,
            holder,
            holder_pid,
            node,
            spec,
            images: BTreeMap::new(),
        }
    }

    /// A file or directory of the pod's, outside of its bundle.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The name of its namespace and its control group.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives the pod's own control group a limit.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        let group = Path::new("/sys/fs/cgroup/memory").join(&self.name);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path(&self.name)
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// Makes `/disk` in the image and returns the path of a file in it.
    pub(crate) fn disk(&self, file: &str) -> PathBuf {
        let directory = self.rootfs().join("disk");
        fs::create_dir_all(&directory).unwrap();
        directory.join(file)
    }

    pub(crate) fn annotate(&mut self, key: &str, value: impl Into<Value>) {
        self.spec["annotations"][key] = value.into();
    }

    /// The machine's finer wishes.
    pub(crate) fn wish(&mut self, wish: &Value) {
        self.annotate("kubevirt.io/vmi-spec", wish.to_string());
    }

    pub(crate) fn mount(&mut self, destination: &str, source: &Path, access: &str) {
        self.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(bind(destination, source, access));
    }

    /// Launches the machine.
    pub(crate) async fn launch(&self) -> Result<Launched, LaunchError> {
        fs::write(self.bundle().join("config.json"), self.spec.to_string()).unwrap();
        let sandbox = Sandbox {
            network_namespace: format!("/run/netns/{}", self.name).into(),
            hostname: Some("pod-a".into()),
            sysctls: [].into(),
            cgroups_path: None,
            oom_score_adj: None,
            user_namespace: None,
        };
        let request = Request {
            node: Arc::new(self.node.clone()),
            bundle: Arc::new(Bundle::read(&self.bundle()).unwrap()),
            sandbox: Arc::new(sandbox),
            rootfs: self.rootfs(),
            images: self.images.clone(),
            holder: self.holder_pid,
            namespace: "test".into(),
            reserved_ports: Vec::new(),
            worker: launch::Worker::default(),
        };
        let launched = tokio::time::timeout(Duration::from_secs(60), launch::create(request));
        launched.await.expect("a launch is bounded in time")
    }

    /// Launches a machine that must be refused with these words, and looks for leftovers.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str]) {
        let before = self.leftovers();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let error = runtime
            .block_on(self.launch())
            .expect_err("this must be refused")
            .to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is missing in: {error}");
        }
        assert!(!error.contains('\n'), "one sentence: {error}");
        assert_eq!(self.leftovers(), before);
    }

    /// What a command prints in the pod's network namespace.
    pub(crate) fn inside(&self, command: &str) -> String {
        let exec = ["netns", "exec", &self.name];
        output_of(
            Command::new("ip")
                .args(exec)
                .args(command.split_whitespace()),
        )
    }

    /// The names of all that a machine of this pod may leave behind, for comparison.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut list = |directory: &Path| {
            for entry in fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap() != "config.json" {
                    found.push(path.display().to_string());
                }
            }
        };
        list(&self.bundle());
        list(&self.rootfs());
        list(&self.rootfs().join("disk"));
        list(&self.path("state/uids"));
        list(&self.path("state/runc/test"));
        for controller in ["memory", "cpu", "pids", "devices", "freezer", "unified", ""] {
            list(
                &Path::new("/sys/fs/cgroup")
                    .join(controller)
                    .join(&self.name)
                    .join("container"),
            );
        }
        found.extend(
            fs::read_dir("/dev")
                .unwrap()
                .map(|entry| entry.unwrap().path().display().to_string())
                .filter(|path| path.contains(&self.name)),
        );
        found.push(self.inside("ip -o link").lines().count().to_string());
        found.push(self.inside("nft list ruleset"));
        found.push(self.inside("ip -4 route show table all"));
        found.push(mounts_of(self.directory.path()));
        found
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        for controller in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            for path in ["container", ""] {
                let _ = fs::remove_dir(controller.path().join(&self.name).join(path));
            }
        }
    }
}

pub(crate) fn bind(destination: &str, source: &Path, access: &str) -> Value {
    json!({
        "destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rprivate", access]
    })
}

pub(crate) fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn mounts_of(directory: &Path) -> String {
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = all
        .lines()
        .filter(|line| line.contains(&*directory.to_string_lossy()));
    ours.collect::<Vec<_>>().join("\n")
}

/// A namespace with a pod's interface, whose other end is a gateway in the same namespace.
fn make_network(name: &str) {
    run(&format!(
        "ip netns add {name}
         ip -n {name} link set lo up
         ip -n {name} link add eth0 type veth peer name gateway
         ip -n {name} addr add 10.244.9.2/24 dev eth0
         ip -n {name} link set eth0 up
         ip -n {name} link set gateway up
         ip -n {name} route add default via 10.244.9.1"
    ));
}

/// A process that is PID 1 of a PID namespace, by the pid of its parent and its own.
#[expect(clippy::zombie_processes, reason = "the pod waits for it")]
fn make_holder() -> (Child, u32) {
    // Dies with the test, however that ends.
    let holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--pid", "--fork", "--kill-child", "sleep", "600"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    for _ in 0..200 {
        let pid = fs::read_to_string(&children)
            .unwrap_or_default()
            .trim()
            .parse();
        if let Ok(pid) = pid {
            return (holder, pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no holder");
}
