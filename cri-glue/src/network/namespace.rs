//! The pod's network namespace. Work in it runs on a thread of its own that ends there, so that no
//! other thread of the shim ever leaves the node's network.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    panic,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{fstat, fstatfs, stat},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use super::NetworkError;

/// File system type of namespace files (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The namespace of the calling process.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// Tells one namespace from all others of the running kernel (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

/// An open network namespace: it lives at least as long as this value.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
    path: PathBuf,
    pub(super) id: NamespaceId,
}

impl Namespace {
    /// Opens the namespace at `path`; [`NetworkError::NoNamespace`] if it was there once and is
    /// gone.
    pub(super) fn open(path: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::OpenNamespace {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        // The path of a namespace that is gone is often still there, as the empty file it was
        // mounted on.
        if fstatfs(&file).map_err(|error| failed(error.into()))?.f_type as u64 != NSFS_MAGIC {
            return Err(NetworkError::NoNamespace {
                path: path.to_owned(),
            });
        }
        let stat = fstat(&file).map_err(|error| failed(error.into()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            id: NamespaceId {
                device: stat.st_dev,
                inode: stat.st_ino,
            },
        })
    }

    /// The same namespace, to be kept for longer.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            path: self.path.clone(),
            id: self.id,
        })
    }

    /// Whether this is the namespace of the calling process, which for a shim is the node's.
    pub(super) fn is_own(&self) -> Result<bool, NetworkError> {
        let own = stat(OWN_NAMESPACE).map_err(|error| NetworkError::OpenNamespace {
            path: OWN_NAMESPACE.into(),
            source: error.into(),
        })?;
        Ok(self.id
            == NamespaceId {
                device: own.st_dev,
                inode: own.st_ino,
            })
    }

    /// Does `work` within the namespace and waits for its end. Sockets, taps and `/proc/sys/net`
    /// that it opens are those of the namespace.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        thread::scope(|scope| {
            thread::Builder::new()
                .name("pod-network".into())
                .spawn_scoped(scope, || {
                    move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                        .map_err(|error| NetworkError::EnterNamespace {
                            path: self.path.clone(),
                            source: error.into(),
                        })?;
                    work()
                })
                .map_err(NetworkError::Thread)?
                .join()
                .unwrap_or_else(|cause| panic::resume_unwind(cause))
        })
    }
}

/// Does `work` in the network namespace at `path`, on a thread that ends there. Blocks.
///
/// # Errors
/// When the namespace is gone or cannot be entered.
pub fn in_namespace<T: Send>(
    path: &Path,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetworkError> {
    Namespace::open(path)?.run(|| Ok(work()))
}

impl NetworkError {
    /// Whether the error says that the namespace does not exist any more.
    pub(super) fn is_namespace_gone(&self) -> bool {
        match self {
            Self::NoNamespace { .. } => true,
            Self::OpenNamespace { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
