//! The guest's DHCP server (RFC 2131): one client, one address, one lease without end. It listens
//! on the tap alone, so that nobody but the guest can reach it, and does a bounded amount of work
//! whatever the guest sends.

mod reply;
mod request;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use dhcproto::v4::SERVER_PORT;
use ipnet::Ipv4Net;
use socket2::{Domain, Socket, Type};
use tracing::{debug, warn};
use vm_api::machine::MachineDhcp;

use self::request::DhcpRequest;
use super::{Dns, GuestNetwork, MacAddress, NetworkError, pace::Pace};

/// Largest message that is read; what is longer is cut and then malformed. Clients send some 300
/// octets.
const LARGEST_MESSAGE: usize = 1500;

/// Memory for messages that wait, in octets. The kernel drops what comes when it is full.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// What the guest is given.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) mac: MacAddress,
    /// The guest's address, and the server's under the name of the gateway.
    pub(super) guest: GuestNetwork,
    pub(super) router: Option<Ipv4Addr>,
    /// Further destinations with their routers, in the order in which they are to be tried; with
    /// any, the default route is among them.
    pub(super) routes: Vec<(Ipv4Net, Ipv4Addr)>,
    pub(super) mtu: u16,
    pub(super) dns: Dns,
    /// Empty if the guest shall choose.
    pub(super) hostname: String,
    /// What the guest is told beside all that.
    pub(super) more: MachineDhcp,
}

/// The server, listening already: what the guest asks before [`serve`](Self::serve) is answered
/// then.
#[derive(Debug)]
pub(super) struct DhcpServer {
    socket: UdpSocket,
    lease: Lease,
}

impl DhcpServer {
    /// Listens on `tap` in the calling thread's network namespace.
    pub(super) fn open(tap: &str, lease: Lease) -> Result<Self, NetworkError> {
        let listen = || -> io::Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), None)?;
            socket.bind_device(Some(tap.as_bytes()))?;
            socket.set_broadcast(true)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
            Ok(socket.into())
        };
        let socket = listen().map_err(|source| NetworkError::DhcpSocket {
            tap: tap.to_owned(),
            source,
        })?;
        Ok(Self { socket, lease })
    }

    /// Answers the guest, for ever: abort the task when the machine has ended.
    ///
    /// # Errors
    /// Fails when the socket does, or outside of a tokio runtime with I/O and time.
    pub(super) async fn serve(self) -> io::Result<Infallible> {
        let socket = tokio::net::UdpSocket::from_std(self.socket)?;
        let mut pace = Pace::new();
        let mut message = [0; LARGEST_MESSAGE];
        loop {
            let size = socket.recv(&mut message).await?;
            pace.wait().await;
            let Some(request) = DhcpRequest::parse(&message[..size]) else {
                debug!(size, "ignored a malformed DHCP message of the guest");
                continue;
            };
            let Some(reply) = reply::answer(&self.lease, &request) else {
                debug!(?request, "a DHCP message of the guest needs no answer");
                continue;
            };
            debug!(?request, reply = ?reply.kind, "answering the guest by DHCP");
            if let Err(error) = socket.send_to(&reply.message, reply.to).await {
                // The guest asks again.
                warn!(%error, to = %reply.to, "could not send a DHCP message to the guest");
            }
        }
    }
}
