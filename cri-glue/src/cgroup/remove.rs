//! Removing a control group with the processes in it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Cgroup, CgroupError, Version};

/// How often a group that is not empty yet is tried again, 10 ms apart: a process that was killed
/// leaves its group when it is torn down, which takes the longer the more memory it had.
const TRIES: u32 = 500;

impl Cgroup {
    /// Ends the processes in the group, frozen ones too, and removes it from all hierarchies. A group
    /// that is not there is removed already.
    pub fn remove(&self) -> Result<(), CgroupError> {
        // Never the root, whatever a path says.
        let plain = |part| matches!(part, Component::Normal(_));
        if self.path.as_os_str().is_empty() || !self.path.components().all(plain) {
            return Ok(());
        }
        for path in self.directories() {
            remove(&path).map_err(|source| CgroupError::Remove { path, source })?;
        }
        Ok(())
    }

    fn directories(&self) -> Vec<PathBuf> {
        let hierarchies = match self.version {
            Version::V2 => vec![self.mount.clone()],
            Version::V1 => fs::read_dir(&self.mount)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect(),
        };
        let paths = hierarchies
            .into_iter()
            .map(|hierarchy| hierarchy.join(&self.path));
        paths.filter(|path| path.is_dir()).collect()
    }
}

fn remove(path: &Path) -> io::Result<()> {
    thaw(path);
    for _ in 0..TRIES {
        kill_all(path);
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
    fs::remove_dir(path)
}

/// Lets frozen processes end: an OCI runtime freezes a group of version 1 while it changes the rules of
/// its devices, and may die over it.
fn thaw(path: &Path) {
    let state = OpenOptions::new()
        .write(true)
        .open(path.join("freezer.state"));
    if let Ok(mut state) = state {
        // Whatever stays frozen keeps the group from being removed, which is told.
        let _ = state.write_all(b"THAWED");
    }
}

fn kill_all(path: &Path) {
    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let pids = pids
        .lines()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    for pid in pids {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_never_removed() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("memory/a")).unwrap();
        for path in ["", "/", "a/..", "../a"] {
            let group = Cgroup::under(mount.path(), Version::V1, Path::new(path));
            group.remove().unwrap();
        }
        assert!(mount.path().join("memory/a").exists());
        Cgroup::under(mount.path(), Version::V1, Path::new("/a"))
            .remove()
            .unwrap();
        assert!(!mount.path().join("memory/a").exists());
        assert!(mount.path().join("memory").exists());
    }
}
