//! Where builds are kept between runs, outside the tree: a second run is quick, and nothing relies
//! on it being there.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// `${XDG_CACHE_HOME:-$HOME/.cache}/kubevirt-shim/<name>`, created.
pub(crate) fn dir(name: &str) -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let dir = base.join("kubevirt-shim").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// How many hex digits of a [`Key`] make a directory's name: 64 bits, plenty for one machine.
const KEY_DIGITS: usize = 16;

/// A hash of all that a build is made from: the same key, the same result.
#[derive(Clone, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds `content`, so that no two lists of additions look alike.
    pub(crate) fn add(mut self, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
        self
    }

    /// Adds the names and contents of all files below `dir`.
    pub(crate) fn add_tree(mut self, dir: &Path) -> Result<Self> {
        let read = || -> std::io::Result<Vec<_>> { std::fs::read_dir(dir)?.collect() };
        let mut entries = read().with_context(|| format!("read {}", dir.display()))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            self = self.add(entry.file_name().as_encoded_bytes());
            self = match entry.file_type()?.is_dir() {
                true => self.add_tree(&entry.path())?,
                false => self.add(std::fs::read(entry.path())?),
            };
        }
        Ok(self)
    }

    /// The hash as part of a file's name.
    pub(crate) fn name(self) -> String {
        let mut name = hex::encode(self.0.finalize());
        name.truncate(KEY_DIGITS);
        name
    }
}

/// The directory `<kind>/<name>-<key>`. Where it is missing, `build` fills it, and the directories
/// that older keys of the same name left behind go away. Never seen half built, and never built by
/// two at a time.
pub(crate) fn entry(
    kind: &str,
    name: &str,
    key: Key,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let base = dir(kind)?;
    let lock = base.join(format!(".{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
    lock.lock()
        .with_context(|| format!("wait for another build of {name}"))?;

    let key = key.name();
    let target = base.join(format!("{name}-{key}"));
    if target.exists() {
        return Ok(target);
    }
    let half = base.join(format!(".{name}.building"));
    remove(&half)?;
    std::fs::create_dir(&half).with_context(|| format!("create {}", half.display()))?;
    build(&half)?;
    let is_older = |file: &str| {
        file.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|old| old.len() == KEY_DIGITS && old != key)
    };
    for old in std::fs::read_dir(&base)?.flatten() {
        if old.file_name().to_str().is_some_and(is_older) {
            remove(&old.path())?;
        }
    }
    std::fs::rename(&half, &target).with_context(|| format!("create {}", target.display()))?;
    Ok(target)
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_join_to_the_same_text_have_different_keys() {
        let key = |parts: &[&str]| parts.iter().fold(Key::default(), Key::add).name();
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
    }
}
