//! A process's input: a fifo that ends only when containerd says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::StdioError;

/// One end for input.
pub(crate) struct Input {
    fifo: pipe::Receiver,
    /// While it is open, the fifo does not end with a client that comes late or leaves.
    keeper: Option<File>,
}

impl Input {
    /// Opens the fifo `path`.
    pub(crate) fn open(path: &str) -> Result<Self, StdioError> {
        let open = || {
            let fifo = pipe::OpenOptions::new().open_receiver(path)?;
            let mut options = std::fs::OpenOptions::new();
            // It has a reader, so this does not wait for one; but the path may be another file now.
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let keeper = options.write(true).custom_flags(flags).open(path)?;
            Ok(Self {
                fifo,
                keeper: Some(keeper),
            })
        };
        open().map_err(|source| StdioError::Open {
            stream: "stdin",
            path: path.to_owned(),
            source,
        })
    }

    /// Reads some bytes; none at the end. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        self.fifo.read(chunk).await
    }

    /// The client has no more input: it ends behind what is in the fifo.
    pub(crate) fn close(&mut self) {
        self.keeper = None;
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.keeper.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_behind_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let path = path.to_str().unwrap();
        let mut input = Input::open(path).unwrap();
        std::fs::write(path, "first").unwrap();
        std::fs::write(path, " second").unwrap();
        input.close();
        let mut all = Vec::new();
        let mut chunk = [0; 4];
        loop {
            match input.read(&mut chunk).await.unwrap() {
                0 => break,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
        assert_eq!(all, b"first second");
    }
}
