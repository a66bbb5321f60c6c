//! `cluster down`: takes back everything that `up` made, from whatever state it is in. Goes on when
//! a part fails, and reports all that failed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{major, minor};

use super::names::{ClusterName, Node, Place};
use super::{kernel, lock, network, place};
use crate::command::{output, run, words};
use crate::progress::Step;

/// Takes the cluster down and removes all its files.
pub(crate) fn down(cluster: &ClusterName) -> Result<()> {
    let lock = lock::exclusive()?;
    let step = Step::begin(format!("Taking cluster {cluster} down"));
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{error:#}"));
        }
    };
    let of_nodes = file_systems_of_nodes(cluster);
    // The nodes first: with the control plane gone, they would only complain.
    for place in Place::ALL.into_iter().rev() {
        note(place::kill(cluster, place));
    }
    note(detach_loop_devices(&cluster.dir(), &of_nodes));
    note(network::remove(cluster));
    if cluster.dir().exists() {
        note(
            fs::remove_dir_all(cluster.dir())
                .with_context(|| format!("remove {}", cluster.dir().display())),
        );
    }
    if lock::is_last() {
        note(kernel::restore_settings());
        note(network::remove_netns_dir());
        note(lock::remove_base(lock));
    }
    if !failures.is_empty() {
        bail!(
            "not everything could be taken back:\n{}",
            failures.join("\n")
        );
    }
    step.done();
    Ok(())
}

/// Loop devices belong to the machine, not to a namespace: those whose file lies in the cluster's
/// directory, or on a file system that only a node had mounted, would stay. Files are found by
/// inode, because a path depends on who looks.
fn detach_loop_devices(dir: &Path, of_nodes: &BTreeSet<String>) -> Result<()> {
    let Ok(home) = fs::metadata(dir) else {
        return Ok(());
    };
    let home = format!("{}:{}", major(home.dev()), minor(home.dev()));
    let table = output(&mut words(
        "losetup --list --noheadings -O NAME,BACK-INO,BACK-MAJ:MIN",
    ))?;
    for line in table.lines() {
        let [name, inode, file_system] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            continue;
        };
        let below_dir = || -> Result<bool> {
            let mut find = words("find");
            find.arg(dir).args(["-xdev", "-inum", inode]);
            Ok(!output(&mut find)?.is_empty())
        };
        if of_nodes.contains(file_system) || (file_system == home && below_dir()?) {
            run(&mut words(&format!("losetup --detach {name}")))?;
        }
    }
    Ok(())
}

/// Device numbers of the file systems that the nodes have mounted and the host has not.
fn file_systems_of_nodes(cluster: &ClusterName) -> BTreeSet<String> {
    let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let host = devices(&read("self"));
    Node::ALL
        .into_iter()
        .filter_map(|node| place::supervisor(cluster, Place::Node(node)))
        .flat_map(|supervisor| devices(&read(&supervisor.pid().to_string())))
        .filter(|device| !host.contains(device))
        .collect()
}

/// The `major:minor` fields of a `mountinfo`.
fn devices(mountinfo: &str) -> BTreeSet<String> {
    let device = |line: &str| line.split(' ').nth(2).map(str::to_owned);
    mountinfo.lines().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_mountinfo() {
        let text = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    30 22 0:82 / /etc rw - overlay overlay rw\n\
                    31 22 254:0 /x /opt rw - ext4 /dev/vda rw\n";
        assert_eq!(
            devices(text),
            ["0:82", "254:0"].map(String::from).into_iter().collect()
        );
    }
}
