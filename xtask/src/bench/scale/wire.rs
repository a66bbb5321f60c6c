//! A TCP connection's bytes, counted on their way: what the controller and the API server send each
//! other, as it crosses a network.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A port that leads to another one.
pub(super) struct Wire {
    /// Where it begins.
    pub(super) address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Wire {
    /// Lays one to `to`; it stays for as long as the process lives.
    pub(super) fn to(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen on a free port")?;
        let address = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // A side that goes away ends the connection; both ends learn it by that.
                thread::spawn(move || drop(carry(&client, to, &counter)));
            }
        });
        Ok(Self { address, bytes })
    }

    /// Bytes so far, both ways together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn carry(client: &TcpStream, to: SocketAddr, bytes: &AtomicU64) -> io::Result<()> {
    let server = TcpStream::connect(to)?;
    for side in [client, &server] {
        side.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server, bytes));
        copy(&server, client, bytes);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, bytes: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&chunk[..read]).is_err() {
            let _ = from.shutdown(Shutdown::Read);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_and_are_counted_both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(server.local_addr().unwrap()).unwrap();
        let answering = thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut all = String::new();
            connection.read_to_string(&mut all).unwrap();
            connection.write_all(b"world!").unwrap();
        });
        let mut client = TcpStream::connect(wire.address).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answering.join().unwrap();
        assert_eq!((answer.as_str(), wire.bytes()), ("world!", 11));
    }
}
