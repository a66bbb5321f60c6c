//! A control plane without nodes, and kwok, which plays the nodes: processes on the loopback that end
//! with this one. The product's own manifests are applied; its Deployment gets no pod, as nobody here
//! makes pods of Deployments.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::api::Api;
use super::load::NAMESPACE;
use crate::cluster;
use crate::command;
use crate::distribution;
use crate::progress;

/// Who the controller is to the API server.
pub(super) const CONTROLLER_USER: &str = "system:serviceaccount:kubevirt:vm-crd-controller";

/// Tokens of who speaks to the API server: all but the controller may do everything.
const CONTROLLER: &str = "controller-of-the-bench";
const ADMIN: &str = "admin-of-the-bench";

/// How long the API server may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What kwok does with pods.
const STAGES: &str = include_str!("stages.yaml");

/// The control plane; it ends when dropped.
pub(super) struct Plane {
    api: Api,
    address: SocketAddr,
    // Clients end before what they speak to.
    _clients: Vec<Process>,
    _api_server: Process,
    _etcd: Process,
    dir: TempDir,
}

/// A process that ends when dropped.
pub(super) struct Process(Child);

impl Process {
    /// Starts `program`, which logs to `log`.
    pub(super) fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        Self::start_in(program, arguments, &[], log)
    }

    /// The same with `environment` besides.
    pub(super) fn start_in(
        program: &Path,
        arguments: &[String],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
        // However this program ends, that one ends with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("run {} by setpriv (util-linux)", program.display()))?;
        Ok(Self(child))
    }

    /// Its PID.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it runs.
    pub(super) fn lives(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plane {
    /// Starts it, with `nodes` simulated nodes that take `pods` pods each.
    pub(super) fn start(nodes: usize, pods: usize) -> Result<Self> {
        distribution::ensure(&["etcd-server", "util-linux"])?;
        let bin = cluster::kubernetes()?;
        let kwok = cluster::kwok()?;
        let dir = tempfile::tempdir()?;
        let store = loopback(free_port()?);
        let address = loopback(free_port()?);
        let etcd = start_etcd(dir.path(), store)?;
        let mut api_server = start_api_server(&bin, dir.path(), store, address)?;
        let api = Api::new(format!("https://{address}"), ADMIN);
        let mut lives = true;
        let ready = progress::wait(PATIENCE, || {
            lives = api_server.lives();
            !lives || api.is_ready()
        });
        ensure!(
            ready && lives,
            "the API server does not come up:\n{}",
            tail(&dir.path().join("kube-apiserver.log"))
        );
        let mut plane = Self {
            api,
            address,
            _clients: Vec::new(),
            _api_server: api_server,
            _etcd: etcd,
            dir,
        };
        plane.install(&bin)?;
        plane.add_nodes(nodes, pods)?;
        plane._clients = plane.start_clients(&bin, &kwok)?;
        Ok(plane)
    }

    /// The way of an administrator.
    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// Where the API server listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it writes who asked what.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    /// Where the log of `program` is.
    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.dir.path().join(format!("{program}.log"))
    }

    /// The controller's kubeconfig, by which it finds the API server at `address`.
    pub(super) fn controller_kubeconfig(&self, address: SocketAddr) -> Result<PathBuf> {
        self.kubeconfig("controller", CONTROLLER, address)
    }

    fn kubeconfig(&self, name: &str, token: &str, address: SocketAddr) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{ "name": "bench", "cluster": {
                "server": format!("https://{address}"), "insecure-skip-tls-verify": true,
            } }],
            "users": [{ "name": "bench", "user": { "token": token } }],
            "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    fn install(&self, bin: &Path) -> Result<()> {
        let kubeconfig = self.kubeconfig("admin", ADMIN, self.address)?;
        let product = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass");
        for (option, path) in [
            ("-f", "base/namespace.yaml"),
            ("-k", "crds"),
            ("-f", "base/runtimeclass.yaml"),
            ("-k", "controller"),
        ] {
            let mut kubectl = Command::new(bin.join("kubectl"));
            kubectl.arg("--kubeconfig").arg(&kubeconfig);
            kubectl.args(["apply", "--server-side", option]);
            command::run(kubectl.arg(format!("{product}/{path}")))?;
        }
        // No Service leads to the controller here: each creation would wait for its webhooks in vain.
        let mut kubectl = Command::new(bin.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(&kubeconfig);
        kubectl.args(["delete", "--ignore-not-found", "-f"]);
        command::run(kubectl.arg(format!("{product}/controller/webhooks.yaml")))?;
        let namespace = json!({ "metadata": { "name": NAMESPACE } });
        self.api.create("/api/v1/namespaces", &namespace)
    }

    fn add_nodes(&self, nodes: usize, pods: usize) -> Result<()> {
        let room = json!({ "cpu": "1k", "memory": "1Ti", "pods": pods.to_string() });
        for number in 0..nodes {
            let name = format!("node-{number:03}");
            // The labels by which the RuntimeClass finds nodes that have the runtime.
            let labels = json!({
                "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubevirt.io/runtime": "ready", "kubevirt.io/schedulable": "true",
            });
            let node = json!({
                "metadata": { "name": name, "labels": labels },
                "status": { "capacity": room, "allocatable": room,
                    "conditions": [{ "type": "Ready", "status": "True" }] },
            });
            self.api.create("/api/v1/nodes", &node)?;
            // The controller that finds it ready is not here.
            let ready = json!({ "spec": { "taints": null } });
            self.api.patch(&format!("/api/v1/nodes/{name}"), &ready)?;
            // The controller that finds it ready is not here.
            let ready = json!({ "spec": { "taints": null } });
            self.api.patch(&format!("/api/v1/nodes/{name}"), &ready)?;
        }
        Ok(())
    }

    fn start_clients(&self, bin: &Path, kwok: &Path) -> Result<Vec<Process>> {
        let stages = self.dir.path().join("stages.yaml");
        fs::write(&stages, STAGES)?;
        let config = self.kubeconfig("clients", ADMIN, self.address)?;
        let config = config.display();
        let kubeconfig = format!("--kubeconfig={config}");
        let scheduler = [
            kubeconfig.clone(),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            // Otherwise its own restraint would be what is measured.
            "--kube-api-qps=1000".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        let mut manager = scheduler.to_vec();
        // What owns and is owned; nothing else here needs a controller.
        manager.push("--controllers=garbage-collector-controller".to_owned());
        let simulator = [
            kubeconfig,
            format!("--config={}", stages.display()),
            "--manage-all-nodes=true".to_owned(),
            "--node-lease-duration-seconds=0".to_owned(),
            format!("--server-address={}", loopback(free_port()?)),
        ];
        Ok(vec![
            Process::start(
                &bin.join("kube-scheduler"),
                &scheduler,
                &self.log("kube-scheduler"),
            )?,
            Process::start(
                &bin.join("kube-controller-manager"),
                &manager,
                &self.log("kube-controller-manager"),
            )?,
            Process::start(&kwok.join("kwok"), &simulator, &self.log("kwok"))?,
        ])
    }
}

