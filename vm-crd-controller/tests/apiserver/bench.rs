//! etcd and kube-apiserver on loopback, with the product's own manifests applied.
//!
//! kube-apiserver reaches the controller as it does in a cluster, by its Service: there is nobody here
//! who would make the Service's EndpointSlice, so [`Bench::lead_to`] does.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machines::FakeMachines;
use crate::network::ADDRESS;

/// User of the tests themselves.
const ADMIN_TOKEN: &str = "admin-of-the-test";

/// User of the controller: the service account that is installed.
pub(crate) const CONTROLLER_TOKEN: &str = "controller-of-the-test";

/// User who may do nothing but what every user may.
pub(crate) const STRANGER_TOKEN: &str = "stranger-of-the-test";

/// Name of the controller's user.
pub(crate) const CONTROLLER_USER: &str = "system:serviceaccount:kubevirt:vm-crd-controller";

/// A control plane without controllers and nodes.
pub(crate) struct Bench {
    /// Speaks for an administrator.
    pub(crate) client: Client,
    /// What the machines of cases answer, where the controller can ask them.
    pub(crate) machines: FakeMachines,
    dir: TempDir,
    port: u16,
    etcd_port: u16,
    /// What the API server is started with.
    flags: Vec<String>,
    // The API server ends before its store does.
    apiserver: Mutex<Option<Process>>,
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
        let flags = apiserver_flags(dir.path(), etcd_port, port);
        let client = Client::try_from(client_config(port, ADMIN_TOKEN)).expect("a client");
        let bench = Self {
            client,
            machines: FakeMachines::default(),
            dir,
            port,
            etcd_port,
            flags,
            apiserver: Mutex::default(),
            _etcd: etcd,
        };
        bench.start_apiserver().await;
        bench.install();
        bench
    }

    /// Starts the API server, which does not run, and waits until it answers.
    pub(crate) async fn start_apiserver(&self) {
        let mut command = Command::new(apiserver());
        command.args(&self.flags);
        let process = start(command, &self.log_file("kube-apiserver"));
        *self
            .apiserver
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(process);
        self.wait_ready().await;
    }

    /// Ends the API server at once; what it stored stays.
    pub(crate) fn kill_apiserver(&self) {
        self.apiserver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Has etcd forget everything before `version`.
    pub(crate) fn compact(&self, version: &str) {
        let body = json!({ "revision": version, "physical": true }).to_string();
        let address = format!("127.0.0.1:{}", self.etcd_port);
        let mut connection = TcpStream::connect(&address).expect("etcd");
        let request = format!(
            "POST /v3/kv/compaction HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).expect("ask etcd");
        let mut answer = String::new();
        connection
            .read_to_string(&mut answer)
            .expect("etcd's answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Speaks for the holder of `token`.
    pub(crate) fn client_of(&self, token: &str) -> Client {
        Client::try_from(self.config_of(token)).expect("a client")
    }

    /// How the holder of `token` reaches the API server.
    pub(crate) fn config_of(&self, token: &str) -> Config {
        client_config(self.port, token)
    }

    /// A kubeconfig for the holder of `token`.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        self.kubeconfig_by(token, &format!("https://127.0.0.1:{}", self.port))
    }

    /// The same, by which the API server is found at `server`.
    pub(crate) fn kubeconfig_by(&self, token: &str, server: &str) -> PathBuf {
        let place = server.rsplit(':').next().unwrap_or_default();
        let path = self.dir.path().join(format!("{token}-{place}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": server,
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
        self.audited(user, namespace, |_| true)
    }

    /// The same of those that the API server carried out.
    pub(crate) fn done(&self, user: &str, namespace: &str) -> Vec<String> {
        self.audited(user, namespace, |entry| {
            let code = entry["responseStatus"]["code"].as_u64();
            code.is_some_and(|code| (200..300).contains(&code))
        })
    }

    /// The same of those whose client left before the answer.
    pub(crate) fn unanswered(&self, user: &str, namespace: &str) -> Vec<String> {
        self.audited(user, namespace, |entry| {
            let code = entry["responseStatus"]["code"].as_u64();
            code.is_none_or(|code| code >= 499)
        })
    }

    fn audited(
        &self,
        user: &str,
        namespace: &str,
        is_meant: impl Fn(&Value) -> bool,
    ) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("audit.log")).expect("the audit log");
        let entries = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| entry["user"]["username"] == user)
            .filter(|entry| entry["objectRef"]["namespace"] == namespace)
            .filter(|entry| entry["objectRef"]["resource"] != "events")
            .filter(is_meant)
            .map(|entry| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let subresource = text(&entry["objectRef"]["subresource"]);
                let slash = if subresource.is_empty() { "" } else { "/" };
                let resource = text(&entry["objectRef"]["resource"]);
                format!("{} {resource}{slash}{subresource}", text(&entry["verb"]))
            })
            .collect()
    }

    /// Has the Service of the controller lead to those ports of this machine, and to no others.
    pub(crate) async fn lead_to(&self, ports: &[u16]) {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "kubevirt");
        let (all, now) = (ListParams::default(), DeleteParams::default());
        let gone = slices.delete_collection(&now, &all).await;
        gone.expect("delete the old slices");
        for port in ports {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("controller-{port}"),
                    "labels": { "kubernetes.io/service-name": "vm-crd-controller" },
                },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [ADDRESS], "conditions": { "ready": true } }],
                "ports": [{ "name": "api", "port": port, "protocol": "TCP" }],
            });
            let slice = serde_json::from_value(slice).expect("a slice");
            let made = slices.create(&PostParams::default(), &slice).await;
            made.expect("make the slice");
        }
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

    /// Applies an object as a user does; what kubectl says besides.
    pub(crate) fn kubectl_apply(&self, object: &Value) -> anyhow::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), object.to_string())?;
        let output = Command::new(kubectl())
            .arg("--kubeconfig")
            .arg(self.kubeconfig(ADMIN_TOKEN))
            .args(["apply", "-f"])
            .arg(file.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "kubectl apply: {said}");
        Ok(said)
    }

    async fn wait_ready(&self) {
        for _ in 0..600 {
            let request = http_get("/readyz");
            if self.client.request_text(request).await.is_ok() {
                return;
            }
            if self.apiserver_ended() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.log_file("kube-apiserver")).unwrap_or_default();
        panic!("kube-apiserver does not become ready:\n{log}");
    }

    fn apiserver_ended(&self) -> bool {
        let mut process = self
            .apiserver
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ended = process.as_mut().map(|process| process.0.try_wait());
        !matches!(ended, Some(Ok(None)))
    }

    fn install(&self) {
        let product = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass");
        self.apply(&["-f", &format!("{product}/base/namespace.yaml")]);
        self.apply(&["-k", &format!("{product}/crds")]);
        self.apply(&["-f", &format!("{product}/base/runtimeclass.yaml")]);
        self.apply(&["-k", &format!("{product}/controller")]);
        self.apply(&["-k", &format!("{product}/guard")]);
    }
}

