//! A machine's first serial console as the container's standard output and input.
//!
//! Console bytes go to the fifo, file or logging program that containerd names, unchanged. Nothing
//! is held but one chunk: a reader that does not read slows the console down, never the end of the
//! machine, which waits for it [`DRAIN_TIMEOUT`] at most.

mod first_line;
mod input;
mod logger;
mod sink;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::task::StdioPaths;
pub(crate) use first_line::FirstLine;
pub(crate) use input::Input;
pub(crate) use logger::Owner;
pub(crate) use sink::Sink;

/// Longest time that the output of a machine that has ended may take to be read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that are moved at once.
const CHUNK: usize = 16 << 10;

/// Why the container's input or output cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdioError {
    /// The fifo or file could not be opened.
    #[error("cannot open {path} for the container's {stream}: {source}")]
    Open {
        /// Which stream.
        stream: &'static str,
        /// The path that containerd named.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The URI is of an unknown kind.
    #[error(
        "the container's output is to go to {0:?}: only fifos, file:// and binary:// are known"
    )]
    Uri(String),
    /// The logging program does not work.
    #[error("the logging program {program} does not work: {reason}")]
    Logger {
        /// Its path.
        program: String,
        /// Why.
        reason: String,
    },
    /// The console itself.
    #[error("cannot use the machine's console: {0}")]
    Console(#[source] io::Error),
}

/// Chunks of output that are kept for a further reader who is behind.
const KEPT: usize = 64;

/// The way between a machine's console and containerd.
pub(crate) struct Console {
    output: Mutex<Option<JoinHandle<Sink>>>,
    input: Option<JoinHandle<()>>,
    /// Turns true when the client has no more input.
    input_closed: watch::Sender<bool>,
    /// What the machine reads, for all who write.
    writer: Arc<Mutex<WriteHalf<UnixStream>>>,
    /// What the machine prints, for further readers; it ends with the machine.
    readers: broadcast::WeakSender<Arc<[u8]>>,
    /// Kept open until the end, so that a client that reads it sees the end there too.
    stderr: Mutex<Option<Sink>>,
    /// Turns true when nobody needs the streams any more.
    closed: watch::Sender<bool>,
    first_line: FirstLine,
}

impl Console {
    /// Connects `console` with `paths`; from now on bytes flow. What the machine prints is `owner`'s
    /// output only if it is `logged`; other readers get it in any case.
    pub(crate) async fn connect(
        console: std::os::unix::net::UnixStream,
        paths: &StdioPaths,
        owner: Owner<'_>,
        logged: bool,
    ) -> Result<Self, StdioError> {
        let sink = Sink::open("stdout", &paths.stdout, owner).await?;
        let stderr = match paths.stderr.as_str() {
            // A logging program takes both streams.
            same if same == paths.stdout => Sink::Nowhere,
            path => Sink::open("stderr", path, owner).await?,
        };
        let input = match paths.stdin.as_str() {
            "" => None,
            path => Some(Input::open(path)?),
        };
        console.set_nonblocking(true).map_err(StdioError::Console)?;
        let console = UnixStream::from_std(console).map_err(StdioError::Console)?;
        // Unlike `into_split`, dropping a half shuts nothing down: QEMU would take that for the end.
        let (reader, writer) = tokio::io::split(console);
        let (sender, _) = broadcast::channel(KEPT);
        let readers = sender.downgrade();
        let first_line = FirstLine::default();
        let carrying = carry_out(reader, (sink, logged), sender, first_line.clone());
        let output = Mutex::new(Some(tokio::spawn(carrying)));
        let writer = Arc::new(Mutex::new(writer));
        let input_closed = watch::Sender::new(false);
        let input = input.map(|input| {
            let closed = input_closed.subscribe();
            tokio::spawn(carry_in(input, closed, writer.clone()))
        });
        let closed = watch::Sender::new(false);
        Ok(Self {
            output,
            input,
            input_closed,
            writer,
            readers,
            stderr: Mutex::new(Some(stderr)),
            closed,
            first_line,
        })
    }

    /// The guest begins to run: from now on its first line is waited for.
    pub(crate) fn await_first_line(&self) {
        self.first_line.begin();
    }

