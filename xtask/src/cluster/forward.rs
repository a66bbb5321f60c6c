//! Carries TCP connections from a listener of the host into the namespace of the caller, byte for
//! byte and half-close for half-close, so that `exec`, `port-forward` and watches work unchanged.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Serves `listener` in the background for as long as the process lives.
pub(crate) fn serve(listener: TcpListener, to: SocketAddr) {
    thread::spawn(move || {
        for connection in listener.incoming() {
            match connection {
                Ok(client) => {
                    thread::spawn(move || {
                        // A side that goes away ends the connection; both ends learn it by that.
                        let _ = carry(&client, to);
                    });
                }
                Err(error) => eprintln!("accept a connection: {error}"),
            }
        }
    });
}

fn carry(client: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(to)?;
    for side in [client, &server] {
        side.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    // After an orderly end the other direction goes on; after an error neither can.
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_answer_arrives_after_the_client_has_closed_its_side() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let answering = thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut all = String::new();
            connection.read_to_string(&mut all).unwrap();
            connection.write_all(all.to_uppercase().as_bytes()).unwrap();
        });
        let entrance = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = entrance.local_addr().unwrap();
        serve(entrance, to);
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HELLO");
        answering.join().unwrap();
    }
}
