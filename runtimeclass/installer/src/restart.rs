//! Restarting containerd through whatever supervises it.
//!
//! Pods outlive it: their shims are processes of their own. A unit of systemd is restarted by
//! systemctl; anything else gets SIGTERM, and its supervisor starts it again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::containerd::{Daemon, HANDLER};
use crate::node::Node;
use crate::{cri, in_root};

/// How long the supervisor gets to bring containerd back.
const BACK_BOUND: Duration = Duration::from_secs(60);

/// How often to look.
const LOOK: Duration = Duration::from_millis(250);

/// Restarts `daemon` and waits until another process serves its socket.
pub(crate) async fn restart(node: &Node, daemon: &Daemon) -> Result<()> {
    match systemd_unit(daemon.pid) {
        Some(unit) => {
            tracing::info!(unit, "restarting containerd by systemctl");
            in_root::run(node.root(), &["systemctl", "restart", &unit])
                .context("restart containerd by systemctl")?;
        }
        None => {
            tracing::info!(
                pid = daemon.pid.as_raw(),
                "ending containerd; its supervisor restarts it"
            );
            kill(daemon.pid, Signal::SIGTERM).context("send SIGTERM to containerd")?;
        }
    }
    let deadline = Instant::now() + BACK_BOUND;
    loop {
        if Daemon::pid_behind(node).is_ok_and(|pid| pid != daemon.pid) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "containerd did not come back within {} s: start it",
                BACK_BOUND.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until CRI has (or no longer has) the runtime.
pub(crate) async fn wait_for_handler(node: &Node, wanted: bool) -> Result<()> {
    let socket = node.path(crate::containerd::SOCKET)?;
    let deadline = Instant::now() + BACK_BOUND;
    loop {
        let found = cri::has_handler(&socket, HANDLER).await;
        match found {
            Ok(found) if found == wanted => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            Ok(true) => {
                bail!("containerd still has the runtime {HANDLER} loaded after its restart")
            }
            Ok(false) => bail!(
                "containerd has not loaded the runtime {HANDLER}: is its configuration overridden?"
            ),
            Err(error) => return Err(error),
        }
    }
}

/// The service of systemd that `pid` belongs to, if systemd runs the node.
fn systemd_unit(pid: Pid) -> Option<String> {
    let init = fs::read_to_string("/proc/1/comm").ok()?;
    let cgroups =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).ok()?;
    if init.trim() != "systemd" {
        None
    } else {
        unit_of(&cgroups)
    }
}

/// The innermost `.service` in the content of `/proc/<pid>/cgroup`.
fn unit_of(cgroups: &str) -> Option<String> {
    cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.rsplit('/'))
        .find(|part| part.ends_with(".service"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_from_the_cgroup() {
        assert_eq!(
            unit_of("0::/system.slice/containerd.service\n").unwrap(),
            "containerd.service"
        );
        let v1 =
            "4:memory:/system.slice/containerd.service\n1:name=systemd:/system.slice/x.service\n";
        assert_eq!(unit_of(v1).unwrap(), "containerd.service");
        assert_eq!(unit_of("4:memory:/kubevirt-node1\n"), None);
    }
}
