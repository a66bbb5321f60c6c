//! A connection to a port of the guest, from within its pod: it takes the way of the pod's own
//! loopback address, so whatever keeps a port from the guest keeps it from this too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Protocol;
use crate::network::{NetworkError, in_namespace};

/// Longest time until the guest takes a connection.
const BOUND: Duration = Duration::from_secs(10);

/// How long a connection that `::1` took is watched for its end: there it is taken before the guest is
/// asked (`network/relay.rs`). Only who waits to be spoken to, on a port that the guest's IPv4 refused,
/// waits so long.
const HANG_UP: Duration = Duration::from_secs(2);

/// Where a pod reaches itself, in the order in which containerd tries it.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

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
    namespace: &Path,
    protocol: Protocol,
    port: u16,
) -> Result<Connection, ConnectError> {
    let mut refused = None;
    for address in LOOPBACK {
        let address = SocketAddr::new(address, port);
        match timeout(BOUND, connect(namespace, protocol, address)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(ConnectError::Network(error))) => return Err(error.into()),
            // The first one's reason is the better one: the second family may not be there at all.
            Ok(Err(error)) => refused = refused.or(Some(error)),
            Err(_) => {
                let source = io::ErrorKind::TimedOut.into();
                return Err(ConnectError::Refused { port, source });
            }
        }
    }
    Err(refused.unwrap_or_else(|| ConnectError::Refused {
        port,
        source: io::ErrorKind::AddrNotAvailable.into(),
    }))
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
            if address.is_ipv6() {
                stays(&stream).await.map_err(refused)?;
            }
            Ok(Connection::Tcp(stream))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from_std(socket.into()).map_err(refused)?;
            socket.connect(address).await.map_err(refused)?;
            Ok(Connection::Udp(socket))
        }
    }
}

/// An error if `stream` is torn down at once.
async fn stays(stream: &TcpStream) -> io::Result<()> {
    match timeout(HANG_UP, stream.peek(&mut [0])).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_that_is_reset_at_once_was_refused() {
        let (client, server) = pair().await;
        SockRef::from(&server)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(server);
        let error = stays(&client).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn one_that_waits_or_speaks_or_ends_was_taken() {
        let (client, mut server) = pair().await;
        stays(&client).await.unwrap();
        server.write_all(b"hello").await.unwrap();
        stays(&client).await.unwrap();
        drop(server);
        stays(&client).await.unwrap();
    }
}
