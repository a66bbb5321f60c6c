//! Inits of containers that an OCI runtime did not finish.
//!
//! Who kills the runtime while it makes a container leaves the container's init to the nearest
//! subreaper, and nobody waits for it there. It cannot stay: as long as one process of a PID namespace
//! has not been waited for, the kernel does not let the namespace's first one end
//! (`zap_pid_ns_processes`), and the pod's is its holder.

use std::fs;

use rustix::process::{Pid, WaitOptions, waitpid};

/// How runc calls the init of a container until it runs the container's own program.
const INIT: &str = "runc:[";

/// Waits for all children of this process that were such an init and have ended.
pub(crate) fn reap() {
    for pid in children() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        if stat.is_ok_and(|stat| is_ended_init(&stat)) {
            // Somebody else may have done so.
            let _ = Pid::from_raw(pid).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
        }
    }
}

/// The children of all threads; none where the kernel does not list them.
fn children() -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let words = |list: String| {
        let pids = list.split_whitespace().map(str::parse);
        pids.filter_map(Result::ok).collect::<Vec<_>>()
    };
    lists.flat_map(words).collect()
}

/// Whether a line of `/proc/PID/stat`, which has the name in brackets and the state after it, is one's.
fn is_ended_init(stat: &str) -> bool {
    let Some((name, rest)) = stat.rsplit_once(") ") else {
        return false;
    };
    let name = name.split_once('(').map(|(_, name)| name);
    name.is_some_and(|name| name.starts_with(INIT)) && rest.starts_with('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_init_that_has_ended_is_waited_for() {
        assert!(is_ended_init(
            "28854 (runc:[2:INIT]) Z 28655 28854 28854 0 -1"
        ));
        assert!(!is_ended_init(
            "28854 (runc:[2:INIT]) S 28655 28854 28854 0 -1"
        ));
        assert!(!is_ended_init(
            "28854 (qemu-system-x86) Z 28655 28854 28854 0 -1"
        ));
        assert!(!is_ended_init("28854 (a) (runc:[2:INIT]) Z 28655 28854"));
        assert!(!is_ended_init(""));
    }

    #[test]
    fn children_are_those_of_every_thread() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let listed = children();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(listed.contains(&pid), "{listed:?}");
    }
}
