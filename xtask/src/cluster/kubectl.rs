//! `kubectl` with the cluster's own kubeconfig.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::names::ClusterName;

/// A `kubectl` command for `cluster`.
pub(crate) fn kubectl(cluster: &ClusterName) -> Command {
    let mut command = Command::new(cluster.bin().join("kubectl"));
    command.env("KUBECONFIG", cluster.kubeconfig());
    command
}

/// Applies manifests given as text, server-side.
pub(crate) fn apply(cluster: &ClusterName, manifests: &str) -> Result<()> {
    let mut child = kubectl(cluster)
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run kubectl")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifests.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!(
            "kubectl apply: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
