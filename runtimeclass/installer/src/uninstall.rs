//! Taking it all back: label, containerd's configuration, files.
//!
//! Refused while machines run on the node, unless forced: then they are ended first. Every step may
//! be repeated.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::config_files::ConfigFiles;
use crate::containerd::{self, Daemon, HANDLER, SOCKET};
use crate::node::Node;
use crate::{cluster, cri, files, machines, release, restart};

/// How long a machine that was bound to this node before the label went may take to show.
const SETTLE: Duration = Duration::from_secs(3);

/// What is ours on the node beside the files that were installed: the runtime's configuration, and
/// its state, which is empty once no machine runs.
const OWN_DIRECTORIES: [&str; 2] = ["/etc/kubevirt", "/run/kubevirt"];

/// Uninstalls from the node `name`, and returns when the process is asked to end.
///
/// # Errors
/// Machines still run and `force` is not set; or a step failed, named in one sentence.
pub(crate) async fn run(node: &Node, force: bool, name: &str) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let client = cluster::connect().await?;
    refuse_machines(node, force)?;
    cluster::unlabel(&client, name).await?;
    tokio::time::sleep(SETTLE).await;
    if let Err(error) = refuse_machines(node, force) {
        // Nothing else was touched: the node goes on serving machines.
        cluster::label(&client, name, crate::install::accelerator(node)).await?;
        return Err(error);
    }
    let left = machines::end_all(node).await?;
    if left > 0 {
        bail!("{left} machines on this node could not be ended");
    }
    restore(node).await?;
    release::remove(node)?;
    for directory in OWN_DIRECTORIES {
        let directory = node.path(directory)?;
        files::remove(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    tracing::info!(node = name, "the runtime is gone from this node");
    end.recv().await;
    Ok(())
}

/// Whether nothing of ours is left on the node.
pub(crate) async fn check(node: &Node) -> Result<()> {
    if node.path(node.prefix())?.exists() {
        bail!("{} is still on the node", node.prefix().display());
    }
    if cri::has_handler(&node.path(SOCKET)?, HANDLER).await? {
        bail!("containerd still has the runtime {HANDLER} loaded");
    }
    Ok(())
}

fn refuse_machines(node: &Node, force: bool) -> Result<()> {
    let running = machines::shims(node)?.len();
    if running > 0 && !force {
        bail!("{running} machines run on this node: stop them, or set FORCE=true to end them");
    }
    Ok(())
}

/// Takes our stanza out of containerd's configuration and has the daemon load it.
async fn restore(node: &Node) -> Result<()> {
    let daemon = Daemon::find(node)?;
    let files = ConfigFiles::read(node, &daemon.config)?;
    let main = files
        .content()
        .map(|content| {
            without_us(
                node,
                daemon.major,
                content,
                files.original(),
                files.others(),
            )
        })
        .transpose()?
        .flatten();
    files.take_out(main.as_deref())?;
    let loaded = cri::settled(&node.path(SOCKET)?, HANDLER)
        .await
        .context("containerd does not say whether it still has the runtime loaded")?;
    if loaded {
        restart::restart(node, &daemon).await?;
        restart::wait_for_handler(node, false).await?;
    }
    files.forget()
}

/// The main file as it is to be. If nobody changed it since, it is the original to the byte, or
/// nothing if there was none; else what it is now without our stanza. If we made it import the
/// drop-ins and `others` came to rely on that, it is not the original either.
fn without_us(
    node: &Node,
    major: u32,
    content: &str,
    original: Option<&str>,
    others: bool,
) -> Result<Option<String>> {
    if let Some(original) = original {
        let ours = containerd::add(original, major, &node.shim())?;
        let relied_on = others && containerd::imports_since(original, content)?;
        if ours.main == content && !relied_on {
            return Ok((!original.is_empty()).then(|| original.to_owned()));
        }
    }
    Ok(Some(containerd::remove(content, original, others)?.main))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPORTS: &str = "imports = [\"/etc/containerd/conf.d/*.toml\"]\n";

    /// `original` after an installation and its end.
    fn restored(original: &str, major: u32, others: bool) -> Option<String> {
        let node = Node::new("/nowhere".into(), "/opt/kubevirt".into());
        let ours = containerd::add(original, major, &node.shim()).unwrap();
        without_us(&node, major, &ours.main, Some(original), others).unwrap()
    }

    #[test]
    fn a_file_that_nobody_changed_is_restored_to_the_byte() {
        for original in ["version = 2\n# mine\n", "root = \"/x\" # no version\n"] {
            for major in [1, 2] {
                assert_eq!(restored(original, major, false).unwrap(), original);
            }
            // 1.x imports nothing for us, so that others' drop-ins are none of our business.
            assert_eq!(restored(original, 1, true).unwrap(), original);
        }
        assert_eq!(restored("", 2, false), None);
    }

    #[test]
    fn an_import_that_others_rely_on_stays() {
        let restored_2 = |original| restored(original, 2, true).unwrap();
        assert_eq!(
            restored_2("version = 3\n"),
            format!("version = 3\n{IMPORTS}")
        );
        assert_eq!(restored_2(""), format!("version = 3\n{IMPORTS}"));
        assert_eq!(restored_2(IMPORTS), IMPORTS, "it was there before us");
    }
}
