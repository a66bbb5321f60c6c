//! The files on the node: each release in a directory of its own, and links to the one in force.
//!
//! A running machine keeps using the release it was started from (the QEMU tree is the root of its
//! jail), so an upgrade never touches one in use; what nobody uses any more is removed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::files;
use crate::node::Node;

/// What a release consists of; each is a link in the prefix.
const PARTS: [&str; 2] = ["bin", "qemu"];

/// Copies `payload` to the node unless that very release is there, and puts it in force.
pub(crate) fn install(node: &Node, payload: &Path) -> Result<()> {
    let id =
        identify(payload).with_context(|| format!("read the files in {}", payload.display()))?;
    let prefix = node.path(node.prefix())?;
    let releases = prefix.join("releases");
    let release = releases.join(&id);
    if !release.exists() {
        tracing::info!(release = id, "copying the files to the node");
        let incoming = releases.join(format!(".{id}"));
        files::remove(&incoming)?;
        fs::create_dir_all(&incoming)?;
        for part in PARTS {
            files::copy_tree(&payload.join(part), &incoming.join(part))
                .with_context(|| format!("copy {part} to {}", incoming.display()))?;
        }
        fs::rename(&incoming, &release)?;
    }
    for part in PARTS {
        let link = prefix.join(part);
        files::relink(&Path::new("releases").join(&id).join(part), &link)
            .with_context(|| format!("put {} in force", link.display()))?;
    }
    remove_unused(&releases, &id);
    Ok(())
}

/// Removes every file of ours from the node.
pub(crate) fn remove(node: &Node) -> Result<()> {
    let prefix = node.path(node.prefix())?;
    files::remove(&prefix).with_context(|| format!("remove {}", prefix.display()))
}

/// A name that says what is inside: a hash of every path, mode and content.
fn identify(payload: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for part in PARTS {
        digest(&payload.join(part), Path::new(part), &mut hash)?;
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn digest(path: &Path, name: &Path, hash: &mut Sha256) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    hash.update(name.as_os_str().as_encoded_bytes());
    hash.update(meta.permissions().mode().to_le_bytes());
    if meta.is_dir() {
        let entries = fs::read_dir(path)?.map(|entry| entry.map(|e| e.file_name()));
        for entry in entries.collect::<io::Result<BTreeSet<_>>>()? {
            digest(&path.join(&entry), &name.join(&entry), hash)?;
        }
    } else if meta.is_symlink() {
        hash.update(fs::read_link(path)?.as_os_str().as_encoded_bytes());
    } else {
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
    }
    Ok(())
}

/// Removes releases that are neither in force nor mounted by any process of the node.
fn remove_unused(releases: &Path, in_force: &str) {
    let mounted = mounted_paths();
    for entry in fs::read_dir(releases).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let unused = name != in_force && !mounted.contains(name.to_string_lossy().as_ref());
        if unused && let Err(error) = files::remove(&entry.path()) {
            tracing::warn!(
                "an old release stays behind: {}: {error}",
                entry.path().display()
            );
        }
    }
}

/// The mount tables of all processes: a jail shows the release that is its root there.
fn mounted_paths() -> String {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let tables: BTreeSet<PathBuf> = processes
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .map(|entry| entry.path().join("mountinfo"))
        .collect();
    tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(dir: &Path, content: &str) -> PathBuf {
        let payload = dir.join(format!("payload-{content}"));
        for part in PARTS {
            fs::create_dir_all(payload.join(part)).unwrap();
            fs::write(payload.join(part).join("file"), content).unwrap();
        }
        payload
    }

    #[test]
    fn a_release_replaces_an_unused_one() {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::new(dir.path().join("host"), "/opt/kubevirt".into());
        install(&node, &payload(dir.path(), "one")).unwrap();
        install(&node, &payload(dir.path(), "two")).unwrap();
        install(&node, &payload(dir.path(), "two")).unwrap();
        let prefix = dir.path().join("host/opt/kubevirt");
        assert_eq!(fs::read_to_string(prefix.join("qemu/file")).unwrap(), "two");
        assert_eq!(fs::read_dir(prefix.join("releases")).unwrap().count(), 1);
        remove(&node).unwrap();
        assert!(!prefix.exists());
    }
}
