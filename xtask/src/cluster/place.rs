//! Starts, finds and ends the supervisor of a place, from outside.

use std::fs;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cgroup;
use super::names::{ClusterName, Node, Place};
use super::process::Identity;
use super::supervisor::{PATH, Spec};
use crate::progress;

/// The copy of this program that the supervisors run, so that a rebuild does not touch them.
pub(crate) const PROGRAM: &str = "bench";

/// What the supervisor of a place was started with, in the place's directory.
pub(crate) const SPEC: &str = "supervisor.json";

/// The supervisor of `place`, if it lives.
pub(crate) fn supervisor(cluster: &ClusterName, place: Place) -> Option<Identity> {
    Identity::alive(&cluster.place_dir(place).join("pid"))
}

/// Starts the supervisor of `place`, which is not running, and waits until it is set up.
///
/// # Errors
/// With the end of its log, when it does not come up.
pub(crate) fn start(cluster: &ClusterName, place: Place, spec: &Spec) -> Result<()> {
    let dir = cluster.place_dir(place);
    // What an earlier life left when its power was cut.
    cgroup::remove(&cluster.cgroup(place))?;
    cgroup::create(&cluster.cgroup(place))?;
    let spec_file = dir.join(SPEC);
    fs::write(&spec_file, serde_json::to_vec_pretty(spec)?)?;
    let log_file = dir.join("supervisor.log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_file)?;
    // util-linux does what would need unsafe code here: a fork into the new PID namespace. The
    // waiting parent is left alone; it may end without taking the place with it.
    let mut child = Command::new("setsid")
        .args([
            "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--",
        ])
        .arg(cluster.bin().join(PROGRAM))
        .args(["cluster", "supervise"])
        .arg(&spec_file)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("run setsid and unshare (util-linux)")?;
    let mut failed = false;
    progress::wait(Duration::from_secs(60), || {
        failed = !matches!(child.try_wait(), Ok(None));
        failed || supervisor(cluster, place).is_some()
    });
    if failed || supervisor(cluster, place).is_none() {
        bail!("{} did not start; {}", place.name(), tail(&log_file));
    }
    Ok(())
}

/// Cuts the power of `place`: every process in it is gone when this returns, and its cgroups.
pub(crate) fn kill(cluster: &ClusterName, place: Place) -> Result<()> {
    if let Some(supervisor) = supervisor(cluster, place) {
        supervisor.kill()?;
    }
    cgroup::remove(&cluster.cgroup(place))
}

fn running(cluster: &ClusterName, node: Node) -> Result<Identity> {
    supervisor(cluster, Place::Node(node)).with_context(|| {
        format!(
            "{} of cluster {cluster} is not running; `cargo xtask cluster up --name {cluster}` \
             starts it",
            node.name()
        )
    })
}

/// The root of `node`'s files as the node itself sees them.
///
/// # Errors
/// When the node is not running.
pub(crate) fn node_root(cluster: &ClusterName, node: Node) -> Result<PathBuf> {
    let pid = running(cluster, node)?.pid();
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

/// Prepares a command that runs as on `node`: in its namespaces, with its search path.
///
/// # Errors
/// When the node is not running.
pub(crate) fn on_node(cluster: &ClusterName, node: Node) -> Result<Command> {
    let supervisor = running(cluster, node)?;
    let mut command = Command::new("nsenter");
    command
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/"])
        .arg(format!("--target={}", supervisor.pid()))
        .arg("--")
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root");
    if let Some(terminal) = std::env::var_os("TERM") {
        command.env("TERM", terminal);
    }
    Ok(command)
}

/// Where a place's services log to, as the host sees it.
pub(crate) fn logs(cluster: &ClusterName, place: Place) -> PathBuf {
    match place {
        Place::ControlPlane => cluster.place_dir(place).join("log"),
        Place::Node(node) => super::node::logs(cluster, node),
    }
}

/// The last lines of a log and where it lies, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(15)..];
    format!("the end of {}:\n{}", log.display(), last.join("\n"))
}
