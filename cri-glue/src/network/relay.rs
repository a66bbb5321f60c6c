//! The pod's `::1`, as far as it is the guest's: the kernel translates no address that is bound to
//! the loopback interface to one that is not, hence connections to `[::1]:port` are accepted here,
//! within the pod, and carried to the same port of the guest. It serves TCP, which is what `kubectl
//! port-forward` speaks.
//!
//! Neither the guest nor a client costs more than a few buffers for each of a bounded number of
//! connections.

use std::{
    convert::Infallible,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener},
    num::NonZeroU16,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Inbound, NetworkError, Port, Protocol, Request, namespace::Namespace};

/// Connections at the same time; more wait in the kernel.
const MOST_CONNECTIONS: usize = 128;

/// Connections that wait in the kernel.
const WAITING: i32 = 128;

/// How long the guest may take to accept a connection.
const CONNECT_BOUND: Duration = Duration::from_secs(10);

/// How long one side may go on after the other has ended.
const HALF_OPEN_BOUND: Duration = Duration::from_secs(600);

/// How long to wait after an error of the listening socket, such as too many open files.
const RETRY: Duration = Duration::from_millis(100);

/// The guest behind the pod's `::1`. Who asks it by this hears at once whether it takes a connection,
/// while the relay has taken it already.
#[derive(Clone, Debug)]
pub struct Loopback6(Arc<Behind>);

#[derive(Debug)]
struct Behind {
    guest: Ipv6Addr,
    inbound: Inbound,
    others: Mutex<Vec<Port>>,
}

impl Loopback6 {
    fn new(request: &Request, guest: Ipv6Addr) -> Self {
        Self(Arc::new(Behind {
            guest,
            inbound: request.inbound.clone(),
            others: Mutex::new(request.others.clone()),
        }))
    }

    /// From now on, `ports` are those of other containers.
    pub fn reserve(&self, ports: &[Port]) {
        let others = self.0.others.lock();
        let mut others = others.unwrap_or_else(PoisonError::into_inner);
        others.extend_from_slice(ports);
    }

    /// Where the guest has TCP port `number`, if it is the guest's.
    pub fn tcp(&self, number: NonZeroU16) -> Option<SocketAddr> {
        let port = Port {
            protocol: Protocol::Tcp,
            number,
        };
        let others = self.0.others.lock();
        let reserved = others
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&port);
        let served = match &self.0.inbound {
            Inbound::All => true,
            Inbound::Only(ports) => ports.contains(&port),
        };
        (served && !reserved).then(|| SocketAddr::from((self.0.guest, number.get())))
    }
}

/// The relay, listening already.
#[derive(Debug)]
pub(super) struct Relay {
    listener: TcpListener,
    namespace: Arc<Namespace>,
    loopback: Loopback6,
}

impl Relay {
    /// Listens on a port of `::1` in the calling thread's network namespace, which is `namespace`.
    pub(super) fn open(
        namespace: &Namespace,
        request: &Request,
        guest: Ipv6Addr,
    ) -> Result<Self, NetworkError> {
        let listen = || -> io::Result<(TcpListener, Namespace)> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking().cloexec(), None)?;
            socket.bind(&SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0).into())?;
            socket.listen(WAITING)?;
            Ok((socket.into(), namespace.try_clone()?))
        };
        let (listener, namespace) = listen().map_err(NetworkError::Relay)?;
        Ok(Self {
            listener,
            namespace: Arc::new(namespace),
            loopback: Loopback6::new(request, guest),
        })
    }

    /// The guest that connections are carried to.
    pub(super) fn loopback(&self) -> &Loopback6 {
        &self.loopback
    }

    /// The port that connections to any port of the guest are to be redirected to.
    pub(super) fn port(&self) -> Result<u16, NetworkError> {
        let address = self.listener.local_addr().map_err(NetworkError::Relay)?;
        Ok(address.port())
    }

    /// Carries connections for ever; dropping the future ends them.
    ///
    /// # Errors
    /// Fails outside of a tokio runtime with I/O and time.
    pub(super) async fn serve(self) -> io::Result<Infallible> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let place = place.await.map_err(io::Error::other)?;
            while connections.try_join_next().is_some() {}
            let client = match listener.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    warn!(%error, "cannot accept a connection to the pod's ::1");
                    sleep(RETRY).await;
                    continue;
                }
            };
            let (namespace, guest) = (Arc::clone(&self.namespace), self.loopback.0.guest);
            connections.spawn(async move {
                if let Err(error) = carry(client, namespace, guest).await {
                    debug!(%error, "a connection to the pod's ::1 ended");
                }
                drop(place);
            });
        }
    }
}

async fn carry(client: TcpStream, namespace: Arc<Namespace>, guest: Ipv6Addr) -> io::Result<()> {
    let wanted = SockRef::from(&client).original_dst_v6()?;
    let port = wanted.as_socket().map_or(0, |wanted| wanted.port());
    let to = SocketAddr::from((guest, port));
    let connected = timeout(CONNECT_BOUND, connect(namespace, to)).await;
    match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(guest) => splice(client, guest).await,
        Err(error) => {
            // As a closed port does: the client shall not take it for an empty answer.
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            Err(error)
        }
    }
}

/// Connects from within the pod.
async fn connect(namespace: Arc<Namespace>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = move || {
        let socket = || Ok(Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), None));
        namespace.run(socket).map_err(io::Error::other)?
    };
    let socket = spawn_blocking(socket).await.map_err(io::Error::other)??;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// Carries octets both ways until both sides have ended.
async fn splice(client: TcpStream, guest: TcpStream) -> io::Result<()> {
    let (from_client, to_client) = client.into_split();
    let (from_guest, to_guest) = guest.into_split();
    let mut request = pin!(one_way(from_client, to_guest));
    let mut answer = pin!(one_way(from_guest, to_client));
    let rest = tokio::select! {
        ended = &mut request => {
            ended?;
            timeout(HALF_OPEN_BOUND, answer).await
        }
        ended = &mut answer => {
            ended?;
            timeout(HALF_OPEN_BOUND, request).await
        }
    };
    rest.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_others_or_beyond_the_list_is_not_the_guests() {
        let port = |number| NonZeroU16::new(number).unwrap();
        let tcp = |number| Port {
            protocol: Protocol::Tcp,
            number: port(number),
        };
        let loopback = Loopback6(Arc::new(Behind {
            guest: "fd10:0:2::2".parse().unwrap(),
            inbound: Inbound::Only(vec![tcp(22), tcp(80)]),
            others: Mutex::default(),
        }));
        let guest: SocketAddr = "[fd10:0:2::2]:80".parse().unwrap();
        assert_eq!(loopback.tcp(port(80)), Some(guest));
        assert_eq!(loopback.tcp(port(443)), None);
        loopback.clone().reserve(&[tcp(80)]);
        assert_eq!(loopback.tcp(port(80)), None);
        assert!(loopback.tcp(port(22)).is_some());
    }
}
