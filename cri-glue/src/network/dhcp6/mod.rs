//! The guest's DHCPv6 server (RFC 8415): one address, one lease without end. It listens on the tap
//! alone, so that nobody but the guest can reach it, and does a bounded amount of work whatever the
//! guest sends.
//!
//! The address goes to whoever asks: clients name themselves by an identifier of their own making,
//! and a guest that is installed anew has another one.

mod reply;
mod request;

use std::{
    convert::Infallible,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use dhcproto::v6::{CLIENT_PORT, SERVER_PORT};
use socket2::{Domain, Socket, Type};
use tracing::{debug, warn};

use self::request::Dhcp6Request;
use super::{Dns, GuestNetwork6, MacAddress, NetworkError, derive_mac, pace::Pace};

/// Where clients look for servers: `All_DHCP_Relay_Agents_and_Servers` (RFC 8415, 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Largest message that is read; what is longer is cut and then malformed.
const LARGEST_MESSAGE: usize = 1500;

/// Memory for messages that wait, in octets. The kernel drops what comes when it is full.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// What the guest is given.
#[derive(Clone, Debug)]
pub(super) struct Lease6 {
    /// The guest's, of which the server's identifier is made.
    pub(super) mac: MacAddress,
    pub(super) guest: GuestNetwork6,
    pub(super) dns: Dns,
}

impl Lease6 {
    /// The server's identifier (RFC 8415, 11.4): the same whenever this guest runs, wherever it is.
    /// A client that was restored finds the server that it chose. It is made of another address than
    /// the guest's, by which the client may name itself.
    fn server_id(&self) -> Vec<u8> {
        const LINK_LAYER_ADDRESS: u16 = 3;
        const ETHERNET: u16 = 1;
        let mut id = [LINK_LAYER_ADDRESS, ETHERNET]
            .map(u16::to_be_bytes)
            .concat();
        id.extend(derive_mac(&format!("server of {}", self.mac)).bytes());
        id
    }

    fn is_on_link(&self, address: &Ipv6Addr) -> bool {
        *address == self.guest.address
    }
}

/// The server, listening already: what the guest asks before [`serve`](Self::serve) is answered
/// then.
#[derive(Debug)]
pub(super) struct Dhcp6Server {
    socket: UdpSocket,
    lease: Lease6,
}

impl Dhcp6Server {
    /// Listens on `tap`, which has the number `index`, in the calling thread's network namespace.
    pub(super) fn open(tap: &str, index: u32, lease: Lease6) -> Result<Self, NetworkError> {
        let listen = || -> io::Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking().cloexec(), None)?;
            socket.set_only_v6(true)?;
            socket.bind_device(Some(tap.as_bytes()))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            let everywhere = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, SERVER_PORT, 0, 0);
            socket.bind(&everywhere.into())?;
            socket.join_multicast_v6(&ALL_SERVERS, index)?;
            Ok(socket.into())
        };
        let socket = listen().map_err(|source| NetworkError::Ipv6Socket {
            server: "DHCPv6 server",
            tap: tap.to_owned(),
            source,
        })?;
        Ok(Self { socket, lease })
    }

    /// Answers the guest, for ever.
    ///
    /// # Errors
    /// Fails when the socket does, or outside of a tokio runtime with I/O and time.
    pub(super) async fn serve(self) -> io::Result<Infallible> {
        let socket = tokio::net::UdpSocket::from_std(self.socket)?;
        let mut pace = Pace::new();
        let mut message = [0; LARGEST_MESSAGE];
        loop {
            let (size, from) = socket.recv_from(&mut message).await?;
            pace.wait().await;
            // Clients speak from their link-local address (RFC 8415, 17.1).
            let SocketAddr::V6(client) = from else {
                continue;
            };
            if !client.ip().is_unicast_link_local() {
                debug!(%client, "ignored a DHCPv6 message from an address that is no client's");
                continue;
            }
            let Some(request) = Dhcp6Request::parse(&message[..size]) else {
                debug!(size, "ignored a malformed DHCPv6 message of the guest");
                continue;
            };
            let Some(reply) = reply::answer(&self.lease, &request) else {
                debug!(?request, "a DHCPv6 message of the guest needs no answer");
                continue;
            };
            debug!(?request, reply = ?reply.kind, "answering the guest by DHCPv6");
            let to = SocketAddrV6::new(*client.ip(), CLIENT_PORT, 0, client.scope_id());
            if let Err(error) = socket.send_to(&reply.message, to).await {
                // The guest asks again.
                warn!(%error, %to, "could not send a DHCPv6 message to the guest");
            }
        }
    }
}
