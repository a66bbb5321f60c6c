//! A logging program (`binary://`): it reads the container's output from descriptor 3, its errors
//! from 4, and closes 5 once it is ready. Its arguments stand in the URI's query.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::StdioError;

/// Longest time for the program to be ready, and to end once its input has ended.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The container whose output it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Containerd's namespace.
    pub(crate) namespace: &'a str,
}

/// A running logging program.
pub(crate) struct Logger {
    program: String,
    child: Child,
    output: pipe::Sender,
    /// A machine has one stream: the other stays silent, and ends with the first.
    _errors: OwnedFd,
}

impl Logger {
    /// Starts the program of `rest`, the part of the URI behind the scheme, and waits until it is
    /// ready.
    pub(super) async fn start(rest: &str, owner: Owner<'_>) -> Result<Self, StdioError> {
        let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
        let failed = |reason: String| StdioError::Logger {
            program: program.to_owned(),
            reason,
        };
        let io_failed = |error: io::Error| failed(error.to_string());
        let open = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| io_failed(error.into()));
        let ((out_reader, out), (err_reader, errors), (ready, ready_writer)) =
            (open()?, open()?, open()?);

        let mut command = Command::new(program);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            command.arg(unescape(key));
            if !value.is_empty() {
                command.arg(unescape(value));
            }
        }
        command
            .env_clear()
            .env("CONTAINER_ID", owner.id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mapping = |child_fd, parent_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        let mappings = vec![
            mapping(3, out_reader),
            mapping(4, err_reader),
            mapping(5, ready_writer),
        ];
        command
            .fd_mappings(mappings)
            .map_err(|error| failed(error.to_string()))?;
        let child = command.spawn().map_err(io_failed)?;
        // Our copies of its descriptors are in the command.
        drop(command);

        let mut ready = pipe::Receiver::from_owned_fd(ready).map_err(io_failed)?;
        let mut byte = [0];
        match timeout(TIMEOUT, ready.read(&mut byte)).await {
            Ok(read) => read.map_err(io_failed)?,
            Err(_) => return Err(failed("it does not say that it is ready".into())),
        };
        let output = pipe::Sender::from_owned_fd(out).map_err(io_failed)?;
        Ok(Self {
            program: program.to_owned(),
            child,
            output,
            _errors: errors,
        })
    }

    /// Writes all of `bytes`.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes).await
    }

    /// Ends its input, and the program if it does not end by itself.
    pub(super) async fn finish(self) {
        let Self {
            program,
            mut child,
            output,
            _errors,
        } = self;
        drop((output, _errors));
        if timeout(TIMEOUT, child.wait()).await.is_err() {
            tracing::warn!(program, "the logging program does not end: it is killed");
            // It may end just now.
            let _ = child.kill().await;
        }
    }
}

/// `text` of a query without its `%XX` and `+`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = || {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            u8::from_str_radix(digits, 16).ok()
        };
        rest = tail;
        match (first, escaped()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn queries_are_unescaped() {
        assert_eq!(unescape("a%2Fb+c"), "a/b c");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz"), "%zz");
    }

    #[tokio::test]
    async fn the_program_gets_everything_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("log");
        let script = "#!/bin/sh\nexec 5>&-\n{ echo $CONTAINER_NAMESPACE/$CONTAINER_ID $1 $2; \
                      cat <&3; } > ${0%/*}/got\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let owner = Owner {
            id: "c",
            namespace: "k8s.io",
        };
        let uri = format!("{}?key=a%20b", program.display());
        let mut logger = Logger::start(&uri, owner).await.unwrap();
        logger.write_all(b"hello").await.unwrap();
        logger.finish().await;
        let got = std::fs::read_to_string(directory.path().join("got")).unwrap();
        assert_eq!(got, "k8s.io/c key a b\nhello");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let owner = Owner {
            id: "c",
            namespace: "n",
        };
        let error = Logger::start("/nowhere/log", owner).await.err().unwrap();
        assert!(error.to_string().contains("/nowhere/log"), "{error}");
    }
}
