//! One change of a cluster at a time: the clusters share a directory, some kernel settings and the
//! search for a free port.

use std::fs;
use std::fs::File;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::names::ClusterName;

/// Held while a cluster changes.
pub(crate) type Lock = Flock<File>;

/// Waits for everybody else who changes a cluster.
pub(crate) fn exclusive() -> Result<Lock> {
    let base = ClusterName::base();
    fs::create_dir_all(base)
        .with_context(|| format!("create {} (the bench needs root)", base.display()))?;
    let file = File::open(base)?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    eprintln!("Waiting for another `cargo xtask cluster` to finish ...");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {}", base.display()))
}

/// Whether no cluster is left.
pub(crate) fn is_last() -> bool {
    fs::read_dir(ClusterName::base())
        .is_ok_and(|entries| entries.flatten().all(|entry| !entry.path().is_dir()))
}

/// Removes the directory of all clusters, and its parent if nobody else uses it.
pub(crate) fn remove_base(lock: Lock) -> Result<()> {
    let base = ClusterName::base();
    fs::remove_dir(base).with_context(|| format!("remove {}", base.display()))?;
    if let Some(parent) = base.parent()
        && fs::read_dir(parent).is_ok_and(|mut entries| entries.next().is_none())
    {
        fs::remove_dir(parent).with_context(|| format!("remove {}", parent.display()))?;
    }
    drop(lock);
    Ok(())
}
