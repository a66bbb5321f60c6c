//! The machines that run on this node: one shim process each.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::{Node, SHIM};

/// How long the shims get to be gone, and containerd to tidy up after them.
const END_BOUND: Duration = Duration::from_secs(30);

/// Process ids of the shims on this node; the installer shares the node's PID namespace.
///
/// # Errors
/// The processes cannot be listed.
pub(crate) fn shims(node: &Node) -> Result<Vec<Pid>> {
    let root = identity(node.root()).context("look at the node's root directory")?;
    let processes = fs::read_dir("/proc").context("list the node's processes")?;
    Ok(processes
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .map(|pid| (pid, entry.path()))
        })
        .filter(|(_, directory)| is_shim(directory, root))
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect())
}

/// A shim's server: its executable has the shim's name, it serves (`-id`), unlike the holder, and
/// its root directory is the node's.
///
/// A process of a container may have the first two, but has a root of its own. The mount namespace
/// would tell less: where containerd has a private one, it gets another with each restart, and the
/// shims that it started before stay in the old one.
fn is_shim(process: &Path, root: (u64, u64)) -> bool {
    let executable = fs::read_link(process.join("exe")).unwrap_or_default();
    let name = executable.file_name().unwrap_or_default().to_string_lossy();
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    name.trim_end_matches(" (deleted)") == SHIM
        && arguments
            .split(|&byte| byte == 0)
            .any(|argument| argument == b"-id")
        && identity(&process.join("root")).is_ok_and(|own| own == root)
}

/// What tells a directory from any other, however it is reached: file system and inode.
fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(directory)?;
    Ok((meta.dev(), meta.ino()))
}

/// Ends every machine and waits until containerd has cleaned up: with its shim, the kernel ends the
/// machine. Says how many are left after a bounded time.
pub(crate) async fn end_all(node: &Node) -> Result<usize> {
    let deadline = tokio::time::Instant::now() + END_BOUND;
    loop {
        let left = shims(node)?;
        if left.is_empty() || tokio::time::Instant::now() > deadline {
            return Ok(left.len());
        }
        for pid in left {
            // It may be gone by now, which is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A process as `/proc` shows it.
    fn process(dir: &Path, name: &str, exe: &str, cmdline: &str, root: &Path) -> PathBuf {
        let process = dir.join(name);
        fs::create_dir(&process).unwrap();
        symlink(exe, process.join("exe")).unwrap();
        symlink(root, process.join("root")).unwrap();
        fs::write(process.join("cmdline"), cmdline).unwrap();
        process
    }

    #[test]
    fn only_shims_of_the_node_itself_count() {
        let dir = tempfile::tempdir().unwrap();
        let container = tempfile::tempdir().unwrap();
        let node = identity(dir.path()).unwrap();
        let path = format!("/opt/kubevirt/releases/x/bin/{SHIM}");
        let deleted = format!("{path} (deleted)");
        let serves = "shim\0-namespace\0k8s.io\0-id\0x\0";
        for (name, exe, cmdline, root, expected) in [
            ("1", path.as_str(), serves, dir.path(), true),
            ("2", deleted.as_str(), serves, dir.path(), true),
            ("3", path.as_str(), serves, container.path(), false),
            ("4", path.as_str(), "shim\0hold\0", dir.path(), false),
            ("5", "/usr/bin/other", serves, dir.path(), false),
            ("6", path.as_str(), serves, Path::new("/gone"), false),
        ] {
            let process = process(dir.path(), name, exe, cmdline, root);
            assert_eq!(is_shim(&process, node), expected, "process {name}");
        }
    }
}
