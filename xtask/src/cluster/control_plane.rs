//! The control plane's services: etcd, API server, controller manager, scheduler. They share the
//! host's files but have a network and processes of their own; only the API server's port is
//! carried to the host's loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::names::{API_PORT, CONTROL_PLANE, ClusterName, Place, SERVICE_CIDRS};
use super::pki::Pki;
use super::supervisor::{Endpoint, Forward, Service, Spec};

const ETCD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);

/// Where the nodes and the controllers reach the API server.
pub(crate) fn api_url() -> String {
    format!("https://{CONTROL_PLANE}:{API_PORT}")
}

fn api_address() -> SocketAddr {
    (CONTROL_PLANE, API_PORT).into()
}

/// Writes the control plane's files and says what its supervisor has to do. `port` is the API
/// server's on the host's loopback.
pub(crate) fn spec(cluster: &ClusterName, pki: &Pki, port: u16) -> Result<Spec> {
    let place = Place::ControlPlane;
    let dir = cluster.place_dir(place);
    let logs = dir.join("log");
    fs::create_dir_all(&logs)?;
    for client in ["controller-manager", "scheduler"] {
        let path = dir.join(format!("{client}.kubeconfig"));
        fs::write(path, pki.kubeconfig(client, &api_url())?)?;
    }
    fs::write(dir.join("audit.json"), audit_policy().to_string())?;
    fs::write(
        cluster.kubeconfig(),
        pki.kubeconfig("admin", &format!("https://127.0.0.1:{port}"))?,
    )?;
    let bin = cluster.bin();
    Ok(Spec {
        hostname: cluster.netns(place),
        netns: cluster.netns_path(place),
        cgroup: cluster.cgroup(place),
        pid_file: dir.join("pid"),
        root: None,
        logs,
        forward: Some(Forward {
            listen: (Ipv4Addr::LOCALHOST, port).into(),
            to: api_address(),
        }),
        services: vec![
            etcd(&dir),
            api_server(&bin, &dir, pki),
            controller_manager(&bin, &dir, pki),
            scheduler(&bin, &dir),
        ],
    })
}

fn service(name: &str, program: &Path, needs: Option<SocketAddr>, flags: &[String]) -> Service {
    let argv = std::iter::once(program.display().to_string())
        .chain(flags.iter().map(|flag| format!("--{flag}")))
        .collect();
    Service {
        name: name.to_owned(),
        argv,
        needs: needs.map(Endpoint::Tcp),
    }
}

fn etcd(dir: &Path) -> Service {
    let flags = [
        format!("data-dir={}", dir.join("etcd").display()),
        format!("listen-client-urls=http://{ETCD}"),
        format!("advertise-client-urls=http://{ETCD}"),
        "listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // A test bench forgives a lost write after a power cut of the whole machine; waiting for
        // the disk at each write makes every other component slower.
        "unsafe-no-fsync".to_owned(),
    ];
    service("etcd", Path::new("/usr/bin/etcd"), None, &flags)
}

fn api_server(bin: &Path, dir: &Path, pki: &Pki) -> Service {
    let ca = pki.ca().cert;
    let serving = pki.pair("apiserver");
    let kubelet = pki.pair("apiserver-kubelet-client");
    let front_proxy = pki.pair("front-proxy-client");
    let flags = [
        format!("advertise-address={CONTROL_PLANE}"),
        format!("secure-port={API_PORT}"),
        format!("etcd-servers=http://{ETCD}"),
        format!("service-cluster-ip-range={SERVICE_CIDRS}"),
        "allow-privileged=true".to_owned(),
        "authorization-mode=Node,RBAC".to_owned(),
        "enable-admission-plugins=NodeRestriction".to_owned(),
        format!("client-ca-file={}", ca.display()),
        format!("tls-cert-file={}", serving.cert.display()),
        format!("tls-private-key-file={}", serving.key.display()),
        format!("kubelet-certificate-authority={}", ca.display()),
        format!("kubelet-client-certificate={}", kubelet.cert.display()),
        format!("kubelet-client-key={}", kubelet.key.display()),
        "kubelet-preferred-address-types=InternalIP".to_owned(),
        "service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!(
            "service-account-key-file={}",
            pki.service_account_public_key().display()
        ),
        format!(
            "service-account-signing-key-file={}",
            pki.pair("service-account").key.display()
        ),
        // The aggregation layer, for API servers that run as pods.
        "enable-aggregator-routing=true".to_owned(),
        format!(
            "requestheader-client-ca-file={}",
            pki.pair("front-proxy-ca").cert.display()
        ),
        "requestheader-allowed-names=front-proxy-client".to_owned(),
        "requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "requestheader-group-headers=X-Remote-Group".to_owned(),
        "requestheader-username-headers=X-Remote-User".to_owned(),
        format!("proxy-client-cert-file={}", front_proxy.cert.display()),
        format!("proxy-client-key-file={}", front_proxy.key.display()),
        // Who wrote what: tests count the controller's writes.
        format!("audit-policy-file={}", dir.join("audit.json").display()),
        format!("audit-log-path={}", dir.join("log/audit.log").display()),
        "audit-log-maxsize=100".to_owned(),
        "audit-log-maxbackup=1".to_owned(),
    ];
    service(
        "kube-apiserver",
        &bin.join("kube-apiserver"),
        Some(ETCD),
        &flags,
    )
}

/// Writes are recorded once, when they are done, without their bodies; reads are not.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            { "level": "None", "verbs": ["get", "list", "watch"] },
            { "level": "None", "resources": [{ "group": "coordination.k8s.io" }] },
            { "level": "Metadata" },
        ],
    })
}

fn controller_manager(bin: &Path, dir: &Path, pki: &Pki) -> Service {
    let ca = pki.ca();
    let kubeconfig = dir.join("controller-manager.kubeconfig");
    let kubeconfig = kubeconfig.display();
    let flags = [
        format!("kubeconfig={kubeconfig}"),
        format!("authentication-kubeconfig={kubeconfig}"),
        format!("authorization-kubeconfig={kubeconfig}"),
        "bind-address=127.0.0.1".to_owned(),
        "leader-elect=false".to_owned(),
        "use-service-account-credentials=true".to_owned(),
        format!("root-ca-file={}", ca.cert.display()),
        format!("cluster-signing-cert-file={}", ca.cert.display()),
        format!("cluster-signing-key-file={}", ca.key.display()),
        format!(
            "service-account-private-key-file={}",
            pki.pair("service-account").key.display()
        ),
    ];
    let program = bin.join("kube-controller-manager");
    service(
        "kube-controller-manager",
        &program,
        Some(api_address()),
        &flags,
    )
}

fn scheduler(bin: &Path, dir: &Path) -> Service {
    let kubeconfig = dir.join("scheduler.kubeconfig");
    let kubeconfig = kubeconfig.display();
    let flags = [
        format!("kubeconfig={kubeconfig}"),
        format!("authentication-kubeconfig={kubeconfig}"),
        format!("authorization-kubeconfig={kubeconfig}"),
        "bind-address=127.0.0.1".to_owned(),
        "leader-elect=false".to_owned(),
    ];
    service(
        "kube-scheduler",
        &bin.join("kube-scheduler"),
        Some(api_address()),
        &flags,
    )
}
