//! Installing: files, configuration, containerd, label; then keeping watch.
//!
//! Every step may be repeated: a second run changes nothing and restarts nothing. The node is
//! labelled last, and only when containerd has the runtime loaded and QEMU runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use toml_edit::{DocumentMut, Item};

use crate::config_files::ConfigFiles;
use crate::containerd::{self, Daemon, HANDLER, SOCKET};
use crate::node::Node;
use crate::{cluster, cri, files, in_root, release, restart};

/// How often the watch looks whether the runtime still works.
const WATCH: Duration = Duration::from_secs(60);

/// After how many failures in a row it takes the label back: a busy containerd may miss one.
const FAILURES: u32 = 3;

/// QEMU in its own tree.
pub(crate) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

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
    let mut failures = Failures::default();
    loop {
        tokio::select! {
            _ = end.recv() => return Ok(()),
            () = tokio::time::sleep(WATCH) => {}
        }
        if let Some(error) = failures.count(check(node).await) {
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

/// What containerd needs.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Restart,
    Edit,
}

/// The step for files that are (or not) `configured`, and a daemon that has (or not) `loaded` the
/// runtime. Without an answer nothing is known, and nothing may be touched: where the CRI plugin is
/// off, no restart would bring the runtime.
fn next_step(configured: bool, loaded: Result<bool>) -> Result<Step> {
    let loaded = loaded.context(
        "containerd is left as it is, because it does not serve CRI: \
         enable its CRI plugin (no \"cri\" in disabled_plugins) and restart it",
    )?;
    Ok(match (configured, loaded) {
        (false, _) => Step::Edit,
        (true, false) => Step::Restart,
        (true, true) => Step::Nothing,
    })
}

/// Brings our stanza into containerd and the daemon to load it; undone if the daemon refuses it.
async fn configure(node: &Node) -> Result<()> {
    let daemon = Daemon::find(node)?;
    let files = ConfigFiles::read(node, &daemon.config)?;
    let change = containerd::add(
        files.content().unwrap_or_default(),
        daemon.major,
        &node.shim(),
    )?;
    let loaded = cri::settled(&node.path(SOCKET)?, HANDLER).await;
    match next_step(files.are(&change), loaded)? {
        Step::Nothing => return Ok(()),
        Step::Restart => return load(node, &daemon).await,
        Step::Edit => {}
    }
    let edited = files
        .write(&change)
        .and_then(|()| daemon.verify_config(node));
    if let Err(error) = edited {
        return Err(undone(error, files.put_back()));
    }
    match load(node, &daemon).await {
        Ok(()) => Ok(()),
        // containerd took the file but does not serve pods with it: nobody else can undo this now.
        Err(error) => Err(undone(error, unload(node, &files).await)),
    }
}

/// Restarts the daemon and waits until it has the runtime.
async fn load(node: &Node, daemon: &Daemon) -> Result<()> {
    restart::restart(node, daemon).await?;
    restart::wait_for_handler(node, true).await
}

/// Puts containerd's configuration back and has the daemon load that.
async fn unload(node: &Node, files: &ConfigFiles) -> Result<()> {
    files.put_back()?;
    let restarted = match Daemon::find(node) {
        Ok(daemon) => restart::restart(node, &daemon).await,
        Err(error) => Err(error),
    };
    restarted.context("containerd's configuration is as it was, but the daemon has not loaded it")
}

/// Why the edit failed, and how undoing it went.
fn undone(error: Error, undoing: Result<()>) -> Error {
    match undoing {
        Ok(()) => error.context("containerd's configuration is as it was"),
        Err(undoing) => error.context(format!("undoing failed too ({undoing:#})")),
    }
}

/// The failures in a row that the watch has seen.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    /// Counts one look; the error of the last one if there were too many.
    fn count(&mut self, look: Result<()>) -> Option<Error> {
        let Err(error) = look else {
            self.0 = 0;
            return None;
        };
        self.0 += 1;
        if self.0 >= FAILURES {
            return Some(error);
        }
        tracing::warn!("the runtime does not work just now: {error:#}");
        None
    }
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
pub(crate) fn virtualizes(cpu: &str) -> bool {
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
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_daemon_that_does_not_answer_is_left_alone() {
        for configured in [false, true] {
            let error = next_step(configured, Err(anyhow!("unknown service"))).unwrap_err();
            let said = format!("{error:#}");
            assert!(said.contains("enable its CRI plugin"), "{said}");
            assert!(said.ends_with(": unknown service"), "{said}");
        }
    }

    #[test]
    fn only_a_daemon_without_the_runtime_is_restarted_for_it() {
        assert_eq!(next_step(true, Ok(true)).unwrap(), Step::Nothing);
        assert_eq!(next_step(true, Ok(false)).unwrap(), Step::Restart);
        for loaded in [false, true] {
            assert_eq!(next_step(false, Ok(loaded)).unwrap(), Step::Edit);
        }
    }

    #[test]
    fn undoing_never_hides_why_it_was_needed() {
        let said = |undoing| format!("{:#}", undone(anyhow!("not loaded"), undoing));
        assert_eq!(
            said(Ok(())),
            "containerd's configuration is as it was: not loaded"
        );
        assert_eq!(
            said(Err(anyhow!("is containerd running?"))),
            "undoing failed too (is containerd running?): not loaded"
        );
    }

    #[test]
    fn the_label_goes_only_after_failures_in_a_row() {
        let mut failures = Failures::default();
        for _ in 0..2 {
            for _ in 1..FAILURES {
                assert!(failures.count(Err(anyhow!("busy"))).is_none());
            }
            assert!(failures.count(Ok(())).is_none());
        }
        let given_up = (0..FAILURES).filter_map(|_| failures.count(Err(anyhow!("busy"))));
        assert_eq!(given_up.count(), 1);
    }

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
