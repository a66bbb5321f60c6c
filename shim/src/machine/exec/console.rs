//! The serial console for a client beside the container's own.

use std::io;

use tokio::sync::broadcast::error::RecvError;

use super::client::{CHUNK, Typed};
use crate::stdio::{Console, Sink};

/// The key that leaves the console of a terminal, Ctrl-], as telnet and virtctl have it.
const LEAVE: u8 = 0x1d;

/// What a client at a terminal is told first.
pub(super) const WELCOME: &str =
    "Connected with the serial console: Enter wakes it, Ctrl-] leaves it.";

/// Connects a client with the serial console, until its input or the machine ends.
///
/// Typing may wait for the guest, or for another who types: printing never waits for typing.
pub(super) async fn attach(
    console: &Console,
    mut typed: Typed,
    sink: &mut Sink,
    terminal: bool,
) -> io::Result<()> {
    let Some(mut printed) = console.listen() else {
        return Ok(());
    };
    let typing = async {
        let mut piece = vec![0; CHUNK];
        loop {
            let count = typed.next(&mut piece).await?;
            let keys = &piece[..count];
            let left = keys.iter().position(|key| terminal && *key == LEAVE);
            console.write_all(&keys[..left.unwrap_or(count)]).await?;
            if left.is_some() || keys.is_empty() {
                return Ok(());
            }
        }
    };
    let printing = async {
        loop {
            match printed.recv().await {
                Ok(chunk) => sink.write_all(&chunk).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    };
    tokio::select! {
        done = typing => done,
        done = printing => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use crate::stdio::Owner;
    use std::path::Path;
    use std::time::Duration;

    use tokio::sync::watch;

    use crate::stdio::Input;
    use crate::stdio::tests::fifo;
    use crate::task::StdioPaths;

    /// A client that types more than anything holds; what it sees printed.
    async fn typist(console: &Console, directory: &Path, name: &str) -> [u8; 5] {
        let stdin = fifo(directory, &format!("{name}-in"));
        let stdout = fifo(directory, &format!("{name}-out"));
        let (_open, closed) = watch::channel(false);
        let input = Some(Input::open(&stdin).unwrap());
        // Held up until the input is dropped.
        std::thread::spawn(move || std::fs::write(stdin, vec![b'x'; 8 << 20]));
        let path = stdout.clone();
        let printed = tokio::task::spawn_blocking(move || {
            let mut text = [0; 5];
            std::fs::File::open(path)?.read_exact(&mut text)?;
            io::Result::Ok(text)
        });
        let mut sink = Sink::open_for_process("stdout", &stdout).await.unwrap();
        let printed = tokio::time::timeout(Duration::from_secs(20), printed);
        tokio::select! {
            done = attach(console, Typed { input, closed }, &mut sink, false) => panic!("{done:?}"),
            seen = printed => seen.expect("it is printed").unwrap().unwrap(),
        }
    }

    #[tokio::test]
    async fn who_types_to_nobody_still_sees_what_is_printed_as_do_others() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let paths = StdioPaths::default();
        let owner = Owner {
            id: "c",
            namespace: "n",
        };
        let console = Console::connect(ours, &paths, owner, true).await.unwrap();
        let prints = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            qemu.write_all(b"hello").unwrap();
        };
        let one = typist(&console, directory.path(), "one");
        let other = typist(&console, directory.path(), "other");
        let (one, other, ()) = tokio::join!(one, other, prints);
        assert_eq!([one, other], [*b"hello"; 2]);
    }
}
