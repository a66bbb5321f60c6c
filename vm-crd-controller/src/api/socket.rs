//! A client's websocket: the handshake, and bytes between it and a verb on a machine.
//!
//! The protocol is KubeVirt's `plain.kubevirt.io`: binary messages without channels, and a normal
//! close (1000) for the end. A machine that ends, or a controller that restarts, breaks the connection
//! without a close, which `virtctl` explains to its user as just that; a verb that failed says why in
//! the close (1011). Both ways are independent of each other.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::body::Bytes;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::{interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;
use vm_api::datagrams::{Datagrams, framed};

use super::answer::{Answer, empty};
use super::failure::Failure;
use super::routes::Call;
use crate::verbs::{self, Ending, Input, Output, PING, Piece};

/// The protocol of the messages.
const PROTOCOL: &str = "plain.kubevirt.io";

/// The version of websockets that there is.
const VERSION: &str = "13";

/// Most bytes of a message.
const MESSAGE: usize = 1 << 20;

/// Bytes that are read from the connection at once.
const READ: usize = 16 << 10;

/// Time that either side has to end when the other did.
const LAST: Duration = Duration::from_secs(5);

/// Most bytes of a close's reason (RFC 6455: 125, less the code).
const REASON: usize = 123;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A client that waits for its websocket.
pub(super) struct Client {
    upgrade: OnUpgrade,
    accept: String,
    speaks_protocol: bool,
}

/// How messages and bytes of a verb go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Bytes, however they are cut.
    Bytes,
    /// Each message is a datagram.
    Datagrams,
}

/// What is said to a client about its connection.
enum Goodbye {
    /// The end.
    End,
    /// It failed.
    Failed(String),
    /// Nothing.
    Cut,
}

impl Client {
    /// The client of `call`, if it wants a websocket.
    pub(super) fn of(call: &mut Call) -> Result<Self, Failure> {
        let headers = &call.headers;
        let wanted = "use a websocket (Upgrade: websocket, Sec-WebSocket-Version: 13)";
        if !lists(headers, UPGRADE.as_str(), "websocket")
            || !lists(headers, CONNECTION.as_str(), "upgrade")
            || headers
                .get(SEC_WEBSOCKET_VERSION)
                .is_none_or(|version| version != VERSION)
        {
            return Err(Failure::bad_request(wanted));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| Failure::bad_request("there is no Sec-WebSocket-Key"))?;
        let accept = derive_accept_key(key.as_bytes());
        let speaks_protocol = lists(headers, SEC_WEBSOCKET_PROTOCOL.as_str(), PROTOCOL);
        let upgrade = call.upgrade.take();
        Ok(Self {
            upgrade: upgrade.ok_or_else(|| Failure::bad_request(wanted))?,
            accept,
            speaks_protocol,
        })
    }

    /// Answers the handshake; what follows is between the client and `stream`, which has said `first`
    /// already, until one of them ends. `held` is kept until then.
    pub(super) fn connect(
        self,
        stream: verbs::Stream,
        first: Vec<Bytes>,
        form: Form,
        held: impl Send + 'static,
    ) -> Result<Answer, Failure> {
        let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
        let accept = HeaderValue::from_str(&self.accept).map_err(Failure::internal)?;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if self.speaks_protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        }
        tokio::spawn(async move {
            let _held = held;
            let upgraded = match self.upgrade.await {
                Ok(upgraded) => upgraded,
                Err(error) => return debug!(%error, "a client left before its websocket was there"),
            };
            let config = WebSocketConfig::default()
                .read_buffer_size(READ)
                .write_buffer_size(0)
                .max_message_size(Some(MESSAGE))
                .max_frame_size(Some(MESSAGE));
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
            join(socket, stream, first, form).await;
        });
        Ok(answer)
    }
}

/// Whether the comma-separated header `name` lists `word`.
fn lists(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|known| known.trim().eq_ignore_ascii_case(word))
}

