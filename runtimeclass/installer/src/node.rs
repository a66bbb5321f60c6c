//! Where things are on the node, seen through the directory at which its root is mounted.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// More symbolic links than that in one path are a loop, as for the kernel.
const LINKS: usize = 40;

/// The node's file system.
pub(crate) struct Node {
    root: PathBuf,
    prefix: PathBuf,
}

impl Node {
    /// `root` is where the node's `/` is mounted; `prefix` is a path of the node.
    pub(crate) fn new(root: PathBuf, prefix: PathBuf) -> Self {
        Self { root, prefix }
    }

    /// Where the node's `/` is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the node, as this process reaches it: every symbolic link in it is followed as the
    /// node would, so that an absolute one stays below the node's root. What it leads to need not
    /// exist.
    ///
    /// # Errors
    /// The links in it form a loop, or cannot be read.
    pub(crate) fn path(&self, on_node: impl AsRef<Path>) -> Result<PathBuf> {
        let on_node = on_node.as_ref();
        let below =
            resolve(&self.root, on_node).with_context(|| format!("find {}", on_node.display()))?;
        Ok(self.root.join(below))
    }

    /// Directory of our files, as a path of the node.
    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The shim, as a path of the node.
    pub(crate) fn shim(&self) -> PathBuf {
        self.prefix.join("bin").join(SHIM)
    }

    /// The runtime's configuration, as a path of the node.
    pub(crate) fn config(&self) -> &'static Path {
        Path::new("/etc/kubevirt/config.toml")
    }
}

/// File name of the shim.
pub(crate) const SHIM: &str = "containerd-shim-kubevirt-v1";

/// What `path` is for a process whose root directory is `root`, without links, relative to `root`.
fn resolve(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut rest = last_first(path);
    let mut found = PathBuf::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        let next = found.join(part);
        let Some(target) = link_target(&root.join(&next))? else {
            found = next;
            continue;
        };
        links += 1;
        if links > LINKS {
            return Err(nix::errno::Errno::ELOOP.into());
        }
        if target.is_absolute() {
            found.clear();
        }
        rest.extend(last_first(&target));
    }
    Ok(found)
}

/// The parts of a path, its last one first.
fn last_first(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// Where a link leads; none for whatever is no link, or is not there.
fn link_target(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) => match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn reached(node: &Node, on_node: &str) -> PathBuf {
        let path = node.path(on_node).unwrap();
        path.strip_prefix(node.root()).unwrap().to_owned()
    }

    #[test]
    fn paths_of_the_node_are_below_its_root() {
        let node = Node::new("/nowhere".into(), "/opt/kubevirt".into());
        assert_eq!(
            node.path("/etc/containerd").unwrap(),
            Path::new("/nowhere/etc/containerd")
        );
        assert_eq!(
            node.path(node.shim()).unwrap(),
            Path::new("/nowhere/opt/kubevirt/bin").join(SHIM)
        );
    }

    #[test]
    fn links_are_followed_as_the_node_would() {
        let root = tempfile::tempdir().unwrap();
        let node = Node::new(root.path().to_owned(), "/opt/kubevirt".into());
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("etc")).unwrap();
        fs::create_dir_all(at("data/containerd")).unwrap();
        fs::write(at("data/containerd/real.toml"), "").unwrap();
        symlink("/data/containerd", at("etc/containerd")).unwrap();
        symlink("real.toml", at("data/containerd/config.toml")).unwrap();
        symlink("../../../../data/./other", at("data/up")).unwrap();
        for (on_node, expected) in [
            ("/etc/containerd/config.toml", "data/containerd/real.toml"),
            (
                "etc/containerd/conf.d/x.toml",
                "data/containerd/conf.d/x.toml",
            ),
            ("/etc/containerd/..", "data"),
            ("/data/up", "data/other"),
            (
                "/data/containerd/real.toml/x",
                "data/containerd/real.toml/x",
            ),
            ("/", ""),
        ] {
            assert_eq!(reached(&node, on_node), Path::new(expected), "{on_node}");
        }
    }

    #[test]
    fn a_loop_of_links_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let node = Node::new(root.path().to_owned(), "/opt/kubevirt".into());
        symlink("/b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let error = format!("{:#}", node.path("/a/config.toml").unwrap_err());
        assert!(error.starts_with("find /a/config.toml: "), "{error}");
    }
}
