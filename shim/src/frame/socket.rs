//! The unix socket of a pod's server: its address follows from containerd's own address, the
//! namespace and the pod, so every `start` of the pod finds the same one.
//!
//! A socket file without a server behind it is left by a server that was killed; it is replaced,
//! and removed by `delete`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// File in a bundle with the address of the server; containerd 1.6 and 1.7 read it when they
/// restart, newer ones when they have nothing better.
const ADDRESS_FILE: &str = "address";

/// Why the socket could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the shim's socket {path}: {source}")]
pub(crate) struct SocketError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl SocketError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            action,
            path,
            source,
        }
    }
}

/// Outcome of [`listen`].
pub(crate) enum Listening {
    /// The socket is ours; nobody accepts on it yet.
    Bound(UnixListener),
    /// A living server answers there already.
    Taken,
}

/// The path of `address`, which may be written with its scheme.
pub(crate) fn path(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

/// Whether a server accepts at `address`.
pub(crate) fn answers(address: &str) -> bool {
    UnixStream::connect(path(address)).is_ok()
}

/// Binds `address`, for root alone, in place of a socket that nobody serves any more.
pub(crate) fn listen(address: &str) -> Result<Listening, SocketError> {
    let path = path(address);
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)
            .map_err(SocketError::new("make the directory of", path))?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if answers(address) {
                return Ok(Listening::Taken);
            }
            remove(address)?;
            UnixListener::bind(path)
        }
        other => other,
    }
    .map_err(SocketError::new("listen on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(SocketError::new("protect", path))?;
    Ok(Listening::Bound(listener))
}

/// Removes the socket file of `address`; none is fine.
pub(crate) fn remove(address: &str) -> Result<(), SocketError> {
    let path = path(address);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SocketError::new("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes `address` into `bundle`, whole or not at all.
pub(crate) fn save_address(bundle: &Path, address: &str) -> Result<(), SocketError> {
    let target = bundle.join(ADDRESS_FILE);
    let draft = bundle.join(".address");
    fs::write(&draft, address)
        .and_then(|()| fs::rename(&draft, &target))
        .map_err(SocketError::new("write down the address of", &target))
}

/// The address that `start` wrote into `bundle`, if it got that far.
pub(crate) fn saved_address(bundle: &Path) -> Option<String> {
    fs::read_to_string(bundle.join(ADDRESS_FILE))
        .ok()
        .filter(|address| !address.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_socket_is_shared_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/s/pod", directory.path().display());
        let Listening::Bound(listener) = listen(&address).unwrap() else {
            panic!("taken")
        };
        assert!(answers(&address));
        assert!(matches!(listen(&address).unwrap(), Listening::Taken));
        drop(listener);
        assert!(!answers(&address));
        let Listening::Bound(_listener) = listen(&address).unwrap() else {
            panic!("taken")
        };
        let mode = fs::metadata(path(&address)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn removing_twice_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix://{}/pod", directory.path().display());
        let _listener = listen(&address).unwrap();
        remove(&address).unwrap();
        remove(&address).unwrap();
        assert!(!path(&address).exists());
    }

    #[test]
    fn the_address_survives_in_the_bundle() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(saved_address(bundle.path()), None);
        save_address(bundle.path(), "unix:///run/containerd/s/x").unwrap();
        assert_eq!(
            saved_address(bundle.path()).unwrap(),
            "unix:///run/containerd/s/x"
        );
    }
}
