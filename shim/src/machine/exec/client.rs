//! The client's ends of a process's streams.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Process;
use super::process::Run;
use crate::stdio::{Input, Sink};
use crate::task::{Fault, Life};

/// Bytes that are moved at once.
pub(super) const CHUNK: usize = 64 << 10;

/// Longest time that a client may take to read the last output.
const READ_BOUND: Duration = Duration::from_secs(30);

/// The client of one process.
pub(super) struct Client {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
    terminal: bool,
}

impl Client {
    /// Opens what `life` names.
    pub(super) async fn open(life: &Life) -> Result<Self, Fault> {
        let paths = &life.stdio;
        let stdin = match paths.stdin.as_str() {
            "" => None,
            path => Some(Input::open(path).map_err(Fault::failed)?),
        };
        let open = |stream, path| async move {
            let sink = Sink::open_for_process(stream, path).await;
            sink.map_err(Fault::failed)
        };
        Ok(Self {
            stdin,
            stdout: open("stdout", &paths.stdout).await?,
            stderr: match paths.terminal {
                true => Sink::Nowhere,
                false => open("stderr", &paths.stderr).await?,
            },
            terminal: paths.terminal,
        })
    }

    /// Tells the client `sentence`, as an error of the runtime's own.
    pub(super) async fn say(&mut self, sentence: &str) {
        let (sink, end) = match self.terminal {
            true => (&mut self.stdout, "\r\n"),
            false => (&mut self.stderr, "\n"),
        };
        if let Err(error) = sink.write_all(format!("{sentence}{end}").as_bytes()).await {
            tracing::debug!(%error, sentence, "nobody was told");
        }
    }

    /// Waits until the client has read everything, or does not want to.
    pub(super) async fn finish(self, process: &Process) {
        let read = async {
            self.stdout.read_by_others().await;
            self.stderr.read_by_others().await;
        };
        tokio::select! {
            read = timeout(READ_BOUND, read) => if read.is_err() {
                tracing::warn!("nobody reads a process's last output: it is dropped");
            },
            () = process.given_up() => {}
        }
    }
}

/// What the client types, if it can.
pub(super) struct Typed {
    pub(super) input: Option<Input>,
    /// Turns true when there is no more of it.
    pub(super) closed: watch::Receiver<bool>,
}

impl Typed {
    /// What the client of `run` types; it is nobody else's from now on.
    pub(super) fn of(run: &Run, client: &mut Client) -> Self {
        Self {
            input: client.stdin.take(),
            closed: run.process.input_closed(),
        }
    }

    /// The next piece; none at the end. A client that cannot type has no end.
    pub(super) async fn next(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.next(&mut self.closed, piece).await,
            None => std::future::pending().await,
        }
    }
}

/// Moves the client's input to `target`, until one of them ends.
///
/// # Errors
/// When `target` takes no more.
pub(super) async fn feed(
    mut input: Input,
    mut closed: watch::Receiver<bool>,
    mut target: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match input.next(&mut closed, &mut chunk).await {
            Ok(0) => return Ok(()),
            Ok(count) => target.write_all(&chunk[..count]).await?,
            Err(error) => {
                tracing::debug!(%error, "a process's input cannot be read");
                return Ok(());
            }
        }
    }
}

/// Moves what comes from `source` to `sink`, until `source` ends; the sink again, and how the source
/// ended. If the client leaves, `gone` is called, and the rest of the source is dropped.
pub(super) async fn carry(
    mut source: impl AsyncRead + Unpin,
    mut sink: Sink,
    gone: impl Fn(),
) -> (Sink, io::Result<()>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = source.read(&mut chunk) => read,
            () = sink.broken() => {
                gone();
                sink = Sink::Nowhere;
                continue;
            }
        };
        let count = match read {
            Ok(0) => return (sink, Ok(())),
            Ok(count) => count,
            Err(error) => return (sink, Err(error)),
        };
        if let Err(error) = sink.write_all(&chunk[..count]).await {
            tracing::debug!(%error, "a process's output is lost from here on");
            gone();
            sink = Sink::Nowhere;
        }
    }
}

/// How a stream of QEMU's ended: one that it left when it ended is reset if something in it was
/// unread.
pub(super) fn left(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}
