//! `cluster up`: from nothing, or from any state in between, to a cluster with two Ready nodes and
//! cluster DNS. What already runs is left alone.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kubectl::{apply, kubectl};
use super::names::{ClusterName, Node, Place};
use super::pki::Pki;
use super::{
    builds, containerd, control_plane, env, images, kernel, load, lock, network, node, place,
};
use crate::command;
use crate::distribution;
use crate::progress::{self, Step};

/// The Debian packages of the bench.
const PACKAGES: [&str; 14] = [
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "gcc",
    "iproute2",
    "iptables",
    "libseccomp-dev",
    "mount",
    "nftables",
    "pkg-config",
    "runc",
    "util-linux",
];

/// How long the API server, a node or DNS may take on a slow, busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Brings the cluster up.
pub(crate) fn up(cluster: &ClusterName) -> Result<()> {
    let _lock = lock::exclusive()?;
    distribution::ensure(&PACKAGES)?;
    kernel::load_modules()?;
    let programs = builds::ensure()?;
    let archives = images::ensure(&programs)?;

    fs::create_dir_all(cluster.bin())?;
    kernel::remember_settings()?;
    let pki = Pki::ensure(cluster.pki())?;
    for place in Place::ALL {
        fs::create_dir_all(cluster.place_dir(place))?;
    }
    if Place::ALL
        .iter()
        .all(|place| place::supervisor(cluster, *place).is_none())
    {
        install_programs(cluster, &programs)?;
        network::ensure(cluster)?;
    }
    for place in Place::ALL {
        if place::supervisor(cluster, place).is_some() {
            continue;
        }
        let spec = match place {
            Place::ControlPlane => control_plane::spec(cluster, &pki, api_port(cluster)?)?,
            Place::Node(node) => node::spec(cluster, node, &programs, &pki)?,
        };
        place::start(cluster, place, &spec)?;
    }
    load_once(cluster, &archives)?;
    wait_for_api(cluster)?;
    apply(cluster, include_str!("manifests/dns.yaml"))?;
    wait_for_nodes(cluster)?;
    wait_for_dns(cluster)
}

/// The programs that the control plane and the user's shell run.
fn install_programs(cluster: &ClusterName, programs: &builds::Programs) -> Result<()> {
    let bin = cluster.bin();
    for program in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
    ] {
        replace(&programs.kubernetes.join(program), &bin.join(program))?;
    }
    replace(&std::env::current_exe()?, &bin.join(place::PROGRAM))?;
    env::write_wrappers(cluster)
}

fn replace(source: &Path, target: &Path) -> Result<()> {
    let fresh = target.with_extension("new");
    fs::copy(source, &fresh).with_context(|| format!("copy {}", source.display()))?;
    fs::rename(&fresh, target).with_context(|| format!("put {}", target.display()))
}

/// The port that the cluster had before, else the preferred one, else the next that is free.
fn api_port(cluster: &ClusterName) -> Result<u16> {
    let file = cluster.dir().join("api-port");
    let known = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let first = known.unwrap_or_else(|| cluster.preferred_api_port());
    let port = (first..=u16::MAX)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no port of the loopback is free")?;
    fs::write(&file, port.to_string())?;
    Ok(port)
}

/// The bench's own images go in when a node is new.
fn load_once(cluster: &ClusterName, archives: &[std::path::PathBuf]) -> Result<()> {
    let names: Vec<_> = archives.iter().map(|a| a.display().to_string()).collect();
    let (done, wanted) = (cluster.dir().join("images.loaded"), names.join("\n"));
    if fs::read_to_string(&done).is_ok_and(|loaded| loaded == wanted) {
        return Ok(());
    }
    for node in Node::ALL {
        let ready = progress::wait(PATIENCE, || {
            place::on_node(cluster, node)
                .is_ok_and(|mut command| command::run(command.args(["ctr", "version"])).is_ok())
        });
        if !ready {
            bail!(
                "{}'s containerd does not answer on {}; {}",
                node.name(),
                containerd::SOCKET,
                log(cluster, Place::Node(node), "containerd")
            );
        }
    }
    load::load(cluster, archives)?;
    fs::write(done, wanted)?;
    Ok(())
}

fn wait_for_api(cluster: &ClusterName) -> Result<()> {
    let step = Step::begin("Waiting for the API server");
    let ready = progress::wait(PATIENCE, || {
        kubectl(cluster)
            .args(["get", "--raw=/readyz"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if !ready {
        bail!(
            "the API server is not ready; {}",
            log(cluster, Place::ControlPlane, "kube-apiserver")
        );
    }
    step.done();
    Ok(())
}

fn wait_for_nodes(cluster: &ClusterName) -> Result<()> {
    let step = Step::begin("Waiting for the nodes");
    for node in Node::ALL {
        let name = node.name();
        let healthz = format!("--raw=/api/v1/nodes/{name}/proxy/healthz");
        let ready = progress::wait(PATIENCE, || {
            // A condition may be of an earlier life: kubelet itself is asked as well. (`wait`
            // fails at once for a node that has not registered yet.)
            let condition = [
                "wait",
                "--for=condition=Ready",
                "--timeout=5s",
                "node",
                name,
            ];
            command::run(kubectl(cluster).args(["get", &healthz])).is_ok()
                && command::run(kubectl(cluster).args(condition)).is_ok()
        });
        if !ready {
            bail!(
                "{name} is not Ready; {}",
                log(cluster, Place::Node(node), "kubelet")
            );
        }
    }
    step.done();
    Ok(())
}

fn wait_for_dns(cluster: &ClusterName) -> Result<()> {
    let step = Step::begin("Waiting for cluster DNS");
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    command::run(kubectl(cluster).args([
        "--namespace=kube-system",
        "rollout",
        "status",
        "deployment/coredns",
        &timeout,
    ]))
    .with_context(|| {
        let pods = command::output(kubectl(cluster).args([
            "--namespace=kube-system",
            "describe",
            "pods",
            "--selector=k8s-app=kube-dns",
        ]));
        format!("cluster DNS did not come up: {}", pods.unwrap_or_default())
    })?;
    step.done();
    Ok(())
}

fn log(cluster: &ClusterName, place: Place, service: &str) -> String {
    place::tail(&place::logs(cluster, place).join(format!("{service}.log")))
}