    /// What the machine prints from now on; nothing if it has ended. A reader who is too slow misses
    /// some of it.
    pub(crate) fn listen(&self) -> Option<broadcast::Receiver<Arc<[u8]>>> {
        Some(self.readers.upgrade()?.subscribe())
    }

    /// Types `bytes`.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.writer.lock().await.write_all(bytes).await
    }

    /// The client has no more input: what is on its way is typed yet.
    pub(crate) fn close_input(&self) {
        self.input_closed.send_replace(true);
    }

    /// Nobody reads what is typed any more.
    fn drop_input(&self) {
        if let Some(input) = &self.input {
            input.abort();
        }
    }

    /// The machine has ended: waits until every byte of it is written out, and lets readers see the
    /// end. A reader that is away (containerd restarts) finds the bytes when it comes back, until
    /// [`Self::close`].
    pub(crate) async fn drain(self: &Arc<Self>) {
        self.drop_input();
        let Some(mut output) = self.output.lock().await.take() else {
            return;
        };
        match timeout(DRAIN_TIMEOUT, &mut output).await {
            Ok(Ok(sink)) => {
                let stderr = self.stderr.lock().await.take();
                let mut closed = self.closed.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = sink.read_by_others() => {}
                        _ = closed.wait_for(|closed| *closed) => {}
                    }
                    sink.finish().await;
                    drop(stderr);
                });
            }
            Ok(Err(error)) => tracing::error!(%error, "the console's output ended badly"),
            Err(_) => {
                tracing::warn!("nobody reads the machine's last output: it is dropped");
                output.abort();
                self.stderr.lock().await.take();
            }
        }
    }

    /// The container is deleted: nobody will come for its output.
    pub(crate) fn close(&self) {
        self.drop_input();
        self.closed.send_replace(true);
    }
}

/// Moves what the machine prints into `sink` and to `readers`, until the machine ends.
///
/// A sink that nothing is written to is kept open all the same: whoever reads it waits for its end.
async fn carry_out(
    mut console: ReadHalf<UnixStream>,
    (mut sink, logged): (Sink, bool),
    readers: broadcast::Sender<Arc<[u8]>>,
    first_line: FirstLine,
) -> Sink {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match console.read(&mut chunk).await {
            // A machine that ends leaves either.
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => {
                tracing::error!(%error, "cannot read the machine's console");
                break;
            }
            Ok(count) => count,
        };
        first_line.saw(&chunk[..count]);
        if readers.receiver_count() > 0 {
            // They may all have left just now.
            let _ = readers.send(Arc::from(&chunk[..count]));
        }
        if !logged {
            continue;
        }
        if let Err(error) = sink.write_all(&chunk[..count]).await {
            tracing::error!(%error, "the container's output is lost from here on");
            sink = Sink::Nowhere;
        }
    }
    first_line.never_came();
    sink
}

