//! The inner shim's process: started with the pod's first ordinary container, in the dialect in
//! which containerd started us for that container, and shut down with the last.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::api::{Empty, ShutdownRequest};
use containerd_shim::protos::protobuf::Message;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::answer::Answer;
use super::leftover;
use super::link::Link;
use crate::frame::Dialect;
use crate::task::Daemon;

/// Longest time for the inner shim's `start`, and for its `delete`.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the inner shim to end after `Shutdown`, as containerd gives.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

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

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    containers: usize,
}

/// The pod's inner shim, running or not.
pub(crate) struct InnerShim {
    daemon: Daemon,
    program: PathBuf,
    state: Mutex<State>,
}

impl InnerShim {
    /// An inner shim that is started when the first container needs it.
    pub(crate) fn new(daemon: Daemon, program: PathBuf) -> Self {
        Self {
            daemon,
            program,
            state: Mutex::default(),
        }
    }

    /// The shim for one more container `id` in `bundle`; give it back with [`Self::release`].
    pub(super) async fn acquire(&self, id: &str, bundle: &Path) -> Result<Arc<Link>, InnerError> {
        let mut state = self.state.lock().await;
        let running = state.link.clone().filter(|link| !link.is_dead());
        let link = match running {
            Some(link) => link,
            None => {
                let answer = self.start(id, bundle).await?;
                let address = answer.address.clone();
                let link = Link::connect(answer, &self.daemon.namespace).await;
                let link = link.map_err(|error| InnerError::Connect {
                    program: self.program.clone(),
                    reason: format!("{error} (at {address})"),
                })?;
                let pid = link.process.pid();
                tracing::info!(pid, address, "started the node's own shim");
                state.containers = 0;
                state.link.insert(Arc::new(link)).clone()
            }
        };
        if let Err(error) = leftover::note(bundle, &link, &self.program) {
            if state.containers == 0 {
                state.link = None;
                link.kill();
                leftover::remove_socket(&link.address);
            }
            return Err(error);
        }
        state.containers += 1;
        Ok(link)
    }

    /// One container less; without any, the shim is ended.
    pub(super) async fn release(&self, link: &Arc<Link>) {
        let mut state = self.state.lock().await;
        // A shim that died was replaced, and its containers count no more.
        if !state
            .link
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            return;
        }
        state.containers = state.containers.saturating_sub(1);
        if state.containers > 0 {
            return;
        }
        state.link = None;
        let question = ShutdownRequest {
            now: true,
            ..ShutdownRequest::default()
        };
        let shutdown = async {
            // The answer may be lost when the process ends: its end is what counts.
            let _: Result<Empty, _> = link
                .call(
                    "Shutdown",
                    Default::default(),
                    &question,
                    Some(SHUTDOWN_TIMEOUT),
                )
                .await;
            link.died().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, shutdown).await.is_err() {
            tracing::warn!(
                pid = link.process.pid(),
                "the node's own shim did not shut down"
            );
            link.kill();
            leftover::remove_socket(&link.address);
        }
    }

    async fn start(&self, id: &str, bundle: &Path) -> Result<Answer, InnerError> {
        let dialect =
            Dialect::load(bundle).map_err(|error| InnerError::Dialect(error.to_string()))?;
        let input = match dialect {
            Dialect::Flags => Vec::new(),
            Dialect::Params(mut params) => {
                params.instance_id = id.to_owned();
                params.write_to_bytes().unwrap_or_default()
            }
        };
        let output = self.command("start", id, bundle, &input).await?;
        Answer::parse(&output).ok_or_else(|| InnerError::Failed {
            program: self.program.clone(),
            action: "start",
            reason: format!(
                "its answer is not known: {:?}",
                String::from_utf8_lossy(&output)
            ),
        })
    }

    /// Has the inner shim's program clean up after container `id`, whose server is dead.
    pub(super) async fn delete(&self, id: &str, bundle: &Path) -> Result<(), InnerError> {
        self.command("delete", id, bundle, &[]).await.map(drop)
    }

    async fn command(
        &self,
        action: &'static str,
        id: &str,
        bundle: &Path,
        input: &[u8],
    ) -> Result<Vec<u8>, InnerError> {
        let run = |source| InnerError::Run {
            program: self.program.clone(),
            source,
        };
        let daemon = &self.daemon;
        let mut command = Command::new(&self.program);
        command
            .args(["-namespace", &daemon.namespace, "-address", &daemon.address])
            .args(["-publish-binary", &daemon.publish_binary, "-id", id])
            .current_dir(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if action == "delete" {
            command.arg("-bundle").arg(bundle);
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
        let program = self.program.clone();
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