/// Carries bytes both ways until one side ends.
async fn join(socket: Socket, stream: verbs::Stream, first: Vec<Bytes>, form: Form) {
    let (mut to_client, from_client) = socket.split();
    let verbs::Stream { input, output } = stream;
    let inwards = tokio::spawn(inwards(from_client, input, form));
    let goodbye = {
        let mut inwards = inwards;
        let mut outwards = std::pin::pin!(outwards(&mut to_client, output, first, form));
        tokio::select! {
            goodbye = outwards.as_mut() => {
                // The client is still to answer a close.
                Some((goodbye, inwards))
            }
            left = &mut inwards => match left {
                // Who said that there is no more may still read the rest.
                Ok(true) => {
                    let rest = timeout(LAST, outwards.as_mut()).await;
                    drop(rest);
                    None
                }
                _ => None,
            },
        }
    };
    let Some((goodbye, inwards)) = goodbye else {
        drop(timeout(LAST, to_client.close()).await);
        return;
    };
    let frame = match goodbye {
        Goodbye::Cut => return inwards.abort(),
        Goodbye::End => CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        },
        Goodbye::Failed(reason) => CloseFrame {
            code: CloseCode::Error,
            reason: cut(&reason).into(),
        },
    };
    if let Ok(Ok(())) = timeout(LAST, to_client.send(Message::Close(Some(frame)))).await {
        drop(timeout(LAST, inwards).await);
    }
}

/// From the client to the machine; true if the client said that there is no more.
async fn inwards(mut from: SplitStream<Socket>, mut to: Input, form: Form) -> bool {
    let mut pings = interval(PING);
    loop {
        let message = tokio::select! {
            message = from.next() => message,
            _ = pings.tick() => {
                if to.ping().await.is_err() {
                    return false;
                }
                continue;
            }
        };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            // Some clients in browsers send what was typed as text.
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Close(_))) => return to.end().await.is_ok(),
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                debug!(%error, "a client's websocket broke");
                return false;
            }
            None => return false,
        };
        let sent = match form {
            Form::Bytes if bytes.is_empty() => Ok(()),
            Form::Bytes => to.send(&bytes).await,
            Form::Datagrams => match framed(&bytes) {
                Some(framed) => to.send(&framed).await,
                // No network would carry it either.
                None => Ok(()),
            },
        };
        if sent.is_err() {
            // What the machine said before it left is told by the other way.
            return std::future::pending().await;
        }
    }
}

/// From the machine to the client.
async fn outwards(
    to: &mut SplitSink<Socket, Message>,
    mut from: Output,
    first: Vec<Bytes>,
    form: Form,
) -> Goodbye {
    let mut datagrams = Datagrams::default();
    let mut said = Vec::new();
    let mut pings = interval(PING);
    let mut waiting = first.into_iter();
    loop {
        let piece = match waiting.next() {
            Some(bytes) => Ok(Piece::Out(bytes)),
            None => tokio::select! {
                piece = from.next() => piece,
                _ = pings.tick() => {
                    if to.send(Message::Ping(Bytes::new())).await.is_err() {
                        return Goodbye::Cut;
                    }
                    continue;
                }
            },
        };
        match piece {
            Ok(Piece::Out(bytes)) => {
                if hand_on(to, bytes, form, &mut datagrams).await.is_err() {
                    return Goodbye::Cut;
                }
            }
            Ok(Piece::Err(bytes)) => verbs::keep(&mut said, &bytes),
            Ok(Piece::Ended(Ending::Done)) => return Goodbye::End,
            Ok(Piece::Ended(_)) if said.is_empty() => return Goodbye::Cut,
            Ok(Piece::Ended(_)) => return Goodbye::Failed(verbs::shown(&said)),
            Err(error) => {
                debug!(%error, "the connection to a machine broke");
                return Goodbye::Cut;
            }
        }
    }
}

async fn hand_on(
    to: &mut SplitSink<Socket, Message>,
    bytes: Bytes,
    form: Form,
    datagrams: &mut Datagrams,
) -> Result<(), Error> {
    match form {
        Form::Bytes => to.send(Message::Binary(bytes)).await,
        Form::Datagrams => {
            datagrams.add(&bytes);
            while let Some(datagram) = datagrams.pop() {
                to.send(Message::Binary(datagram.into())).await?;
            }
            Ok(())
        }
    }
}

/// As much of `reason` as a close can hold.
fn cut(reason: &str) -> String {
    let mut end = reason.len().min(REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_may_list_several_words() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("a"));
        headers.append(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("b,plain.kubevirt.io"),
        );
        assert!(lists(&headers, "connection", "upgrade"));
        assert!(lists(&headers, "sec-websocket-protocol", PROTOCOL));
        assert!(!lists(&headers, "connection", "up"));
        assert!(!lists(&headers, "upgrade", "websocket"));
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = "ü".repeat(100);
        assert_eq!(cut(&long).len(), 122);
        assert_eq!(cut("no"), "no");
    }
}
