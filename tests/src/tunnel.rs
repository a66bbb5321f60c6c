//! A port of loopback that leads into a machine, by the stream that `virtctl port-forward`, `ssh` and
//! `scp` use.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tungstenite::{Error, Message, WebSocket};

use crate::Proxy;

/// How long one direction is listened to before it is the other's turn.
const TURN: Duration = Duration::from_millis(2);

/// Bytes that are taken at a time.
const CHUNK: usize = 32 * 1024;

/// The port; each connection to it is a stream of its own.
pub struct Tunnel {
    /// Its number on 127.0.0.1.
    pub port: u16,
}

impl Tunnel {
    /// A port that leads to the stream at `path` of the API server.
    pub fn open(path: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its number").port();
        std::thread::spawn(move || {
            let proxy = Arc::new(Proxy::start());
            for client in listener.incoming().flatten() {
                let (proxy, path) = (Arc::clone(&proxy), path.clone());
                std::thread::spawn(move || {
                    let stream = proxy.stream(&path);
                    let stream = stream.unwrap_or_else(|error| panic!("{path}: {error}"));
                    // Who hangs up ends it, in whichever way; the client tells what it lacks.
                    let _ = pump(client, stream);
                });
            }
        });
        Self { port }
    }
}

fn pump(mut client: TcpStream, mut stream: WebSocket<TcpStream>) -> Result<(), Error> {
    client.set_read_timeout(Some(TURN))?;
    stream.get_ref().set_read_timeout(Some(TURN))?;
    let mut chunk = [0; CHUNK];
    loop {
        match client.read(&mut chunk) {
            Ok(0) => return stream.close(None),
            Ok(count) => stream.send(Message::binary(chunk[..count].to_vec()))?,
            Err(error) if is_silence(&error) => {}
            Err(error) => return Err(error.into()),
        }
        match stream.read() {
            Ok(Message::Binary(bytes)) => client.write_all(&bytes)?,
            Ok(_) => {}
            Err(Error::Io(error)) if is_silence(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
