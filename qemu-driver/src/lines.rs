//! Lines from somebody who may be hostile: read one by one, none longer than a bound.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The line does not end within the bound.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    /// The stream broke.
    #[error("reading: {0}")]
    Read(#[from] io::Error),
}

/// Reads lines from `R`. Dropping the future of [`Lines::next`] loses nothing.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no end of line.
    searched: usize,
    most: usize,
}

/// Bytes that are read at once.
const CHUNK: usize = 4096;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `most` bytes each.
    pub(crate) fn new(stream: R, most: usize) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            searched: 0,
            most,
        }
    }

    /// The next line without its end; `None` at the end of the stream. What follows the last end
    /// of line is no line.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            let end = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| end + self.searched) {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > self.most {
                return Err(LineError::TooLong(self.most));
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                // A Unix socket says so when the other side closed without reading everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Drops what was read of a line that has not ended.
    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads all lines of `chunks`, which arrive one by one.
    async fn read(chunks: Vec<Vec<u8>>, most: usize) -> Result<Vec<Vec<u8>>, LineError> {
        let (reader, mut writer) = tokio::io::duplex(1 << 20);
        let writer = async move {
            for chunk in chunks {
                // The reader may have given up.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await;
                tokio::task::yield_now().await;
            }
        };
        let reader = async move {
            let mut lines = Lines::new(reader, most);
            let mut all = Vec::new();
            while let Some(line) = lines.next().await? {
                assert!(lines.buffer.len() <= most + CHUNK);
                all.push(line);
            }
            Ok(all)
        };
        tokio::join!(writer, reader).1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lines_do_not_depend_on_how_they_arrive(
            chunks in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..60),
                    prop::collection::vec(Just(b'x'), 0..9000),
                ],
                0..8,
            ),
            most in 1_usize..6000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let whole = chunks.concat();
            let mut expected: Vec<_> = whole.split(|byte| *byte == b'\n').collect();
            let rest = expected.pop().unwrap_or_default();
            let longest = expected.iter().map(|line| line.len()).max().unwrap_or(0);
            match runtime.block_on(read(chunks, most)) {
                Ok(lines) => {
                    prop_assert_eq!(&lines, &expected);
                    prop_assert!(longest <= most + CHUNK && rest.len() <= most + CHUNK);
                }
                Err(_) => prop_assert!(longest > most || rest.len() > most),
            }
        }
    }

    #[tokio::test]
    async fn lines_are_split_and_the_rest_is_none() {
        let mut lines = Lines::new(&b"a\r\n\nbc\nrest"[..], 10);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        assert_eq!(all, [&b"a\r"[..], b"", b"bc"]);
    }

    #[tokio::test]
    async fn an_endless_line_is_refused() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'), 100_000);
        assert!(matches!(
            lines.next().await,
            Err(LineError::TooLong(100_000))
        ));
    }
}
