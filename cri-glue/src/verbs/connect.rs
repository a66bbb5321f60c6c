//! A connection to a port of the guest, from within its pod: it takes the way of the pod's own
//! loopback address, so whatever keeps a port from the guest keeps it from this too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::task::spawn_blocking;

use super::Protocol;
use crate::network::{NetworkError, in_namespace};

/// Longest time until the guest takes a connection.
const BOUND: Duration = Duration::from_secs(10);

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
    let namespace = namespace.to_owned();
    let work = move || in_namespace(&namespace, || connect(protocol, port));
    let socket = spawn_blocking(work)
        .await
        .map_err(|error| ConnectError::Refused {
            port,
            source: io::Error::other(error),
        })??;
    let refused = |source| ConnectError::Refused { port, source };
    match socket.map_err(refused)? {
        Socket::Tcp(stream) => TcpStream::from_std(stream)
            .map(Connection::Tcp)
            .map_err(refused),
        Socket::Udp(socket) => UdpSocket::from_std(socket)
            .map(Connection::Udp)
            .map_err(refused),
    }
}

enum Socket {
    Tcp(std::net::TcpStream),
    Udp(std::net::UdpSocket),
}

fn connect(protocol: Protocol, port: u16) -> io::Result<Socket> {
    let mut refused = None;
    for address in LOOPBACK {
        match connect_to(protocol, SocketAddr::new(address, port)) {
            Ok(socket) => return Ok(socket),
            // The first one's reason is the better one: the second family may not be there at all.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn connect_to(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    match protocol {
        Protocol::Tcp => {
            let stream = std::net::TcpStream::connect_timeout(&address, BOUND)?;
            stream.set_nonblocking(true)?;
            Ok(Socket::Tcp(stream))
        }
        Protocol::Udp => {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0))?;
            socket.connect(address)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
    }
}
