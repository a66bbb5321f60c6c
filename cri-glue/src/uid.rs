//! Unprivileged uids of the node: every machine whose pod would run it as root gets one of its own.
//!
//! A uid is taken by making a symbolic link of its number, whose target is the owner's name: that
//! is one step for the kernel, and fails if somebody else has it. The directory does not outlive
//! the running system.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::config::NodeConfig;
use crate::record::{Record, Step};

/// QEMU's user, where its pod would run it as root in a user namespace of its own: there no other pod
/// can be the same, and this is QEMU's in the controller's pods too.
pub const IN_USER_NAMESPACE: u32 = 107;

/// Why no uid was found.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum UidError {
    #[error("cannot take a uid in {}: {source}", directory.display())]
    Take {
        directory: PathBuf,
        source: io::Error,
    },
    #[error(
        "all {count} uids from {first} on are taken: raise jail.uid-count in the node's \
         configuration"
    )]
    Exhausted { first: u32, count: u32 },
    #[error(
        "the pod's user {uid} is one of those that the node gives to machines, {first} to {last}: \
         set runAsUser to another, or jail.first-uid in the node's configuration"
    )]
    Reserved { uid: u32, first: u32, last: u32 },
}

/// Refuses a pod's user that may be another machine's.
pub fn check(node: &NodeConfig, uid: u32) -> Result<(), UidError> {
    let first = node.jail.first_uid;
    let last = first + (node.jail.uid_count - 1);
    if (first..=last).contains(&uid) {
        return Err(UidError::Reserved { uid, first, last });
    }
    Ok(())
}

/// Takes a uid for the container `owner`. Containers of one sandbox begin to look at the same
/// place, so that a machine that restarts keeps its uid unless somebody else took it meanwhile.
pub fn take(
    node: &NodeConfig,
    sandbox: &str,
    owner: &str,
    record: &mut Record,
) -> Result<u32, UidError> {
    let directory = node.runtime.state.join("uids");
    let (first, count) = (node.jail.first_uid, node.jail.uid_count);
    let fail = |source| UidError::Take {
        directory: directory.clone(),
        source,
    };
    fs::create_dir_all(&directory).map_err(fail)?;
    let mut hasher = DefaultHasher::new();
    sandbox.hash(&mut hasher);
    let start = hasher.finish() % u64::from(count);
    let start = u32::try_from(start).unwrap_or_default();
    for uid in (start..count).chain(0..start).map(|offset| first + offset) {
        let path = directory.join(uid.to_string());
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let step = Step::Uid {
            path: path.clone(),
            owner: owner.to_owned(),
        };
        record.note(&step).map_err(fail)?;
        match symlink(owner, &path) {
            Ok(()) => return Ok(uid),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Err(UidError::Exhausted { first, count })
}

/// Gives the uid at `path` back, if it is the owner's.
pub(crate) fn give_back(path: &Path, owner: &str) -> io::Result<()> {
    match fs::read_link(path) {
        Ok(target) if target == Path::new(owner) => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    #[test]
    fn a_uid_has_one_owner() {
        let state = tempfile::tempdir().unwrap();
        let mut node = NodeConfig::default();
        node.runtime.state = state.path().to_owned();
        node.jail.first_uid = 1000;
        node.jail.uid_count = 3;
        let bundles: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let take = |sandbox, index: usize| {
            let mut record = Record::open(bundles[index].path()).unwrap();
            take(&node, sandbox, &index.to_string(), &mut record)
        };
        let first = take("a", 0).unwrap();
        let mut all = vec![first, take("a", 1).unwrap(), take("b", 2).unwrap()];
        assert!(matches!(take("c", 3), Err(UidError::Exhausted { .. })));
        all.sort();
        assert_eq!(all, [1000, 1001, 1002]);
        record::undo(bundles[0].path()).unwrap();
        assert_eq!(take("a", 3).unwrap(), first);
        record::undo(bundles[0].path()).unwrap();
        assert!(
            matches!(take("c", 0), Err(UidError::Exhausted { .. })),
            "not ours to give back"
        );
    }
}
