//! Connections: TLS, who is at the other end, and requests brought to the table of routes.
//!
//! Nothing trusts a client: handshakes, headers and bodies are bounded in size and time, connections
//! in number, those without the front proxy's certificate apart from the API server's, and the memory
//! that bodies take as a whole. When the identity changes, connections are told to end, so that no
//! client stays who it was under another one.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::answer::{Answer, either};
use super::failure::Failure;
use super::identity::Identity;
use super::per_address::PerAddress;
use super::routes::{Call, Door, Routes};
use crate::json::values;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for the next request's headers: longer than the 90 s after which Go's clients leave an idle
/// connection, so that it is never the server who leaves it while a request is under way.
const HEADERS: Duration = Duration::from_secs(120);

/// Time for a body.
const BODY: Duration = Duration::from_secs(30);

/// Time that a connection has for its last request.
const LAST: Duration = Duration::from_secs(60);

/// Most handshakes at a time.
const HANDSHAKES: usize = 256;

/// Most handshakes at a time of one address.
const HANDSHAKES_OF_ONE: usize = 64;

/// Most connections of one address without the front proxy's certificate. An API server has one for
/// each review that it waits for.
const OTHERS_OF_ONE: usize = 128;

/// Most connections of the API server.
const TRUSTED: usize = 1024;

/// Most connections of others.
const OTHERS: usize = 512;

/// Most bytes of a request's headers.
const HEADER_BYTES: usize = 64 << 10;

/// Memory for bodies of either side that are not answered yet, in KiB.
const BODIES_KIB: usize = 32 << 10;

/// What all connections share.
pub(super) struct Listener {
    pub(super) routes: Routes,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    handshakes: Arc<Semaphore>,
    shaking: PerAddress,
    strangers: PerAddress,
    trusted: Side,
    others: Side,
}

/// What clients of one kind have among them.
struct Side {
    connections: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Side {
    fn new(connections: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
        }
    }
}

/// Who is at the other end.
struct Peer {
    identity: Arc<Identity>,
    is_front_proxy: bool,
}

impl Listener {
    /// One that answers by `routes`.
    pub(super) fn new(
        routes: Routes,
        identity: watch::Receiver<Option<Arc<Identity>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            routes,
            identity,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            shaking: PerAddress::new(HANDSHAKES_OF_ONE),
            strangers: PerAddress::new(OTHERS_OF_ONE),
            trusted: Side::new(TRUSTED),
            others: Side::new(OTHERS),
        })
    }

    /// Takes connections until dropped.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener) -> Infallible {
        loop {
            let (stream, address) = match listener.accept().await {
                Ok((stream, address)) => (stream, address.ip()),
                Err(error) => {
                    // Out of descriptors, or the peer went away: neither ends the service.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(identity) = self.identity.borrow().clone() else {
                debug!("a connection came before there was a certificate");
                continue;
            };
            // A client that comes when there is no room comes again.
            let Some(place) = self.shaking.enter(address) else {
                continue;
            };
            let Ok(shaking) = self.handshakes.clone().try_acquire_owned() else {
                continue;
            };
            let listener = self.clone();
            tokio::spawn(async move {
                let acceptor = TlsAcceptor::from(identity.tls.clone());
                let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return debug!(%error, "a handshake failed"),
                    Err(_) => return debug!("a handshake took too long"),
                };
                drop((place, shaking));
                listener.connection(stream, address, identity).await;
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        address: IpAddr,
        identity: Arc<Identity>,
    ) {
        let certificates = stream.get_ref().1.peer_certificates();
        let first = certificates.and_then(|certificates| certificates.first());
        let is_front_proxy = match (first, &identity.front) {
            (Some(certificate), Some(front)) => front.is(certificate),
            _ => false,
        };
        let side = if is_front_proxy {
            &self.trusted
        } else {
            &self.others
        };
        let place = self.strangers.enter(address);
        if place.is_none() && !is_front_proxy {
            return debug!(%address, "too many connections of one address");
        }
        let _place = place.filter(|_| !is_front_proxy);
        let Ok(_slot) = side.connections.clone().try_acquire_owned() else {
            return debug!(is_front_proxy, "too many connections");
        };
        let mut changes = self.identity.clone();
        let current = changes.borrow_and_update().clone();
        if !current.is_some_and(|current| Arc::ptr_eq(&current, &identity)) {
            return debug!("the identity changed during a handshake");
        }
        let peer = Arc::new(Peer {
            identity,
            is_front_proxy,
        });
        let listener = self.clone();
        let service = service_fn(move |request| {
            let (listener, peer) = (listener.clone(), peer.clone());
            async move { Ok::<_, Infallible>(listener.answer(request, &peer).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            _ = changes.changed() => {
                connection.as_mut().graceful_shutdown();
                match timeout(LAST, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            debug!(%error, "a connection ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let path = request.uri().path();
        let Some((door, handler)) = self.routes.find(path) else {
            return Failure::no_path(path).into();
        };
        match self.let_in(request, peer, door).await {
            Ok((call, _room)) => handler(call).await,
            Err(failure) => either(Err(failure)),
        }
    }

    async fn let_in(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
        door: Door,
    ) -> Result<(Call, Option<OwnedSemaphorePermit>), Failure> {
        let user = match door {
            Door::Anybody => None,
            Door::FrontProxy => Some(peer.user(request.headers())?),
        };
        let upgrade = request
            .headers()
            .contains_key(hyper::header::UPGRADE)
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let side = if peer.is_front_proxy {
            &self.trusted
        } else {
            &self.others
        };
        let limits = door.body_limits(parts.uri.path());
        let (body, room) = match upgrade {
            // What follows is not HTTP's.
            Some(_) => (Bytes::new(), None),
            None => match timeout(BODY, read(body, length, limits, side)).await {
                Ok(read) => read?,
                Err(_) => return Err(Failure::timeout("the request's body did not come in time")),
            },
        };
        let call = Call {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body,
            user,
            upgrade,
        };
        Ok((call, room))
    }
}

impl Peer {
    /// In whose name the front proxy asks.
    fn user(&self, headers: &hyper::HeaderMap) -> Result<super::front_proxy::User, Failure> {
        let front = self.identity.front.as_ref().filter(|_| self.is_front_proxy);
        let front = front.ok_or_else(|| {
            Failure::unauthorized("only the API server's front proxy is let in: ask the API server")
        })?;
        front
            .user(headers)
            .ok_or_else(|| Failure::unauthorized("the request names no user"))
    }
}

/// The body, and its place in the memory for bodies.
async fn read(
    body: Incoming,
    length: Option<usize>,
    (limit, most_values): (usize, usize),
    side: &Side,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Failure> {
    let expected = length.unwrap_or(limit);
    if expected > limit {
        return Err(Failure::too_large(limit));
    }
    if hyper::body::Body::is_end_stream(&body) {
        return Ok((Bytes::new(), None));
    }
    let kib = u32::try_from(expected.div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let room = side.bodies.clone().acquire_many_owned(kib).await.ok();
    match Limited::new(body, limit).collect().await {
        Ok(collected) => {
            let body = collected.to_bytes();
            if values(&body) > most_values {
                let why = format!("the request's body has more than {most_values} values");
                return Err(Failure::bad_request(why));
            }
            Ok((body, room))
        }
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Failure::too_large(limit))
        }
        Err(error) => Err(Failure::bad_request(format!(
            "cannot read the request's body: {error}"
        ))),
    }
}

/// Answers whoever asks whether the server is there.
pub(super) async fn healthz(_: Call) -> Result<Answer, Failure> {
    Ok(super::answer::text(StatusCode::OK, "ok"))
}
