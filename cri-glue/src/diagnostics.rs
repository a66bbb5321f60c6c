//! What QEMU, or a program beside it, says on its standard error: logged line by line, its end kept for error messages.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

/// Lines that are kept.
const KEPT_LINES: usize = 20;

/// Bytes of a line that are kept; the rest is a line of its own.
const LINE_BYTES: u64 = 1024;

/// Lines of one machine that are logged: a guest can make QEMU complain as often as it likes.
const LOGGED_LINES: usize = 1000;

/// The reader of a program's standard error. It ends with the program.
#[derive(Debug)]
pub struct Diagnostics {
    tail: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Diagnostics {
    /// Reads `pipe` until its end; `program` is for the log. Must be called in a Tokio runtime.
    pub fn read(program: &str, pipe: OwnedFd) -> io::Result<Self> {
        let receiver = Receiver::from_owned_fd(pipe)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let reader = tokio::spawn(drain(
            program.to_owned(),
            BufReader::new(receiver),
            Arc::clone(&tail),
        ));
        Ok(Self { tail, reader })
    }

    /// The last lines, the newest at the end.
    pub fn tail(&self) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().cloned().collect()
    }

    /// The last lines once the program has ended.
    pub async fn at_end(&mut self) -> Vec<String> {
        // That the reader was cancelled or has panicked leaves what it read.
        let _ = (&mut self.reader).await;
        self.tail()
    }
}

async fn drain(program: String, mut pipe: BufReader<Receiver>, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut logged = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut pipe)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = printable(&line);
        if text.is_empty() {
            continue;
        }
        if logged < LOGGED_LINES {
            tracing::warn!(target: "qemu", program, "{text}");
        } else if logged == LOGGED_LINES {
            tracing::warn!(target: "qemu", program, "further lines are not logged");
        }
        logged = logged.saturating_add(1);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == KEPT_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// A line without what controls a terminal: its end is shown to whoever asks why the machine ended.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_is_said_is_kept_in_bounds(
            said in prop::collection::vec(
                prop_oneof![
                    any::<Vec<u8>>(),
                    (0..3000_usize).prop_map(|length| vec![b'x'; length]),
                    prop::collection::vec(prop_oneof![Just(b'\n'), Just(0x1b), any::<u8>()], 0..60),
                ],
                0..30,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tail = runtime.block_on(async {
                let (reader, mut writer) = std::io::pipe().unwrap();
                let mut diagnostics = Diagnostics::read("qemu", reader.into()).unwrap();
                let write = tokio::task::spawn_blocking(move || {
                    for piece in said {
                        writer.write_all(&piece).unwrap();
                    }
                });
                let tail = diagnostics.at_end().await;
                write.await.unwrap();
                tail
            });
            prop_assert!(tail.len() <= KEPT_LINES);
            for line in tail {
                // Each byte that is no UTF-8 becomes three.
                prop_assert!(!line.is_empty() && line.len() <= 3 * LINE_BYTES as usize);
                prop_assert!(!line.contains(char::is_control), "{:?}", line);
            }
        }
    }

    #[tokio::test]
    async fn the_end_is_kept_in_bounds() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut diagnostics = Diagnostics::read("qemu", reader.into()).unwrap();
        let write = tokio::task::spawn_blocking(move || {
            for number in 0..2000 {
                writeln!(writer, "line {number}").unwrap();
            }
            writer.write_all(&[b'x'; 3000]).unwrap();
            writer.write_all(b"\nlast").unwrap();
        });
        let tail = diagnostics.at_end().await;
        write.await.unwrap();
        assert_eq!(tail.len(), KEPT_LINES);
        assert_eq!(tail.last().unwrap(), "last");
        assert!(tail.iter().all(|line| line.len() <= LINE_BYTES as usize));
        assert_eq!(tail[0], "line 1984");
    }
}
