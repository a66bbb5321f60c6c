//! etcd and kube-apiserver on loopback, with the product's own manifests applied.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

/// User of the tests themselves.
const ADMIN_TOKEN: &str = "admin-of-the-test";

/// User of the controller: the service account that is installed.
pub(crate) const CONTROLLER_TOKEN: &str = "controller-of-the-test";

/// Name of that user.
pub(crate) const CONTROLLER_USER: &str = "system:serviceaccount:kubevirt:vm-crd-controller";

/// A control plane without controllers and nodes.
pub(crate) struct Bench {
    /// Speaks for an administrator.
    pub(crate) client: Client,
    dir: TempDir,
    port: u16,
    // The API server ends before its store does.
    apiserver: Process,
    _etcd: Process,
}

/// A process that ends when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// Starts one; it ends when dropped.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd_port = free_port();
        let etcd = start_etcd(dir.path(), etcd_port);
        let port = free_port();
        let apiserver = start_apiserver(dir.path(), etcd_port, port);
        let client = Client::try_from(client_config(port)).expect("a client");
        let mut bench = Self {
            client,
            dir,
            port,
            apiserver,
            _etcd: etcd,
        };
        bench.wait_ready().await;
        bench.install();
        bench
    }

    /// A kubeconfig for the holder of `token`.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{token}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "insecure-skip-tls-verify": true,
            } }],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    /// A new file for a log.
    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// What controllers logged about a namespace.
    pub(crate) fn log_about(&self, namespace: &str) -> String {
        let files = fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
        let about = logs
            .filter(|log| {
                !["etcd.log", "kube-apiserver.log", "audit.log"]
                    .iter()
                    .any(|name| log.file_name() == *name)
            })
            .flat_map(|log| {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines = text.lines().filter(|line| line.contains(namespace));
                lines.map(str::to_owned).collect::<Vec<_>>()
            });
        about.collect::<Vec<_>>().join("\n")
    }

    /// Who wrote what in `namespace`: `<verb> <resource>[/<subresource>]` of each write of `user`,
    /// events aside.
    pub(crate) fn writes(&self, user: &str, namespace: &str) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("audit.log")).expect("the audit log");
        let entries = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| entry["user"]["username"] == user)
            .filter(|entry| entry["objectRef"]["namespace"] == namespace)
            .filter(|entry| entry["objectRef"]["resource"] != "events")
            .map(|entry| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let subresource = text(&entry["objectRef"]["subresource"]);
                let slash = if subresource.is_empty() { "" } else { "/" };
                let resource = text(&entry["objectRef"]["resource"]);
                format!("{} {resource}{slash}{subresource}", text(&entry["verb"]))
            })
            .collect()
    }

    /// Applies manifests as a user does; `arguments` follow `kubectl apply --server-side`.
    pub(crate) fn apply(&self, arguments: &[&str]) {
        let output = Command::new(kubectl())
            .arg("--kubeconfig")
            .arg(self.kubeconfig(ADMIN_TOKEN))
            .args(["apply", "--server-side"])
            .args(arguments)
            .output()
            .expect("run kubectl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl apply {arguments:?}: {said}"
        );
    }

    async fn wait_ready(&mut self) {
        for _ in 0..600 {
            let request = http_get("/readyz");
            if self.client.request_text(request).await.is_ok() {
                return;
            }
            if self
                .apiserver
                .0
                .try_wait()
                .is_ok_and(|status| status.is_some())
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.log_file("kube-apiserver")).unwrap_or_default();
        panic!("kube-apiserver does not become ready:\n{log}");
    }

    fn install(&self) {
        let product = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass");
        self.apply(&["-f", &format!("{product}/base/namespace.yaml")]);
        self.apply(&["-k", &format!("{product}/crds")]);
        self.apply(&["-f", &format!("{product}/base/runtimeclass.yaml")]);
        self.apply(&["-k", &format!("{product}/controller")]);
    }
}

fn http_get(path: &str) -> hyper::Request<Vec<u8>> {
    hyper::Request::get(path)
        .body(Vec::new())
        .expect("a request")
}

fn client_config(port: u16) -> Config {
    let address = format!("https://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    let mut config = Config::new(address);
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(ADMIN_TOKEN.to_owned().into());
    config
}

fn start_etcd(dir: &Path, port: u16) -> Process {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let etcd = std::env::var_os("TEST_ASSET_ETCD").unwrap_or_else(|| "etcd".into());
    let mut command = Command::new(etcd);
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--unsafe-no-fsync",
        ]);
    start(command, &dir.join("etcd.log"))
}

fn start_apiserver(dir: &Path, etcd_port: u16, port: u16) -> Process {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("write a file");
        path.display().to_string()
    };
    let key = write("service-account.key", &pair.serialize_pem());
    let public_key = write("service-account.pub", &pair.public_key_pem());
    let tokens = format!(
        "{ADMIN_TOKEN},admin,1,system:masters\n{CONTROLLER_TOKEN},{CONTROLLER_USER},2,\
         \"system:serviceaccounts,system:serviceaccounts:kubevirt\"\n"
    );
    let tokens = write("tokens.csv", &tokens);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{ "level": "None", "verbs": ["get", "list", "watch"] }, { "level": "Metadata" }],
    });
    let policy = write("audit.json", &policy.to_string());
    let mut command = Command::new(apiserver());
    command.args([
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", dir.join("certificates").display()),
        format!("--token-auth-file={tokens}"),
        "--authorization-mode=RBAC".to_owned(),
        // No controller makes the default service accounts here.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={public_key}"),
        format!("--service-account-signing-key-file={key}"),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--audit-policy-file={policy}"),
        format!("--audit-log-path={}", dir.join("audit.log").display()),
        "--audit-log-mode=blocking".to_owned(),
    ]);
    start(command, &dir.join("kube-apiserver.log"))
}

fn start(mut command: Command, log: &Path) -> Process {
    let out = File::create(log).expect("a log");
    let err = out.try_clone().expect("a log");
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    Process(child.unwrap_or_else(|error| panic!("start {command:?}: {error}")))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

fn apiserver() -> PathBuf {
    if let Some(path) = std::env::var_os("TEST_ASSET_KUBE_APISERVER") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"),
        PathBuf::from,
    );
    let builds = cache.join("kubevirt-shim/go");
    let entries = fs::read_dir(&builds).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join("kube-apiserver"))
        .filter(|path| path.exists())
        .max()
        .unwrap_or_else(|| {
            panic!(
                "no kube-apiserver below {}: run `cargo xtask cluster up` once, or set \
                 TEST_ASSET_KUBE_APISERVER",
                builds.display()
            )
        })
}

fn kubectl() -> PathBuf {
    let beside = apiserver().with_file_name("kubectl");
    if beside.exists() {
        beside
    } else {
        "kubectl".into()
    }
}
