//! The guest's IPv6 router, as far as it has to make itself known (RFC 4861, 6.2): it advertises
//! the way out, the MTU and the name servers now and then, and whenever the guest asks. It hears the
//! tap alone, and does a bounded amount of work whatever the guest sends.

mod advertisement;

use std::{
    convert::Infallible,
    io,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use ipnet::Ipv6Net;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use self::advertisement::{SOLICITATION, advertisement, is_solicitation};
use super::{GuestNetwork6, NetworkError, pace::Pace};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What proves that a message crossed no router (RFC 4861, 4.2).
const HOP_LIMIT: u32 = 255;

/// Advertisements that nobody asked for follow each other in these times (RFC 4861, 6.2.1 and 10):
/// the first few soon, in case the guest comes up without asking.
const FIRST: u32 = 3;
const FIRST_INTERVAL: Duration = Duration::from_secs(16);
const INTERVAL: Duration = Duration::from_secs(600);

/// Memory for messages that wait, in octets. The kernel drops what comes when it is full.
const RECEIVE_BUFFER: usize = 8 * 1024;

/// Largest part of a message that is read: what makes it a solicitation.
const LARGEST_MESSAGE: usize = 8;

/// Of all ICMPv6 messages, let solicitations through: one byte is loaded and compared (bpf(2),
/// linux/filter.h: `BPF_LD|BPF_B|BPF_ABS`, `BPF_JMP|BPF_JEQ|BPF_K`, `BPF_RET|BPF_K`).
const SOLICITATIONS: [SockFilter; 4] = [
    SockFilter::new(0x30, 0, 0, 0),
    SockFilter::new(0x15, 0, 1, SOLICITATION as u32),
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// What the guest is told.
#[derive(Clone, Debug)]
pub(super) struct Advertised {
    pub(super) guest: GuestNetwork6,
    pub(super) mtu: u16,
    /// Name servers.
    pub(super) servers: Vec<Ipv6Addr>,
    /// Where the router leads to; none if it leads everywhere.
    pub(super) routes: Option<Vec<Ipv6Net>>,
}

/// The router, listening already.
#[derive(Debug)]
pub(super) struct Router {
    /// A raw socket, which std has no type of; it differs in what its messages are.
    socket: UdpSocket,
    to: SocketAddrV6,
    advertisement: Vec<u8>,
}

impl Router {
    /// Listens on `tap`, which has the number `index`, in the calling thread's network namespace.
    pub(super) fn open(
        tap: &str,
        index: u32,
        advertised: &Advertised,
    ) -> Result<Self, NetworkError> {
        let listen = || -> io::Result<UdpSocket> {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
            socket.attach_filter(&SOLICITATIONS)?;
            socket.bind_device(Some(tap.as_bytes()))?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.set_multicast_hops_v6(HOP_LIMIT)?;
            socket.set_multicast_loop_v6(false)?;
            socket.join_multicast_v6(&ALL_ROUTERS, index)?;
            Ok(socket.into())
        };
        let socket = listen().map_err(|source| NetworkError::Ipv6Socket {
            server: "router",
            tap: tap.to_owned(),
            source,
        })?;
        Ok(Self {
            socket,
            to: SocketAddrV6::new(ALL_NODES, 0, 0, index),
            advertisement: advertisement(advertised),
        })
    }

    /// Advertises for ever.
    ///
    /// # Errors
    /// Fails when the socket does, or outside of a tokio runtime with I/O and time.
    pub(super) async fn serve(self) -> io::Result<Infallible> {
        let socket = tokio::net::UdpSocket::from_std(self.socket)?;
        let mut message = [0; LARGEST_MESSAGE];
        let mut pace = Pace::new();
        let (mut sent, mut next) = (0, Instant::now());
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                size = socket.recv(&mut message) => {
                    let size = size?;
                    pace.wait().await;
                    if !is_solicitation(&message[..size]) {
                        continue;
                    }
                    debug!("the guest asks for a router");
                }
            }
            if let Err(error) = socket.send_to(&self.advertisement, self.to).await {
                warn!(%error, "could not send a router advertisement to the guest");
            }
            sent += 1;
            next = Instant::now()
                + if sent < FIRST {
                    FIRST_INTERVAL
                } else {
                    INTERVAL
                };
        }
    }
}
