//! The program of the node's own shim, run as containerd runs it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::answer::Answer;
use crate::task::Daemon;

/// Longest time for the inner shim's `start`, and for its `delete`.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an ordinary container could not be handed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InnerError {
    /// The program is not there.
    #[error(
        "cannot run {}, which this pod's ordinary containers need: {source}; install it, or name \
         it in the node's configuration as runtime.ordinary-shim", program.display()
    )]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long.
    #[error("{} {action} took more than {} s", program.display(), COMMAND_TIMEOUT.as_secs())]
    Slow {
        /// The program.
        program: PathBuf,
        /// What it was told.
        action: &'static str,
    },
    /// It failed.
    #[error("{} {action} failed: {reason}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// What it was told.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// It does not answer at the address that it named.
    #[error("cannot connect to {}: {reason}", program.display())]
    Connect {
        /// The program.
        program: PathBuf,
        /// Why.
        reason: String,
    },
    /// The bundle could not be prepared.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// How `start` was called is unknown.
    #[error("{0}")]
    Dialect(String),
}

/// The node's own shim, as a program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    daemon: Daemon,
    pub(super) path: PathBuf,
}

impl Program {
    /// The program at `path`, to be run as `daemon` would.
    pub(crate) fn new(daemon: Daemon, path: PathBuf) -> Self {
        Self { daemon, path }
    }

    /// Containerd, as the program sees it.
    pub(super) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Starts a server called `id` in the directory `home`.
    pub(super) async fn start(
        &self,
        id: &str,
        home: &Path,
        input: &[u8],
    ) -> Result<Answer, InnerError> {
        let output = self.command("start", id, home, input).await?;
        Answer::parse(&output).ok_or_else(|| InnerError::Failed {
            program: self.path.clone(),
            action: "start",
            reason: format!(
                "its answer is not known: {:?}",
                String::from_utf8_lossy(&output)
            ),
        })
    }

    /// Cleans up after container `id`, whose server is dead.
    pub(super) async fn delete(&self, id: &str, bundle: &Path) -> Result<(), InnerError> {
        self.command("delete", id, bundle, &[]).await.map(drop)
    }

    async fn command(
        &self,
        action: &'static str,
        id: &str,
        directory: &Path,
        input: &[u8],
    ) -> Result<Vec<u8>, InnerError> {
        let run = |source| InnerError::Run {
            program: self.path.clone(),
            source,
        };
        let daemon = &self.daemon;
        let mut command = Command::new(&self.path);
        command
            .args(["-namespace", &daemon.namespace, "-address", &daemon.address])
            .args(["-publish-binary", &daemon.publish_binary, "-id", id])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if action == "delete" {
            command.arg("-bundle").arg(directory);
        }
        if daemon.debug {
            command.arg("-debug");
        }
        if let Some(address) = &daemon.ttrpc_address {
            command.env("TTRPC_ADDRESS", address);
        }
        let mut child = command.arg(action).spawn().map_err(run)?;
        let finish = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not read its input says why below.
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        let program = self.path.clone();
        let output = match timeout(COMMAND_TIMEOUT, finish).await {
            Ok(output) => output.map_err(run)?,
            Err(_) => return Err(InnerError::Slow { program, action }),
        };
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let reason = if reason.is_empty() {
                output.status.to_string()
            } else {
                reason
            };
            return Err(InnerError::Failed {
                program,
                action,
                reason,
            });
        }
        Ok(output.stdout)
    }
}
