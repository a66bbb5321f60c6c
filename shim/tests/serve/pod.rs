//! A pod made by hand: a network namespace, bundles as CRI writes them, and the shim's program.

mod task;
mod traces;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use containerd_shim::api::{DeleteRequest, DeleteResponse};
use containerd_shim::bootstrap::{BootstrapParams, Extension};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim_async::{Client, TaskClient};
use containerd_shim::protos::ttrpc::Request;
use containerd_shim::protos::ttrpc::context::{Context, to_pb, with_duration};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::guest::{self, Then};
pub(crate) use task::Task;

/// Longest time that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A pod whose sandbox is the container `sandbox`.
pub(crate) struct Pod {
    name: String,
    directory: tempfile::TempDir,
    pub(crate) daemon: Daemon,
}

/// The bound that containerd would set.
pub(crate) fn bound() -> Context {
    with_duration(PATIENCE)
}

impl Pod {
    /// A pod without containers.
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("shim{}x{number}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("images")).unwrap();
        fs::write(
            directory.path().join("resolv.conf"),
            "nameserver 10.96.0.10\n",
        )
        .unwrap();
        fs::write(directory.path().join("termination-log"), "").unwrap();
        let root = std::env::var("KUBEVIRT_TEST_QEMU_ROOT").unwrap_or_else(|_| "/".into());
        let state = directory.path().join("state");
        let config = format!(
            "[qemu]\nroot = {root:?}\naccelerator = \"tcg\"\n[runtime]\nstate = {state:?}\n\
             [log]\nlevel = \"debug\"\n"
        );
        fs::write(directory.path().join("config.toml"), config).unwrap();
        make_network(&name);
        let daemon = Daemon::serve(&directory.path().join("c.sock.ttrpc")).await;
        Self {
            name,
            directory,
            daemon,
        }
    }

    /// Says more in the node's configuration, a section of which may be there already.
    pub(crate) fn configure(&self, more: &str) {
        let path = self.path("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let section = more.lines().next().unwrap();
        assert!(config.contains(section), "{config}");
        fs::write(&path, config.replacen(&format!("{section}\n"), more, 1)).unwrap();
    }

    /// A file or directory of the pod's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The bundle of container `id`.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.path("bundles").join(self.id(id))
    }

    /// The full id of container `id`: unique on this machine, as the OCI runtime needs.
    pub(crate) fn id(&self, id: &str) -> String {
        format!("{}-{id}", self.name)
    }

    /// The image that container `id` will get.
    pub(crate) fn image(&self, id: &str) -> PathBuf {
        let path = self.path("images").join(id);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes the bundle of the sandbox.
    pub(crate) fn prepare_sandbox(&self) {
        let mut spec = self.spec("sandbox", "sandbox");
        spec["linux"]["resources"]["cpu"] = json!({ "shares": 2 });
        self.write_spec("sandbox", &spec);
        self.image("sandbox");
    }

    /// Writes the bundle of a machine, whose guest of one sector does `then`.
    pub(crate) fn prepare_machine(&self, id: &str, then: Then) {
        let disk = self.image(id).join("disk");
        fs::create_dir_all(&disk).unwrap();
        guest::write_disk(&disk.join("disk.img"), then);
        self.write_spec(id, &self.spec(id, "container"));
    }

    /// Writes the bundle of an ordinary container that runs `script`.
    pub(crate) fn prepare_ordinary(&self, id: &str, script: &str) {
        let bin = self.image(id).join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("sh")).unwrap();
        let mut spec = self.spec(id, "container");
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        self.write_spec(id, &spec);
    }

