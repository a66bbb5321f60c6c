//! Installing: files, configuration, containerd, label; then keeping watch.
//!
//! Every step may be repeated: a second run changes nothing and restarts nothing. The node is
//! labelled last, and only when containerd has the runtime loaded and QEMU runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use toml_edit::{DocumentMut, Item};

use crate::config_files::ConfigFiles;
use crate::containerd::{self, Daemon, HANDLER, SOCKET};
use crate::node::Node;
use crate::{cluster, cri, files, in_root, release, restart};

/// How often the watch looks whether the runtime still works.
const WATCH: Duration = Duration::from_secs(60);

/// QEMU in its own tree.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Installs, labels the node `name`, and returns when the process is asked to end.
///
/// # Errors
/// Whatever keeps the node from running machines, in one sentence. The node is then not labelled,
/// and containerd's configuration is as it was.
pub(crate) async fn run(
    node: &Node,
    payload: &Path,
    config: Option<&Path>,
    name: &str,
) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let client = cluster::connect().await?;
    cluster::refuse_kubevirt(&client).await?;
    release::install(node, payload)?;
    if let Some(config) = config {
        let content = fs::read_to_string(config)
            .with_context(|| format!("read the runtime's configuration {}", config.display()))?;
        files::replace(&node.path(node.config())?, &content)
            .with_context(|| format!("write {}", node.config().display()))?;
    }
    check_files(node)?;
    configure(node).await?;
    let accelerator = accelerator(node);
    cluster::label(&client, name, accelerator).await?;
    tracing::info!(
        node = name,
        accelerator,
        "the runtime works; the node is labelled"
    );
    loop {
        tokio::select! {
            _ = end.recv() => return Ok(()),
            () = tokio::time::sleep(WATCH) => {}
        }
        if let Err(error) = check(node).await {
            cluster::unlabel(&client, name).await?;
            return Err(
                error.context("the runtime no longer works; the node's label is taken back")
            );
        }
    }
}

/// Whether machines can start here: the files run, and containerd has the runtime.
pub(crate) async fn check(node: &Node) -> Result<()> {
    check_files(node)?;
    if !cri::has_handler(&node.path(SOCKET)?, HANDLER).await? {
        bail!("containerd has not loaded the runtime {HANDLER}");
    }
    Ok(())
}

/// Runs the shim and QEMU on the node for their versions.
fn check_files(node: &Node) -> Result<()> {
    let shim = node.shim();
    in_root::run(node.root(), &[shim.as_os_str(), "-v".as_ref()])
        .context("run the shim on the node")?;
    let tree = node.path(node.prefix())?.join("qemu");
    in_root::run(&tree, &[QEMU, "--version"]).context("run QEMU in its tree")?;
    Ok(())
}

/// Brings our stanza into containerd and the daemon to load it; undone if the daemon refuses it.
async fn configure(node: &Node) -> Result<()> {
    let daemon = Daemon::find(node)?;
    let files = ConfigFiles::read(node, &daemon.config)?;
    let change = containerd::add(
        files.content().unwrap_or_default(),
        daemon.major,
        &node.shim(),
        node.config(),
    )?;
    let configured = files.are(&change);
    if !configured {
        let edited = files
            .write(&change)
            .and_then(|()| daemon.verify_config(node));
        if let Err(error) = edited {
            files.put_back()?;
            return Err(error.context("containerd's configuration is as it was"));
        }
    }
    let loaded = cri::has_handler(&node.path(SOCKET)?, HANDLER)
        .await
        .unwrap_or(false);
    if configured && loaded {
        return Ok(());
    }
    let error = match load(node, &daemon).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if configured {
        return Err(error);
    }
    // containerd took the file but does not serve pods with it: nobody else can undo this now.
    files.put_back()?;
    restart::restart(node, &Daemon::find(node)?)
        .await
        .context("containerd's configuration is as it was, but the daemon has not loaded it")?;
    Err(error.context("containerd's configuration is as it was"))
}

/// Restarts the daemon and waits until it has the runtime.
async fn load(node: &Node, daemon: &Daemon) -> Result<()> {
    restart::restart(node, daemon).await?;
    restart::wait_for_handler(node, true).await
}

/// What machines on this node are run by: the node's own configuration may force emulation, and
/// the CPU must offer KVM; a device node alone says nothing.
///
/// A configuration that cannot be read forces nothing: each machine then says what is wrong with it.
pub(crate) fn accelerator(node: &Node) -> &'static str {
    let config = node
        .path(node.config())
        .and_then(|path| Ok(fs::read_to_string(path)?));
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if virtualizes(&cpu) && Path::new("/dev/kvm").exists() && !emulates(&config.unwrap_or_default())
    {
        "kvm"
    } else {
        "tcg"
    }
}

/// Whether a CPU of the content of `/proc/cpuinfo` offers KVM.
fn virtualizes(cpu: &str) -> bool {
    cpu.lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// Whether the runtime's configuration forces emulation.
fn emulates(config: &str) -> bool {
    config.parse::<DocumentMut>().is_ok_and(|document| {
        let choice = document
            .get("qemu")
            .and_then(|qemu| qemu.get("accelerator"));
        choice.and_then(Item::as_str) == Some("tcg")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_is_forced_by_the_configuration() {
        assert!(emulates("[qemu]\naccelerator = \"tcg\" # slow\n"));
        assert!(emulates("qemu.accelerator = \"tcg\""));
        for config in [
            "",
            "# accelerator = \"tcg\"",
            "accelerator = \"tcg\"",
            "[qemu]\naccelerator = \"auto\"",
            "[qemu]\naccelerator = \"kvm\"",
            "qemu = \"tcg\"",
            "[qemu",
        ] {
            assert!(!emulates(config), "{config}");
        }
    }

    #[test]
    fn the_cpu_says_whether_it_virtualizes() {
        assert!(virtualizes("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualizes("flags : svm\n"));
        assert!(!virtualizes("flags : fpu\nvmx flags : ept\n"));
    }
}
