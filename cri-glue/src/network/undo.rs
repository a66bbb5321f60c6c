//! How to take a machine's network down, as plain data: whoever finds it in a bundle can undo what
//! a shim did that died long ago.

use std::path::PathBuf;

use netlink_socket2::NetlinkSocket;
use serde::{Deserialize, Serialize};

use super::{
    NetworkError, firewall,
    link::{self, LocalAddress},
    namespace::{Namespace, NamespaceId},
    sysctl::Sysctl,
};

/// Everything that [`set_up`](super::set_up) is about to change, or has changed, in one network
/// namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUndo {
    pub(super) namespace: PathBuf,
    /// Tells that namespace from a later one at the same path.
    pub(super) id: NamespaceId,
    pub(super) tap: String,
    pub(super) table: String,
    /// Kernel parameters with the values they had before.
    pub(super) sysctls: Vec<Sysctl>,
    /// Addresses that the pod handed over to the guest. Older records have none.
    #[serde(default)]
    pub(super) addresses: Vec<LocalAddress>,
    /// The interface that listens to all groups of hosts for the guest's sake. Older records have
    /// none.
    #[serde(default)]
    pub(super) listening: Option<String>,
}

/// Takes down what `undo` describes and reports all that failed. Doing so again is fine, and so is
/// a namespace that is gone.
///
/// # Errors
/// Whatever could not be undone; the rest is undone nevertheless.
pub fn undo(undo: &NetworkUndo) -> Result<(), Vec<NetworkError>> {
    let namespace = match Namespace::open(&undo.namespace) {
        Ok(namespace) if namespace.id == undo.id => namespace,
        // Another pod's: ours went with all that was in it.
        Ok(_) => return Ok(()),
        Err(error) if error.is_namespace_gone() => return Ok(()),
        Err(error) => return Err(vec![error]),
    };
    match namespace.run(|| Ok(undo.in_this_namespace(&mut NetlinkSocket::new()))) {
        Ok(errors) if errors.is_empty() => Ok(()),
        Ok(errors) => Err(errors),
        Err(error) => Err(vec![error]),
    }
}

impl NetworkUndo {
    /// Undoes in the calling thread's network namespace and returns what failed. The tap goes
    /// first: without it, nothing passes any more.
    pub(super) fn in_this_namespace(&self, netlink: &mut NetlinkSocket) -> Vec<NetworkError> {
        let mut errors: Vec<_> = link::delete(netlink, &self.tap).err().into_iter().collect();
        errors.extend(firewall::remove(netlink, &self.table));
        let sysctls = self.sysctls.iter().map(Sysctl::write_if_there);
        errors.extend(sysctls.filter_map(Result::err));
        let taken_back = self.addresses.iter();
        let taken_back = taken_back.map(|address| link::take_back(netlink, address));
        errors.extend(taken_back.filter_map(Result::err));
        if let Some(name) = &self.listening {
            errors.extend(link::hear_all_groups(netlink, name, false).err());
        }
        errors
    }
}