/// Moves the client's input to the machine, until one of them ends.
async fn carry_in(
    mut input: Input,
    mut closed: watch::Receiver<bool>,
    console: Arc<Mutex<WriteHalf<UnixStream>>>,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let moved = async {
            let count = input.next(&mut closed, &mut chunk).await?;
            console.lock().await.write_all(&chunk[..count]).await?;
            Ok::<_, io::Error>(count)
        };
        match moved.await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the container's input ends");
                return;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::path::Path;

    const OWNER: Owner<'_> = Owner {
        id: "c",
        namespace: "k8s.io",
    };

    /// A FIFO in `directory`; its path.
    pub(crate) fn fifo(directory: &Path, name: &str) -> String {
        let path = directory.join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn console(paths: &StdioPaths) -> (Arc<Console>, std::os::unix::net::UnixStream) {
        let (ours, qemus) = std::os::unix::net::UnixStream::pair().unwrap();
        (
            Arc::new(Console::connect(ours, paths, OWNER, true).await.unwrap()),
            qemus,
        )
    }

    #[tokio::test]
    async fn what_is_not_logged_is_still_shown() {
        let directory = tempfile::tempdir().unwrap();
        let paths = StdioPaths {
            stdout: fifo(directory.path(), "out"),
            ..StdioPaths::default()
        };
        let (ours, mut qemu) = std::os::unix::net::UnixStream::pair().unwrap();
        let console = Console::connect(ours, &paths, OWNER, false).await.unwrap();
        let console = Arc::new(console);
        let mut shown = console.listen().unwrap();
        // Opened before the end, as containerd has it: nobody could open it for reading afterwards.
        let mut log = std::fs::File::open(&paths.stdout).unwrap();
        qemu.write_all(b"secret").unwrap();
        assert_eq!(&*shown.recv().await.unwrap(), b"secret");
        drop(qemu);
        console.drain().await;
        // Its reader sees the end, and nothing before.
        let mut kept = Vec::new();
        let read = tokio::task::spawn_blocking(move || log.read_to_end(&mut kept).map(|_| kept));
        assert_eq!(read.await.unwrap().unwrap(), b"");
    }

    fn read_all(path: String) -> JoinHandle<Vec<u8>> {
        tokio::task::spawn_blocking(move || std::fs::read(path).unwrap())
    }

    #[tokio::test]
    async fn no_byte_is_lost_at_a_fast_exit() {
        let directory = tempfile::tempdir().unwrap();
        let paths = StdioPaths {
            stdout: fifo(directory.path(), "out"),
            ..StdioPaths::default()
        };
        let (console, mut qemu) = console(&paths).await;
        let text: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        let reader = read_all(paths.stdout.clone());
        let written = text.clone();
        tokio::task::spawn_blocking(move || qemu.write_all(&written).unwrap())
            .await
            .unwrap();
        console.drain().await;
        assert_eq!(reader.await.unwrap(), text);
    }

    #[tokio::test]
    async fn output_waits_for_a_reader_that_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let paths = StdioPaths {
            stdout: fifo(directory.path(), "out"),
            ..StdioPaths::default()
        };
        let (console, mut qemu) = console(&paths).await;
        qemu.write_all(b"last words").unwrap();
        drop(qemu);
        console.drain().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(read_all(paths.stdout).await.unwrap(), b"last words");
    }

    #[tokio::test]
    async fn input_survives_a_client_that_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let paths = StdioPaths {
            stdin: fifo(directory.path(), "in"),
            ..StdioPaths::default()
        };
        let (_console, mut qemu) = console(&paths).await;
        for text in ["first", "second"] {
            std::fs::write(&paths.stdin, text).unwrap();
            let (back, got) = tokio::task::spawn_blocking(move || {
                let mut got = vec![0; text.len()];
                qemu.read_exact(&mut got).unwrap();
                (qemu, got)
            })
            .await
            .unwrap();
            assert_eq!(got, text.as_bytes());
            qemu = back;
        }
    }

    #[tokio::test]
    async fn what_was_typed_before_the_input_was_closed_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let paths = StdioPaths {
            stdin: fifo(directory.path(), "in"),
            ..StdioPaths::default()
        };
        let (console, mut qemu) = console(&paths).await;
        std::fs::write(&paths.stdin, "typed").unwrap();
        console.close_input();
        let got = tokio::task::spawn_blocking(move || {
            let mut got = [0; 5];
            qemu.set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            qemu.read_exact(&mut got).map(|()| got)
        });
        assert_eq!(&got.await.unwrap().unwrap(), b"typed");
    }

    #[tokio::test]
    async fn the_machine_never_sees_the_console_end() {
        let directory = tempfile::tempdir().unwrap();
        let with_input = StdioPaths {
            stdin: fifo(directory.path(), "in"),
            ..StdioPaths::default()
        };
        for paths in [StdioPaths::default(), with_input] {
            let (console, mut qemu) = console(&paths).await;
            console.close_input();
            tokio::time::sleep(Duration::from_millis(50)).await;
            qemu.set_nonblocking(true).unwrap();
            let read = qemu.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(read, Err(io::ErrorKind::WouldBlock));
        }
    }

    #[tokio::test]
    async fn a_file_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "before ").unwrap();
        let stdout = format!("file://{}", path.display());
        let (console, mut qemu) = console(&StdioPaths {
            stdout,
            ..StdioPaths::default()
        })
        .await;
        qemu.write_all(b"after").unwrap();
        drop(qemu);
        console.drain().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before after");
    }

    #[tokio::test]
    async fn an_unknown_uri_is_refused_by_name() {
        let (ours, _qemus) = std::os::unix::net::UnixStream::pair().unwrap();
        let paths = StdioPaths {
            stdout: "syslog://x".into(),
            ..StdioPaths::default()
        };
        let error = Console::connect(ours, &paths, OWNER, true)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("syslog://x"), "{error}");
    }
}
