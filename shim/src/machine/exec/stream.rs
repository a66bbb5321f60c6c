//! A stream of bytes both ways between a client and the machine.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::client::{Typed, carry, feed};
use crate::stdio::Sink;

/// Connects a client with a stream until the stream ends: the client's sink again, and how it ended.
/// The end of the client's input ends the stream's other half. If the client leaves, `gone` is called.
pub(super) async fn join(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    typed: Typed,
    sink: Sink,
    gone: impl Fn(),
) -> (Sink, io::Result<()>) {
    let mut broken = None;
    let inwards = async {
        let fed = match typed.input {
            Some(input) => feed(input, typed.closed, &mut write).await,
            None => std::future::pending().await,
        };
        match fed {
            // Who had closed its end before may take no more (EPIPE), which is its matter.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => broken = Some(error),
            _ => drop(write.shutdown().await),
        }
        std::future::pending::<()>().await
    };
    let (sink, ended) = tokio::select! {
        () = inwards => unreachable!("it pends"),
        carried = carry(read, sink, gone) => carried,
    };
    // The kernel tells a reset once, to whoever asks first.
    (sink, broken.map_or(ended, Err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use tokio::sync::watch;

    use crate::stdio::Input;

    /// How the connection ends whose other side does `serve`, for a client that types `text`.
    async fn ends(
        text: &'static str,
        serve: impl FnOnce(TcpStream) + Send + 'static,
    ) -> Option<i32> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let input = Input::open(path.to_str().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (read, write) = stream.into_split();
        let (_open, closed) = watch::channel(false);
        let typed = Typed {
            input: Some(input),
            closed,
        };
        let (_, ended) = join(read, write, typed, Sink::Nowhere, || {}).await;
        ended.err().and_then(|error| error.raw_os_error())
    }

    /// Waits for the greeting.
    fn greeted(mut stream: &TcpStream) {
        stream.read_exact(&mut [0; 2]).unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_told_from_one_that_ends() {
        let ends_well = ends("hi", |mut stream| {
            greeted(&stream);
            stream.write_all(b"bye").unwrap();
        });
        assert_eq!(ends_well.await, None);

        // What was not read makes the kernel reset the connection when it is closed.
        let reset = Some(rustix::io::Errno::CONNRESET.raw_os_error());
        let breaks = ends("hi, and more", |stream| greeted(&stream));
        assert_eq!(breaks.await, reset);
    }
}
