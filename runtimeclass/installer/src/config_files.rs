//! containerd's configuration on the node: the main file, our drop-in, and the copy of the main file
//! as it was before us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::containerd::{Change, DROP_IN};
use crate::files;
use crate::node::Node;

/// The files as this process reaches them, and what was in them when it looked.
pub(crate) struct ConfigFiles {
    main: PathBuf,
    drop_in: PathBuf,
    backup: PathBuf,
    content: Option<String>,
    dropped_in: Option<String>,
    original: Option<String>,
    others: bool,
}

impl ConfigFiles {
    /// Reads what is there; `main` is the main file, as a path of the node.
    ///
    /// Where a link stands for one of the files, its target is meant, so that links stay links.
    pub(crate) fn read(node: &Node, main: &Path) -> Result<Self> {
        let backup = node.path(backup_of(main))?;
        let main = node.path(main)?;
        let drop_in = node.path(DROP_IN)?;
        Ok(Self {
            content: read(&main)?,
            dropped_in: read(&drop_in)?,
            original: read(&backup)?,
            others: has_others(node)?,
            main,
            drop_in,
            backup,
        })
    }

    /// Content of the main file; none if there is no such file.
    pub(crate) fn content(&self) -> Option<&str> {
        self.content.as_deref()
    }

    /// The main file as it was before us, if that is known; empty if there was none.
    pub(crate) fn original(&self) -> Option<&str> {
        self.original.as_deref()
    }

    /// Whether somebody else has a drop-in beside ours.
    pub(crate) fn others(&self) -> bool {
        self.others
    }

    /// Whether the files are as `change` wants them.
    pub(crate) fn are(&self, change: &Change) -> bool {
        self.content.as_deref() == Some(&change.main) && self.dropped_in == change.drop_in
    }

    /// Makes the files as `change` wants them, and keeps the main file as it was before us, once.
    pub(crate) fn write(&self, change: &Change) -> Result<()> {
        if self.original.is_none() {
            put(&self.backup, Some(self.content().unwrap_or_default()))?;
        }
        put(&self.drop_in, change.drop_in.as_deref())?;
        put(&self.main, Some(&change.main))
    }

    /// Undoes [`Self::write`], its copy included.
    pub(crate) fn put_back(&self) -> Result<()> {
        put(&self.main, self.content.as_deref())?;
        put(&self.drop_in, self.dropped_in.as_deref())?;
        put(&self.backup, self.original.as_deref())
    }

    /// Makes the main file have that content, or not exist, and removes our drop-in.
    pub(crate) fn take_out(&self, main: Option<&str>) -> Result<()> {
        put(&self.main, main)?;
        put(&self.drop_in, None)
    }

    /// Removes the copy of the main file as it was before us.
    pub(crate) fn forget(&self) -> Result<()> {
        put(&self.backup, None)
    }
}

/// Where the file as it was before us is kept.
fn backup_of(main: &Path) -> PathBuf {
    let mut name = main.file_name().unwrap_or_default().to_os_string();
    name.push(".before-kubevirt");
    main.with_file_name(name)
}

/// Whether the directory of the drop-ins holds one that is not ours.
fn has_others(node: &Node) -> Result<bool> {
    let drop_in = Path::new(DROP_IN);
    let directory = node.path(drop_in.parent().unwrap_or(drop_in))?;
    let names = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()
        }),
    }
    .with_context(|| format!("read {}", directory.display()))?;
    Ok(names.iter().any(|name| {
        Some(name.as_os_str()) != drop_in.file_name() && name.to_string_lossy().ends_with(".toml")
    }))
}

/// The file's content; none if there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Makes the file have that content, or not exist.
fn put(path: &Path, content: Option<&str>) -> Result<()> {
    match content {
        Some(content) => files::replace(path, content).map(drop),
        None => files::remove(path),
    }
    .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MAIN: &str = "/etc/containerd/config.toml";

    /// A node with a main file at `real` and a link to it, or to a directory above it.
    fn node(root: &Path, real: &str, link: &str, target: &str) -> Node {
        for file in [real, link] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        }
        fs::write(root.join(real), "old").unwrap();
        symlink(target, root.join(link)).unwrap();
        Node::new(root.to_owned(), "/opt/kubevirt".into())
    }

    fn change() -> Change {
        Change {
            main: "new".into(),
            drop_in: Some("ours".into()),
        }
    }

    #[test]
    fn links_stay_links_and_their_targets_are_edited() {
        for (real, link, target) in [
            ("data/c.toml", "etc/containerd/config.toml", "/data/c.toml"),
            (
                "data/c.toml",
                "etc/containerd/config.toml",
                "../../data/c.toml",
            ),
            ("data/config.toml", "etc/containerd", "/data"),
            ("data/config.toml", "etc/containerd", "../data"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let node = node(root.path(), real, link, target);
            let at = |path: &str| node.path(path).unwrap();
            let files = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
            assert_eq!(files.content(), Some("old"), "{target}");
            files.write(&change()).unwrap();
            let kept = at("/etc/containerd/config.toml.before-kubevirt");
            assert_eq!(fs::read_to_string(kept).unwrap(), "old");
            let written = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
            assert!(written.are(&change()), "{target}");
            written.take_out(written.original()).unwrap();
            written.forget().unwrap();
            let real = fs::read_to_string(root.path().join(real)).unwrap();
            assert_eq!(real, "old", "{target}");
            let still = fs::read_link(root.path().join(link)).unwrap();
            assert_eq!(still, Path::new(target));
            assert!(!at(DROP_IN).exists());
        }
    }

    #[test]
    fn an_edit_put_back_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let node = Node::new(root.path().to_owned(), "/opt/kubevirt".into());
        let files = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
        files.write(&change()).unwrap();
        let written = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
        assert_eq!(written.original(), Some(""), "there was none");
        files.put_back().unwrap();
        let left = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
        assert_eq!(
            (left.content(), left.original(), left.dropped_in.as_ref()),
            (None, None, None)
        );
    }

    #[test]
    fn a_copy_of_an_earlier_run_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let node = Node::new(root.path().to_owned(), "/opt/kubevirt".into());
        let backup = node.path(backup_of(Path::new(MAIN))).unwrap();
        put(&backup, Some("first")).unwrap();
        put(&node.path(MAIN).unwrap(), Some("old")).unwrap();
        let files = ConfigFiles::read(&node, Path::new(MAIN)).unwrap();
        files.write(&change()).unwrap();
        files.put_back().unwrap();
        assert_eq!(fs::read_to_string(backup).unwrap(), "first");
    }

    #[test]
    fn only_drop_ins_of_others_count() {
        let root = tempfile::tempdir().unwrap();
        let node = Node::new(root.path().to_owned(), "/opt/kubevirt".into());
        assert!(!has_others(&node).unwrap());
        let drop_in = node.path(DROP_IN).unwrap();
        put(&drop_in, Some("")).unwrap();
        put(&drop_in.with_file_name("runtime.toml.old"), Some("")).unwrap();
        assert!(!has_others(&node).unwrap());
        put(&drop_in.with_file_name("runtime.toml"), Some("")).unwrap();
        assert!(has_others(&node).unwrap());
    }
}
