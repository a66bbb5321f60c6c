//! The API server as `virtctl` speaks to it: `kubectl proxy` lends the client the user's rights, and
//! streams are websockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use tungstenite::{ClientRequestBuilder, Error, WebSocket};

use crate::kubectl_spawn;

/// Longest wait for words of the other side.
const WORDS: Duration = Duration::from_secs(30);

/// `kubectl proxy`: the API server on a port of loopback, in the user's name.
pub struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    /// Starts it.
    pub fn start() -> Self {
        let mut child = kubectl_spawn(&["proxy", "--port=0"]);
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("kubectl proxy says where it is");
        let address = line
            .trim()
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .to_owned();
        assert!(address.contains(':'), "{line}");
        Self { child, address }
    }

    /// Asks for a path; the code and the body of the answer.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("the proxy");
        stream.set_read_timeout(Some(WORDS)).expect("a bound");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .expect("it takes a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an answer has headers");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or_default(), answer[end + 4..].to_vec())
    }

    /// Opens a stream as `virtctl` does.
    pub fn stream(&self, path: &str) -> Result<WebSocket<TcpStream>, Error> {
        let stream = TcpStream::connect(&self.address).expect("the proxy");
        stream.set_read_timeout(Some(WORDS)).expect("a bound");
        let uri = format!("ws://{}{path}", self.address)
            .parse()
            .expect("an address");
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("plain.kubevirt.io");
        let mut rest = stream.try_clone().expect("a descriptor");
        match tungstenite::client(request, stream) {
            Ok((socket, answer)) => {
                let protocol = &answer.headers()["sec-websocket-protocol"];
                assert_eq!(protocol, "plain.kubevirt.io");
                Ok(socket)
            }
            Err(tungstenite::HandshakeError::Failure(Error::Http(mut answer))) => {
                // The client stops at the end of the headers; what it read beyond them is kept.
                let length = answer.headers().get("content-length");
                let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
                let body = answer.body_mut().get_or_insert_default();
                let mut missing = vec![0; length.unwrap_or(0_usize).saturating_sub(body.len())];
                rest.read_exact(&mut missing).expect("the answer's body");
                body.extend(missing);
                Err(Error::Http(answer))
            }
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
