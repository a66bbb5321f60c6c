//! A process's input: a fifo that ends only when containerd says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

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

    /// Reads some bytes; none at the end, which is behind what was written until `closed` turned
    /// true. Dropping the future loses nothing.
    pub(crate) async fn next(
        &mut self,
        closed: &mut watch::Receiver<bool>,
        chunk: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            tokio::select! {
                count = self.fifo.read(chunk) => return count,
                _ = closed.wait_for(|closed| *closed), if self.keeper.is_some() => self.keeper = None,
            }
        }
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
        let (_closed, mut closed) = watch::channel(true);
        let mut all = Vec::new();
        let mut chunk = [0; 4];
        loop {
            match input.next(&mut closed, &mut chunk).await.unwrap() {
                0 => break,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
        assert_eq!(all, b"first second");
    }
}
