//! Imports image archives into the nodes' containerds, so that pods find them without a registry.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};

use super::names::{ClusterName, Node};
use super::place;
use crate::progress::Step;

/// Imports OCI archives on all nodes. Importing one again changes nothing.
pub(crate) fn load<P: AsRef<Path> + Sync>(cluster: &ClusterName, archives: &[P]) -> Result<()> {
    for archive in archives {
        let archive = archive.as_ref();
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let step = Step::begin(format!("Loading {name}"));
        thread::scope(|scope| {
            let imports = Node::ALL.map(|node| scope.spawn(move || import(cluster, node, archive)));
            imports
                .into_iter()
                .try_for_each(|import| match import.join() {
                    Ok(result) => result,
                    Err(_) => bail!("the import of {} panicked", archive.display()),
                })
        })?;
        step.done();
    }
    Ok(())
}

/// The node sees other files than the host, so the archive goes in by stdin.
fn import(cluster: &ClusterName, node: Node, archive: &Path) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    let done = place::on_node(cluster, node)?
        .args(["ctr", "--namespace=k8s.io", "images", "import", "-"])
        .stdin(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("run ctr")?;
    if !done.status.success() {
        bail!(
            "import {} on {}: {}",
            archive.display(),
            node.name(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
