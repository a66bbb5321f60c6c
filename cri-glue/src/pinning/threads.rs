//! QEMU's threads, by the ids that it knows itself.

use std::fs;
use std::io;
use std::path::Path;

/// A thread of a process in a PID namespace below ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    /// Its id here.
    pub(super) id: i32,
    /// Its id in its own namespace.
    pub(super) inner: i32,
}

/// The threads of the process `pid`; those that end meanwhile are left out.
pub(super) fn of(pid: u32) -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if let (Some(id), Some(inner)) = (id, inner(&status)) {
            threads.push(Thread { id, inner });
        }
    }
    Ok(threads)
}

/// The id in the innermost namespace (proc_pid_status(5), *NSpid*).
fn inner(status: &str) -> Option<i32> {
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_id_is_taken() {
        assert_eq!(inner("Name:\tx\nNSpid:\t4242\t17\t5\nSigQ:\t1\n"), Some(5));
        assert_eq!(inner("NSpid:\t4242\n"), Some(4242));
        assert_eq!(inner("Name:\tx\n"), None);
        let own = std::process::id();
        let threads = of(own).unwrap();
        assert!(threads.iter().any(|thread| thread.id == own as i32));
        assert!(of(u32::MAX).is_err());
    }
}
