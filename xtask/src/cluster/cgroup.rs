//! The cgroups of one place, in every hierarchy that the machine has (v1, hybrid or v2). Only
//! groups under the cluster's own name are made, entered or removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress;

const ROOT: &str = "/sys/fs/cgroup";

/// Child group for the place's daemons, beside kubelet's `kubepods`: in v2 a group with children
/// that have controllers may hold no process itself.
pub(crate) const DAEMONS: &str = "daemons";

/// Makes the group `name` and its child for daemons in every hierarchy.
pub(crate) fn create(name: &str) -> Result<()> {
    let unified = is_unified();
    if unified {
        delegate(Path::new(ROOT))?;
    }
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        for dir in [group.clone(), group.join(DAEMONS)] {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            fill_cpuset(&dir)?;
        }
        if unified {
            delegate(&group)?;
        }
    }
    Ok(())
}

/// Moves the calling process into the daemons' group below `name`.
pub(crate) fn enter(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let file = hierarchy.join(name).join(DAEMONS).join("cgroup.procs");
        // 0 is the writer itself, whatever its PID is in which namespace.
        fs::write(&file, "0").with_context(|| format!("enter {}", file.display()))?;
    }
    Ok(())
}

/// Removes the group `name` and everything below it, in every hierarchy.
///
/// # Errors
/// When a process is still in one of them after half a minute.
pub(crate) fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        let gone = progress::wait(Duration::from_secs(30), || {
            remove_tree(&group).is_ok() || !group.exists()
        });
        if !gone {
            bail!(
                "{} cannot be removed: a process is still in it",
                group.display()
            );
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The root of each hierarchy: one in v2, one per controller in v1.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if is_unified() {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let mut roots = Vec::new();
    for entry in fs::read_dir(ROOT).with_context(|| format!("read {ROOT}"))? {
        let entry = entry?;
        // `cpu` may be a link to `cpu,cpuacct`: the same hierarchy under another name.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            roots.push(entry.path());
        }
    }
    Ok(roots)
}

/// Hands every controller of a v2 group to its children.
fn delegate(group: &Path) -> Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    let file = group.join("cgroup.subtree_control");
    for controller in controllers.split_whitespace() {
        fs::write(&file, format!("+{controller}"))
            .with_context(|| format!("enable {controller} in {}", file.display()))?;
    }
    Ok(())
}

/// A new v1 cpuset group is empty, and nothing can enter it before it has CPUs and memory nodes.
fn fill_cpuset(group: &Path) -> Result<()> {
    let Some(parent) = group.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, above) = (group.join(file), parent.join(file));
        if is_unified() || !own.exists() || !fs::read_to_string(&own)?.trim().is_empty() {
            continue;
        }
        fs::write(&own, fs::read_to_string(&above)?)
            .with_context(|| format!("fill {}", own.display()))?;
    }
    Ok(())
}
