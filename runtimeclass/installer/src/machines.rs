//! The machines that run on this node: one shim process each.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::SHIM;

/// How long the shims get to be gone, and containerd to tidy up after them.
const END_BOUND: Duration = Duration::from_secs(30);

/// Process ids of the shims on this node; the installer shares the node's PID namespace.
pub(crate) fn shims() -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .parse()
                .ok()
                .map(|pid| (pid, entry.path()))
        })
        .filter(|(_, directory)| is_shim(directory))
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect()
}

/// A shim's server: its executable has the shim's name, and it serves (`-id`), unlike the holder.
fn is_shim(process: &Path) -> bool {
    let executable = fs::read_link(process.join("exe")).unwrap_or_default();
    let name = executable.file_name().unwrap_or_default().to_string_lossy();
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    name.trim_end_matches(" (deleted)") == SHIM
        && arguments
            .split(|&byte| byte == 0)
            .any(|argument| argument == b"-id")
}

/// Ends every machine and waits until containerd has cleaned up: with its shim, the kernel ends the
/// machine. Says how many are left after a bounded time.
pub(crate) async fn end_all() -> usize {
    let deadline = tokio::time::Instant::now() + END_BOUND;
    loop {
        let left = shims();
        if left.is_empty() || tokio::time::Instant::now() > deadline {
            return left.len();
        }
        for pid in left {
            // It may be gone by now, which is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
