//! Ports of containers that are created after the machine: from then on they are theirs.

use netlink_socket2::NetlinkSocket;

use super::{NetworkError, NetworkUndo, Port, firewall, namespace::Namespace};

/// Keeps `ports` from the guest of the network that `network` describes, from now on: connections
/// that the guest has already stay its own. Doing so again is fine.
///
/// Blocks for about a millisecond.
///
/// # Errors
/// The network is gone, or the kernel refuses.
pub fn reserve(network: &NetworkUndo, ports: &[Port]) -> Result<(), NetworkError> {
    if ports.is_empty() {
        return Ok(());
    }
    let namespace = Namespace::open(&network.namespace)?;
    if namespace.id != network.id {
        return Err(NetworkError::NoNamespace {
            path: network.namespace.clone(),
        });
    }
    namespace.run(|| firewall::keep(&mut NetlinkSocket::new(), &network.table, ports))
}
