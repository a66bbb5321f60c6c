//! What a pod has on the machine, and that nothing of it is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Pod;

impl Pod {
    /// Everything of this pod that is left on the machine but its own directories.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let list = |found: &mut Vec<String>, directory: PathBuf| {
            let entries = fs::read_dir(directory).into_iter().flatten();
            found.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        };
        list(&mut found, self.path("s"));
        for socket in self.sockets() {
            found.extend(Path::new(&socket).exists().then_some(socket));
        }
        list(&mut found, self.path("state/uids"));
        list(&mut found, self.path("state/runc/test"));
        for controller in ["memory", "cpu", "pids", "devices", "freezer", "unified"] {
            list(
                &mut found,
                Path::new("/sys/fs/cgroup")
                    .join(controller)
                    .join(&self.name),
            );
        }
        found.retain(|path| Path::new(path).is_dir() || !path.starts_with("/sys"));
        let own = self.directory.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&own))
                .map(str::to_owned),
        );
        found.extend(self.processes().into_iter().map(|(pid, _)| pid.to_string()));
        found
    }

    /// The sockets that the pod's shims have or had.
    fn sockets(&self) -> Vec<String> {
        let bundles = fs::read_dir(self.path("bundles")).into_iter().flatten();
        let mut found = Vec::new();
        for bundle in bundles.map(|bundle| bundle.unwrap().path()) {
            found.extend(fs::read_to_string(bundle.join("address")));
            if let Ok(note) = fs::read(bundle.join("kubevirt-inner.json")) {
                let note: Value = serde_json::from_slice(&note).unwrap();
                found.push(note["address"].as_str().unwrap().to_owned());
            }
        }
        found.sort();
        found.dedup();
        let path = |address: &String| address.trim_start_matches("unix://").to_owned();
        found.iter().map(path).collect()
    }

    /// Waits until nothing of the pod is left.
    pub(crate) async fn assert_clean(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.leftovers().is_empty() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    /// Processes with this pod's name in their arguments or control group.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let group = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let ours = line.contains(&self.name) || group.contains(&format!("/{}/", self.name));
            if ours && !line.is_empty() {
                found.push((pid, line.chars().take(100).collect()));
            }
        }
        found
    }

    /// The pid of the process whose arguments contain `text`.
    pub(crate) fn process(&self, text: &str) -> i32 {
        let all = self.processes();
        let found = all.iter().find(|(_, line)| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text} in {all:?}")).0
    }
}
