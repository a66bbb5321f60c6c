//! A port with an agent behind it, for tests that say what it answers.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The guest's side of the port. Like qemu-ga, it follows a host that synchronises.
pub(crate) struct Port {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Port {
    pub(crate) fn new(guest: UnixStream) -> Self {
        let (read, write) = guest.into_split();
        let read = BufReader::new(read);
        Self { read, write }
    }

    /// The next command and its arguments; `None` when the host hangs up.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        let mut line = Vec::new();
        while self.read.read_until(b'\n', &mut line).await.unwrap() > 0 {
            let delimiter = line.iter().rposition(|byte| *byte == 0xff);
            let json = delimiter.map_or(0, |at| at + 1);
            let mut request: Value = serde_json::from_slice(&line[json..]).unwrap();
            line.clear();
            let command = request["execute"].as_str().unwrap().to_owned();
            let arguments = request["arguments"].take();
            if command != "guest-sync-delimited" {
                return Some((command, arguments));
            }
            self.write.write_all(&[0xff]).await.unwrap();
            self.say(&json!({"return": arguments["id"]})).await;
        }
        None
    }

    /// Answers, in a line that ends as qemu-ga's do.
    pub(crate) async fn say(&mut self, answer: &Value) {
        let line = format!("{answer}\r\n");
        self.write.write_all(line.as_bytes()).await.unwrap();
    }
}
