//! What runs of these tests left that were killed: their pods are named by their pids.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use cri_glue::cgroup::Cgroup;

/// What the names of pods begin with.
pub(crate) const PREFIX: &str = "glue";

/// Removes control groups and network namespaces of runs that are no more, once in this run.
pub(crate) fn clean_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep);
}

fn sweep() {
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    };
    let mount = Path::new("/sys/fs/cgroup");
    let mut dead = BTreeSet::new();
    // With one hierarchy, the groups are at once below the mount.
    for hierarchy in names(mount) {
        dead.extend(names(&mount.join(&hierarchy)));
        dead.insert(hierarchy);
    }
    dead.extend(names(Path::new("/run/netns")));
    dead.retain(|name| is_dead(name));
    for name in dead {
        for path in [format!("/{name}/container"), format!("/{name}")] {
            // Another run may be doing the same.
            let _ = Cgroup::of_spec(Path::new(&path)).remove();
        }
        if Path::new("/run/netns").join(&name).exists() {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Whether `name` is that of a pod whose run has ended.
fn is_dead(name: &str) -> bool {
    let run = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('x'));
    let Some((pid, number)) = run else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number(pid) && is_number(number) && !Path::new("/proc").join(pid).exists()
}

#[test]
fn what_a_killed_run_left_is_removed() {
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let (dead, alive) = (ended.id(), std::process::id());
    let groups = [(dead, false), (alive, true)].map(|(pid, stays)| {
        let name = format!("{PREFIX}{pid}x99999");
        let mount = Path::new("/sys/fs/cgroup");
        let memory = mount.join("memory");
        let hierarchy = if memory.is_dir() { &memory } else { mount };
        let group = hierarchy.join(name);
        fs::create_dir_all(group.join("container")).unwrap();
        (group, stays)
    });
    sweep();
    let found = groups.each_ref().map(|(group, _)| group.exists());
    for (group, _) in &groups {
        let _ = fs::remove_dir(group.join("container"));
        let _ = fs::remove_dir(group);
    }
    assert_eq!(found, groups.map(|(_, stays)| stays));
}