fn start_etcd(dir: &Path, address: SocketAddr) -> Result<Process> {
    let client = format!("http://{address}");
    let peer = format!("http://{}", loopback(free_port()?));
    let flags = [
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // What is written here is forgotten anyway.
        "--unsafe-no-fsync".to_owned(),
        format!("--quota-backend-bytes={}", 8_u64 << 30),
    ];
    Process::start(Path::new("/usr/bin/etcd"), &flags, &dir.join("etcd.log"))
}

fn start_api_server(
    bin: &Path,
    dir: &Path,
    store: SocketAddr,
    address: SocketAddr,
) -> Result<Process> {
    let write = |name: &str, text: &str| -> Result<String> {
        let path = dir.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let key = rcgen::KeyPair::generate()?;
    let private = write("service-account.key", &key.serialize_pem())?;
    let public = write("service-account.pub", &key.public_key_pem())?;
    let tokens = format!(
        "{ADMIN},admin,1,system:masters\n{CONTROLLER},{CONTROLLER_USER},2,\
         \"system:serviceaccounts,system:serviceaccounts:kubevirt\"\n"
    );
    let tokens = write("tokens.csv", &tokens)?;
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{ "level": "Metadata", "users": [CONTROLLER_USER] }, { "level": "None" }],
    });
    let policy = write("audit.json", &policy.to_string())?;
    let flags = [
        format!("--etcd-servers=http://{store}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--cert-dir={}", dir.join("certificates").display()),
        format!("--token-auth-file={tokens}"),
        "--authorization-mode=RBAC".to_owned(),
        // No controller makes the default service accounts here.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={public}"),
        format!("--service-account-signing-key-file={private}"),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--audit-policy-file={policy}"),
        format!("--audit-log-path={}", dir.join("audit.log").display()),
        "--audit-log-mode=blocking".to_owned(),
        // kwok asks for lists as streams, which the distribution's etcd cannot give.
        "--feature-gates=WatchList=false".to_owned(),
        // kwok asks for lists as streams, which the distribution's etcd cannot give.
        "--feature-gates=WatchList=false".to_owned(),
        // In one file, which is read as it grows.
        "--audit-log-maxsize=100000".to_owned(),
    ];
    let log = dir.join("kube-apiserver.log");
    Process::start(&bin.join("kube-apiserver"), &flags, &log)
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that is free now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(loopback(0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