fn http_get(path: &str) -> hyper::Request<Vec<u8>> {
    hyper::Request::get(path)
        .body(Vec::new())
        .expect("a request")
}

fn client_config(port: u16, token: &str) -> Config {
    let address = format!("https://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    let mut config = Config::new(address);
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(token.to_owned().into());
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

fn apiserver_flags(dir: &Path, etcd_port: u16, port: u16) -> Vec<String> {
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
         \"system:serviceaccounts,system:serviceaccounts:kubevirt\"\n\
         {STRANGER_TOKEN},stranger,3\n"
    );
    let tokens = write("tokens.csv", &tokens);
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{ "level": "None", "verbs": ["get", "list", "watch"] }, { "level": "Metadata" }],
    });
    let policy = write("audit.json", &policy.to_string());
    let (authority, proxy, proxy_key) = front_proxy();
    let authority = write("front-proxy-ca.crt", &authority);
    let proxy = write("front-proxy-client.crt", &proxy);
    let proxy_key = write("front-proxy-client.key", &proxy_key);
    vec![
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
        // The aggregation layer, which finds the controller by its endpoints.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--requestheader-client-ca-file={authority}"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={proxy}"),
        format!("--proxy-client-key-file={proxy_key}"),
    ]
}

/// The front proxy's authority, its certificate and its key, as PEM.
fn front_proxy() -> (String, String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "front-proxy-ca");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params
        .distinguished_name
        .push(DnType::CommonName, "front-proxy-client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    (authority.pem(), certificate.pem(), key.serialize_pem())
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
