//! A connection to a port of the guest, from within its pod. It takes the way of the pod's own loopback
//! address of IPv4, so whatever keeps a port from the guest keeps it from this too. By IPv6 it asks the
//! guest itself, for the ports that `::1` is the guest's for: what listens at `::1` (`network/relay.rs`)
//! takes a connection before the guest does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Protocol, Target};
use crate::network::{NetworkError, in_namespace};

/// Longest time until the guest takes a connection.
const BOUND: Duration = Duration::from_secs(10);

/// The same by IPv6, once it was refused by IPv4: the guest is there, and knows its neighbours or not.
const BOUND_OF_SECOND: Duration = Duration::from_secs(3);

/// A connection to the guest.
#[derive(Debug)]
pub enum Connection {
    /// A stream.
    Tcp(TcpStream),
    /// Datagrams to and from one port.
    Udp(UdpSocket),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody takes it.
    #[error("the guest does not take the connection to its port {port}: {source}")]
    Refused {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod's network cannot be entered.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Connects with `port`.
pub(super) async fn open(
    target: &Target<'_>,
    protocol: Protocol,
    port: u16,
) -> Result<Connection, ConnectError> {
    let ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ipv6 = match protocol {
        Protocol::Tcp => target.loopback6.zip(NonZeroU16::new(port)),
        Protocol::Udp => None,
    };
    let ipv6 = ipv6.and_then(|(loopback, port)| loopback.tcp(port));
    let namespace = target.network_namespace;
    let first = timeout(BOUND, connect(namespace, protocol, ipv4)).await;
    match (first, ipv6) {
        // The first one's reason is the better one: the guest may not speak IPv6 at all.
        (Ok(Err(refused @ ConnectError::Refused { .. })), Some(ipv6)) => {
            match timeout(BOUND_OF_SECOND, connect(namespace, protocol, ipv6)).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(_)) | Err(_) => Err(refused),
            }
        }
        (Ok(connected), _) => connected,
        (Err(_), _) => {
            let source = io::ErrorKind::TimedOut.into();
            Err(ConnectError::Refused { port, source })
        }
    }
}

/// Makes a socket in the namespace, and connects it from here: the kernel keeps to where it was made.
async fn connect(
    namespace: &Path,
    protocol: Protocol,
    address: SocketAddr,
) -> Result<Connection, ConnectError> {
    let refused = |source| ConnectError::Refused {
        port: address.port(),
        source,
    };
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = in_namespace(namespace, || {
        Socket::new(Domain::for_address(address), kind.nonblocking(), None)
    })?;
    let socket = socket.map_err(refused)?;
    match protocol {
        Protocol::Tcp => {
            let socket = TcpSocket::from_std_stream(socket.into());
            let stream = socket.connect(address).await.map_err(refused)?;
            Ok(Connection::Tcp(stream))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from_std(socket.into()).map_err(refused)?;
            socket.connect(address).await.map_err(refused)?;
            Ok(Connection::Udp(socket))
        }
    }
}
