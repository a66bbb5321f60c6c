//! Where a container's output goes: a fifo, a file, a logging program, or nowhere.

use std::io::{self, Write};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::time::sleep;

use super::StdioError;
use super::logger::{Logger, Owner};

/// How often a fifo is looked at for whether it was read empty.
const EMPTY_POLL: Duration = Duration::from_millis(10);

/// How often a fifo without a reader is tried again.
const READER_TRIES: u32 = 200;

/// One end for output.
pub(crate) enum Sink {
    /// A fifo, opened for reading too: it breaks for nobody's coming and going.
    Fifo(pipe::Sender),
    /// A file, written at its end.
    File(std::fs::File),
    /// A program of the node's administrator.
    Logger(Box<Logger>),
    /// Output is not wanted.
    Nowhere,
}

impl Sink {
    /// Opens what `uri` names: a path, `file://path` or `binary://path?argument`.
    pub(super) async fn open(
        stream: &'static str,
        uri: &str,
        owner: Owner<'_>,
    ) -> Result<Self, StdioError> {
        let failed = |path: &str| {
            let path = path.to_owned();
            move |source| StdioError::Open {
                stream,
                path,
                source,
            }
        };
        match uri.split_once("://") {
            None if uri.is_empty() => Ok(Self::Nowhere),
            None => open_fifo(uri).map_err(failed(uri)).map(Self::Fifo),
            Some(("fifo", path)) => open_fifo(path).map_err(failed(path)).map(Self::Fifo),
            Some(("file", path)) => {
                let mut options = std::fs::OpenOptions::new();
                options.append(true).create(true);
                options.open(path).map_err(failed(path)).map(Self::File)
            }
            Some(("binary", rest)) => Logger::start(rest, owner)
                .await
                .map(|logger| Self::Logger(Box::new(logger))),
            Some(_) => Err(StdioError::Uri(uri.to_owned())),
        }
    }

    /// Opens a process's end for output: a fifo's path, or nothing. Unlike a container's, it breaks
    /// when its reader leaves: nobody comes back for it.
    pub(crate) async fn open_for_process(
        stream: &'static str,
        path: &str,
    ) -> Result<Self, StdioError> {
        if path.is_empty() {
            return Ok(Self::Nowhere);
        }
        let no_reader = rustix::io::Errno::NXIO.raw_os_error();
        let mut tries = READER_TRIES;
        loop {
            match pipe::OpenOptions::new().open_sender(path) {
                Ok(fifo) => return Ok(Self::Fifo(fifo)),
                // Containerd opens its end at about the same time.
                Err(error) if error.raw_os_error() == Some(no_reader) && tries > 0 => {
                    tries -= 1;
                    sleep(EMPTY_POLL).await;
                }
                Err(source) => {
                    return Err(StdioError::Open {
                        stream,
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
    }

    /// Waits until nobody can read it any more.
    pub(crate) async fn broken(&self) {
        match self {
            Self::Fifo(fifo) => {
                // An error of the waiting itself is as good.
                drop(fifo.ready(Interest::ERROR).await);
            }
            Self::File(_) | Self::Logger(_) | Self::Nowhere => std::future::pending().await,
        }
    }

    /// Writes all of `bytes`, waiting for the reader if need be.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Fifo(fifo) => fifo.write_all(bytes).await,
            Self::File(file) => file.write_all(bytes),
            Self::Logger(logger) => logger.write_all(bytes).await,
            Self::Nowhere => Ok(()),
        }
    }

    /// Waits until a fifo's reader has taken everything.
    pub(crate) async fn read_by_others(&self) {
        let Self::Fifo(fifo) = self else { return };
        while rustix::io::ioctl_fionread(fifo).is_ok_and(|left| left > 0) {
            sleep(EMPTY_POLL).await;
        }
    }

    /// Closes it; a logging program is given time to end.
    pub(super) async fn finish(self) {
        if let Self::Logger(logger) = self {
            logger.finish().await;
        }
    }
}

fn open_fifo(path: &str) -> io::Result<pipe::Sender> {
    pipe::OpenOptions::new().read_write(true).open_sender(path)
}