    /// A spec as CRI writes it, in short.
    pub(crate) fn spec(&self, id: &str, kind: &str) -> Value {
        let bind = |destination: &str, source: &str| {
            json!({"destination": destination, "type": "bind", "source": self.path(source),
                   "options": ["rbind", "rprivate", "rw"]})
        };
        json!({
            "ociVersion": "1.0.2-dev",
            "hostname": "pod-a",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["vm"], "cwd": "/", "oomScoreAdj": 900
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                bind("/etc/resolv.conf", "resolv.conf"),
                bind("/dev/termination-log", "termination-log"),
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.container-name": id,
                "io.kubernetes.cri.sandbox-id": self.id("sandbox"),
                "io.kubernetes.cri.sandbox-name": "pod-a",
                "io.kubernetes.cri.sandbox-namespace": "default"
            },
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.name),
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 64 << 20},
                    "cpu": {"shares": 512, "quota": 100_000, "period": 100_000}
                },
                "namespaces": [
                    {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network", "path": format!("/run/netns/{}", self.name)}
                ]
            }
        })
    }

    pub(crate) fn write_spec(&self, id: &str, spec: &Value) {
        fs::create_dir_all(self.bundle(id)).unwrap();
        fs::write(self.bundle(id).join("config.json"), spec.to_string()).unwrap();
    }

    /// The shim's program as containerd runs it for container `id`.
    pub(crate) fn program(&self, id: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_containerd-shim-kubevirt-v1"));
        program
            .args([
                "-namespace",
                "test",
                "-publish-binary",
                "/bin/false",
                "-id",
                &self.id(id),
            ])
            .arg("-address")
            .arg(self.path("c.sock"))
            .current_dir(self.bundle(id));
        program
    }

    /// The options that containerd passes on from its configuration.
    pub(crate) fn options(&self) -> Any {
        let path = self.path("config.toml").to_str().unwrap().to_owned();
        let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
        value.extend(path.bytes());
        Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value,
            ..Any::default()
        }
    }

    /// Runs `start` for container `id` as containerd 1.6 does, whose `containerd-shim-runc-v2` is the
    /// one of this machine; its whole output.
    pub(crate) fn try_start(&self, id: &str) -> Output {
        make_log(&self.bundle(id));
        let mut program = self.program(id);
        program
            .env("TTRPC_ADDRESS", self.path("c.sock.ttrpc"))
            .arg("start");
        run(&mut program, &self.options().write_to_bytes().unwrap())
    }

    /// Runs `start` for container `id` as containerd 2.3 does; its whole output.
    pub(crate) fn try_start_by_params(&self, id: &str) -> Output {
        let extension = Extension {
            value: Some(self.options()).into(),
            ..Extension::default()
        };
        let params = BootstrapParams {
            instance_id: self.id(id),
            namespace: "test".into(),
            containerd_ttrpc_address: self.path("c.sock.ttrpc").to_str().unwrap().into(),
            containerd_grpc_address: self.path("c.sock").to_str().unwrap().into(),
            containerd_binary: "/bin/false".into(),
            socket_dir: Some(self.path("s").to_str().unwrap().into()),
            extensions: vec![extension],
            ..BootstrapParams::default()
        };
        make_log(&self.bundle(id));
        run(
            self.program(id).arg("start"),
            &params.write_to_bytes().unwrap(),
        )
    }

    /// The same, connected.
    pub(crate) async fn start(&self, id: &str) -> Task {
        let output = self.try_start(id);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said, "");
        self.connect(id, &String::from_utf8(output.stdout).unwrap())
            .await
    }

    pub(crate) async fn connect(&self, id: &str, address: &str) -> Task {
        self.try_connect(id, address).await.unwrap()
    }

    /// The same of a server that may be gone.
    pub(crate) async fn try_connect(&self, id: &str, address: &str) -> Result<Task, String> {
        let client = Client::connect(address).await;
        let client = TaskClient::new(client.map_err(|error| error.to_string())?);
        let (bundle, image) = (self.bundle(id), self.image(id));
        Ok(Task {
            client,
            id: self.id(id),
            bundle,
            image,
            address: address.to_owned(),
        })
    }

    /// Runs `delete` for container `id`; its whole output.
    pub(crate) async fn delete(&self, id: &str) -> DeleteResponse {
        let mut program = self.program(id);
        program.arg("-bundle").arg(self.bundle(id)).arg("delete");
        // Not on this thread, which plays the daemon.
        let output = tokio::task::spawn_blocking(move || run(&mut program, &[]));
        let output = output.await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said, "");
        DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
    }

    /// Has the node's own shim delete container `id`, past ours.
    pub(crate) async fn delete_inside(&self, id: &str) {
        let note = fs::read(self.bundle(id).join("kubevirt-inner.json")).unwrap();
        let note: Value = serde_json::from_slice(&note).unwrap();
        let inner = Client::connect(note["address"].as_str().unwrap()).await;
        let question = DeleteRequest {
            id: self.id(id),
            ..DeleteRequest::default()
        };
        let mut context = bound();
        context.set("containerd-namespace-ttrpc".into(), vec!["test".into()]);
        let delete = |version: &str| Request {
            service: format!("containerd.task.{version}.Task"),
            method: "Delete".into(),
            payload: question.write_to_bytes().unwrap(),
            timeout_nano: context.timeout_nano,
            metadata: to_pb(context.metadata.clone()),
            ..Request::default()
        };
        let inner = inner.unwrap();
        // It knows one of them.
        if inner.request(delete("v3")).await.is_err() {
            inner.request(delete("v2")).await.unwrap();
        }
    }

    /// Makes the pod's control group with this limit of processors, as kubelet does, on cgroup v1; the
    /// file that holds it.
    pub(crate) fn limit_cpu(&self, quota: u32) -> Option<PathBuf> {
        let group = Path::new("/sys/fs/cgroup/cpu");
        let group = group.exists().then(|| group.join(&self.name))?;
        fs::create_dir(&group).unwrap();
        let file = group.join("cpu.cfs_quota_us");
        fs::write(&file, quota.to_string()).unwrap();
        Some(file)
    }

    /// The limit of processors of container `id`, as cgroup v1 and v2 tell it.
    pub(crate) fn cpu_quota(&self, id: &str) -> String {
        let group = Path::new(&self.name).join(id);
        let read =
            |root: &str, file: &str| fs::read_to_string(Path::new(root).join(&group).join(file));
        read("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us")
            .or_else(|_| read("/sys/fs/cgroup", "cpu.max"))
            .unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        for entry in fs::read_dir(self.path("bundles"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let bundle = entry.path();
            let id = bundle.file_name().unwrap().to_str().unwrap();
            if let Some(id) = id.strip_prefix(&format!("{}-", self.name)) {
                let _ = run(
                    self.program(id).arg("-bundle").arg(&bundle).arg("delete"),
                    &[],
                );
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        for entry in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = fs::remove_dir(entry.path().join(&self.name));
        }
    }
}

/// Runs `command` with `input`.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    use std::io::Write;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The fifo that containerd makes for a shim's log.
pub(crate) fn make_log(bundle: &Path) {
    let log = bundle.join("log");
    if !log.exists() {
        rustix::fs::mkfifoat(rustix::fs::CWD, &log, rustix::fs::Mode::RWXU).unwrap();
    }
}

/// Ends a machine and its pod, and looks for leftovers.
pub(crate) async fn end(pod: Pod, sandbox: Task, vm: Task) {
    vm.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

/// A fifo for output; returns its path.
pub(crate) fn fifo(pod: &Pod, name: &str) -> String {
    let path = pod.path(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Reads `path` to its end, on a thread of its own.
pub(crate) fn read(path: &str) -> tokio::task::JoinHandle<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    })
}

/// A namespace with a pod's interface, whose other end is a gateway in the same namespace.
fn make_network(name: &str) {
    let script = format!(
        "ip netns add {name}
         ip -n {name} link set lo up
         ip -n {name} link add eth0 type veth peer name gateway
         ip -n {name} addr add 10.244.9.2/24 dev eth0
         ip -n {name} link set eth0 up
         ip -n {name} link set gateway up
         ip -n {name} route add default via 10.244.9.1"
    );
    let status = Command::new("sh").args(["-ec", &script]).status().unwrap();
    assert!(status.success(), "{script}");
}
