//! The wire of `exec`: Kubernetes' channels over a websocket.
//!
//! Both ways are independent, unlike in the client library's own loop: a guest that reads only after
//! its words were read (any echo) would stand still behind a shared one. Every frame from the pod is
//! handed on whole.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::core::Request;
use kube::{Client, Resource};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Machine, VerbError};

/// Channels of the protocols `v4.channel.k8s.io` and `v5.channel.k8s.io`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// Time between two pings, so that nobody between takes the connection for dead.
pub const PING: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What comes from a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// On standard output.
    Out(Bytes),
    /// On standard error.
    Err(Bytes),
    /// Nothing more.
    Ended(Ending),
}

/// How a verb ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was done.
    Done,
    /// It was not, in kubelet's words.
    Failed(String),
    /// The connection was cut, or its pod went.
    Cut,
}

/// Where bytes for a verb go.
pub struct Input {
    sink: SplitSink<Socket, Message>,
    closes: bool,
}

/// Where bytes of a verb come from.
pub struct Output(SplitStream<Socket>);

/// Enters the pod of `machine` with `words`.
pub(super) async fn open(
    client: &Client,
    machine: &Machine,
    words: &[&str],
    stdin: bool,
) -> Result<(Input, Output), VerbError> {
    let unreachable = |source| VerbError::Unreachable {
        pod: machine.pod.clone(),
        source: Box::new(source),
    };
    let params = AttachParams::default()
        .container(&machine.container)
        .stdin(stdin)
        .stdout(true)
        .stderr(true);
    let path = k8s_openapi::api::core::v1::Pod::url_path(&(), Some(&machine.namespace));
    let request = Request::new(path)
        .exec(&machine.pod, words.iter().copied(), &params)
        .map_err(|error| unreachable(kube::Error::BuildRequest(error)))?;
    let connection = client.connect(request).await.map_err(unreachable)?;
    let closes = connection.supports_stream_close();
    let (sink, stream) = connection.into_stream().split();
    Ok((Input { sink, closes }, Output(stream)))
}

impl Input {
    /// Hands in `bytes`.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut frame = Vec::with_capacity(bytes.len() + 1);
        frame.push(STDIN);
        frame.extend_from_slice(bytes);
        self.sink.send(Message::binary(frame)).await
    }

    /// There is no more. A server that cannot be told so is left, and the rest of its words lost.
    pub async fn end(&mut self) -> Result<(), Error> {
        if self.closes {
            self.sink.send(Message::binary(vec![CLOSE, STDIN])).await
        } else {
            self.sink.close().await
        }
    }

    /// Shows those between that somebody is here.
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.sink.send(Message::Ping(Bytes::new())).await
    }
}

impl Output {
    /// What comes next.
    pub async fn next(&mut self) -> Result<Piece, Error> {
        loop {
            match self.0.next().await {
                None => return Ok(Piece::Ended(Ending::Cut)),
                Some(Err(error)) => return Err(error),
                Some(Ok(Message::Binary(frame))) => {
                    if let Some(piece) = piece(&frame) {
                        return Ok(piece);
                    }
                }
                Some(Ok(_)) => {}
            }
        }
    }
}

/// What a frame says; nothing if it is empty, as the first of each channel is, or of another channel.
fn piece(frame: &Bytes) -> Option<Piece> {
    let (channel, rest) = frame.split_first()?;
    let content = frame.slice(1..);
    match *channel {
        STDOUT if !rest.is_empty() => Some(Piece::Out(content)),
        STDERR if !rest.is_empty() => Some(Piece::Err(content)),
        STATUS => Some(Piece::Ended(ending(rest))),
        _ => None,
    }
}

fn ending(status: &[u8]) -> Ending {
    match serde_json::from_slice::<Status>(status) {
        Ok(status) if status.status.as_deref() == Some("Success") => Ending::Done,
        Ok(status) => Ending::Failed(status.message.unwrap_or_default()),
        Err(_) => Ending::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_by_their_channel() {
        let table: [(&[u8], _); 8] = [
            (b"", None),
            (b"\x01", None),
            (b"\x00typed", None),
            (b"\x07x", None),
            (b"\x01out", Some(Piece::Out(Bytes::from_static(b"out")))),
            (b"\x02err", Some(Piece::Err(Bytes::from_static(b"err")))),
            (
                b"\x03{\"metadata\":{},\"status\":\"Success\"}",
                Some(Piece::Ended(Ending::Done)),
            ),
            (b"\x03no", Some(Piece::Ended(Ending::Cut))),
        ];
        for (frame, expected) in table {
            assert_eq!(piece(&Bytes::from_static(frame)), expected, "{frame:?}");
        }
        let failed = br#"{"status":"Failure","message":"command terminated with exit code 1",
            "reason":"NonZeroExitCode"}"#;
        assert_eq!(
            ending(failed),
            Ending::Failed("command terminated with exit code 1".into())
        );
    }
}
