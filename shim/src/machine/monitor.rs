//! A monitor for tests, that answers as they say.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use qemu_driver::qmp::Qmp;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// QEMU's refusal of a command.
pub(super) const REFUSAL: &str = r#""error": {"class": "GenericError", "desc": "no"}"#;

/// A QEMU that answers each line by `answer`, a member of the answer's object, or else with nothing
/// in particular.
pub(super) async fn monitor(
    bound: Duration,
    answer: impl Fn(&str) -> Option<String> + Send + 'static,
) -> Qmp {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (read, mut write) = UnixStream::from_std(theirs).unwrap().into_split();
    tokio::spawn(async move {
        let version = r#"{"qemu": {"major": 8, "minor": 2, "micro": 1}, "package": ""}"#;
        let mut said = format!("{{\"QMP\": {{\"version\": {version}, \"capabilities\": []}}}}\n");
        let mut lines = BufReader::new(read).lines();
        for id in 0.. {
            write.write_all(said.as_bytes()).await.unwrap();
            let Ok(Some(line)) = lines.next_line().await else {
                return;
            };
            let answer = answer(&line).unwrap_or_else(|| "\"return\": {}".to_owned());
            said = format!("{{{answer}, \"id\": {id}}}\n");
        }
    });
    Qmp::connect(ours, bound).await.unwrap().0
}
