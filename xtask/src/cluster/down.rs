//! `cluster down`: takes back everything that `up` made, from whatever state it is in. Goes on when
//! a part fails, and reports all that failed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::names::{ClusterName, Place};
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
    // The nodes first: with the control plane gone, they would only complain.
    for place in Place::ALL.into_iter().rev() {
        note(place::kill(cluster, place));
    }
    note(detach_loop_devices(&cluster.dir()));
    note(network::remove(cluster));
    if cluster.dir().exists() {
        note(
            fs::remove_dir_all(cluster.dir())
                .with_context(|| format!("remove {}", cluster.dir().display())),
        );
    }
    if lock::is_last() {
        note(kernel::restore_settings());
        note(network::remove_empty_netns_dir());
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
/// directory would stay. Found by inode, because a path depends on who looks.
fn detach_loop_devices(dir: &Path) -> Result<()> {
    let Ok(home) = fs::metadata(dir) else {
        return Ok(());
    };
    let device = home.dev();
    let home = format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let table = output(&mut words(
        "losetup --list --noheadings -O NAME,BACK-INO,BACK-MAJ:MIN",
    ))?;
    for line in table.lines() {
        let [name, inode, file_system] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            continue;
        };
        if file_system == home
            && !output(words("find").arg(dir).args(["-xdev", "-inum", inode]))?.is_empty()
        {
            run(&mut words(&format!("losetup --detach {name}")))?;
        }
    }
    Ok(())
}
