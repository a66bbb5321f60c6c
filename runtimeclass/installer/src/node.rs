//! Where things are on the node, seen through the directory at which its root is mounted.

use std::path::{Path, PathBuf};

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

    /// A path of the node, as this process reaches it.
    pub(crate) fn path(&self, on_node: impl AsRef<Path>) -> PathBuf {
        let on_node = on_node.as_ref();
        self.root.join(on_node.strip_prefix("/").unwrap_or(on_node))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_node_are_below_its_root() {
        let node = Node::new("/host".into(), "/opt/kubevirt".into());
        assert_eq!(
            node.path("/etc/containerd"),
            Path::new("/host/etc/containerd")
        );
        assert_eq!(
            node.path(node.shim()),
            Path::new("/host/opt/kubevirt/bin").join(SHIM)
        );
    }
}
