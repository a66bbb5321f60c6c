//! `cluster dev-shim`: the developer's short cut to try a change of the shim without building and
//! installing images. Puts the files where the installer puts them, tells containerd the same, and
//! labels the nodes; a later `install` takes over from there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kubectl::{apply, kubectl};
use super::names::{ClusterName, Node};
use super::{containerd, place};
use crate::command;
use crate::image::qemu;
use crate::progress;

const SHIM: &str = "containerd-shim-kubevirt-v1";
/// Where the installer keeps its releases; ours is one of them, called `dev`.
const PREFIX: &str = "opt/kubevirt";

/// As in `runtimeclass/`, with the overhead of emulation.
const RUNTIME_CLASS: &str = r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: kubevirt
handler: kubevirt
overhead:
  podFixed:
    memory: 256Mi
scheduling:
  nodeSelector:
    kubevirt.io/schedulable: "true"
"#;

/// Builds the shim with cargo's profile `profile` and puts it into force on both nodes. Running
/// machines keep the shim that they were started by.
pub(crate) fn dev_shim(cluster: &ClusterName, profile: &str) -> Result<()> {
    let shim = build(profile)?;
    let qemu = qemu::tree()?;
    for node in Node::ALL {
        install(cluster, node, &shim, &qemu)
            .with_context(|| format!("put the shim on {}", node.name()))?;
        if configure(cluster, node)? {
            restart_containerd(cluster, node)?;
        }
        command::run(kubectl(cluster).args([
            "label",
            "--overwrite",
            "node",
            node.name(),
            "kubevirt.io/schedulable=true",
        ]))?;
    }
    apply(cluster, RUNTIME_CLASS)
}

fn build(profile: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args([
            "build",
            "--profile",
            profile,
            "--package",
            "containerd-shim-kubevirt",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        // Cargo shows its own progress, and its own errors.
        .stderr(Stdio::inherit());
    let messages = command::output(&mut cargo)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == SHIM)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no shim")
}

fn install(cluster: &ClusterName, node: Node, shim: &Path, qemu: &Path) -> Result<()> {
    let prefix = place::node_root(cluster, node)?.join(PREFIX);
    let bin = prefix.join("releases/dev/bin");
    fs::create_dir_all(&bin)?;
    // A rename: the old file may be running.
    let fresh = bin.join(".new");
    fs::copy(shim, &fresh)?;
    fs::rename(fresh, bin.join(SHIM))?;
    relink(&prefix, "bin", "dev")?;
    // A tree is the root of running machines' jails: another one goes to another place.
    let tree = qemu
        .parent()
        .and_then(Path::file_name)
        .context("QEMU's tree has no name")?;
    let tree = format!("dev-{}", tree.to_string_lossy());
    let target = prefix.join("releases").join(&tree).join("qemu");
    if !target.exists() {
        let fresh = target.with_extension("new");
        fs::create_dir_all(&fresh)?;
        command::run(Command::new("cp").arg("-aT").args([qemu, &fresh]))?;
        fs::rename(&fresh, &target)?;
    }
    relink(&prefix, "qemu", &tree)
}

fn relink(prefix: &Path, part: &str, release: &str) -> Result<()> {
    let fresh = prefix.join(format!(".{part}"));
    let _ = fs::remove_file(&fresh);
    symlink(Path::new("releases").join(release).join(part), &fresh)?;
    fs::rename(&fresh, prefix.join(part)).with_context(|| format!("link {part}"))
}

/// Adds the runtime to containerd's configuration; false if it is there already.
fn configure(cluster: &ClusterName, node: Node) -> Result<bool> {
    let root = place::node_root(cluster, node)?;
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    let file = inside(containerd::runtime_file(node));
    let old = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    if old.contains(".runtimes.kubevirt]") {
        return Ok(false);
    }
    let shim = format!("/{PREFIX}/bin/{SHIM}");
    write(&file, &containerd::with_runtime(node, &old, &shim))?;
    Ok(true)
}

fn write(file: &Path, content: &str) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(file, content).with_context(|| format!("write {}", file.display()))
}

/// Ends containerd; the node's supervisor starts it again.
fn restart_containerd(cluster: &ClusterName, node: Node) -> Result<()> {
    let pid =
        || command::output(place::on_node(cluster, node)?.args(["pidof", "-s", "containerd"]));
    let old = pid()?;
    command::run(place::on_node(cluster, node)?.args(["kill", old.trim()]))?;
    let again = progress::wait(Duration::from_secs(30), || {
        pid().is_ok_and(|new| new != old)
            && place::on_node(cluster, node)
                .and_then(|mut node| command::run(node.args(["ctr", "version"])))
                .is_ok()
    });
    if !again {
        bail!("{}'s containerd did not come back", node.name());
    }
    Ok(())
}
