//! `start`: the address of the pod's server, which is spawned for the pod's sandbox.
//!
//! The socket is bound here and handed to the server as its standard input, so that whoever gets
//! the address can connect at once. The server says on its standard output that it is ready, or
//! why it is not; that reason is what containerd shows.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim::{Flags, StartOpts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use super::bootstrap::{BootstrapError, StartRequest};
use super::options;
use super::socket::{self, Listening, SocketError};

/// What a server writes once it serves; anything else is the reason why it does not.
pub(super) const READY: &str = "ready";

/// Variable that tells the server the path of the node's configuration, if containerd names one.
pub(super) const CONFIG_VARIABLE: &str = "KUBEVIRT_CONFIG";

/// Longest time that a server may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Annotation that CRI writes into each container's spec: the id of its pod's sandbox.
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// What containerd asked was not understood.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The bundle's `config.json` is missing or broken.
    #[error("cannot read the container's {path}: {reason}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The pod's server is dead.
    #[error("the shim of pod sandbox {0} is gone: the pod cannot get another container; delete it")]
    Gone(String),
    /// The server could not be spawned.
    #[error("cannot spawn the shim's server: {0}")]
    Spawn(#[source] io::Error),
    /// The server said why it cannot serve.
    #[error("{0}")]
    Refused(String),
    /// The server neither served nor said why.
    #[error("the shim's server was not ready after {} s", READY_TIMEOUT.as_secs())]
    Silent,
}

/// Serves `start`: prints the plain address of the server, the one answer that every containerd
/// takes.
pub(crate) fn start(flags: &Flags) -> Result<(), StartError> {
    let request = StartRequest::read(flags)?;
    let bundle = Path::new(".");
    let sandbox = sandbox_of(bundle)?;
    let group = sandbox.as_deref().unwrap_or(&request.options.id);
    let address = request.options.socket_address(group);

    request.dialect.save(bundle)?;
    socket::save_address(bundle, &address)?;
    if group == request.options.id {
        if let Listening::Bound(listener) = socket::listen(&address)? {
            spawn(&request.options, &address, listener.into())
                .inspect_err(|_| drop(socket::remove(&address)))?;
        }
    } else if !socket::answers(&address) {
        return Err(StartError::Gone(group.to_owned()));
    }

    let mut stdout = io::stdout().lock();
    stdout
        .write_all(address.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(StartError::Spawn)
}

/// The sandbox that the container of `bundle` belongs to, by the annotation of its spec.
fn sandbox_of(bundle: &Path) -> Result<Option<String>, StartError> {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    let path = bundle.join("config.json");
    let refuse = |reason: String| StartError::Spec {
        path: path.clone(),
        reason,
    };
    let text = fs::read(&path).map_err(|error| refuse(error.to_string()))?;
    let mut spec: Spec =
        serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    Ok(spec.annotations.remove(SANDBOX_ID))
}

/// Spawns the server with `socket` as its standard input and waits until it is ready.
fn spawn(start: &StartOpts, address: &str, socket: OwnedFd) -> Result<(), StartError> {
    let mut command = Command::new(std::env::current_exe().map_err(StartError::Spawn)?);
    command
        .args(["-namespace", &start.namespace, "-id", &start.id])
        .args([
            "-address",
            &start.address,
            "-publish-binary",
            &start.publish_binary,
        ])
        .args(["-socket", address])
        // Containerd's own as a unit of systemd: what the server runs must not speak for it.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if start.debug {
        command.arg("-debug");
    }
    if !start.ttrpc_address.is_empty() {
        command.env("TTRPC_ADDRESS", &start.ttrpc_address);
    }
    if let Some(path) = options::config_path(&start.extensions) {
        command.env(CONFIG_VARIABLE, path);
    }
    let mut child = command.spawn().map_err(StartError::Spawn)?;
    let verdict = await_ready(&mut child);
    if verdict.is_err() {
        // It may have ended by itself.
        drop(child.kill());
        drop(child.wait());
    } else {
        raise_oom_score(child.id());
    }
    verdict
}

fn await_ready(child: &mut Child) -> Result<(), StartError> {
    let Some(mut stdout) = child.stdout.take() else {
        return Err(StartError::Silent);
    };
    let end = Instant::now() + READY_TIMEOUT;
    let mut said = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left).unwrap_or_default();
        let readable = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&wait))
            .map_err(|error| StartError::Spawn(error.into()))?;
        if readable == 0 {
            return Err(StartError::Silent);
        }
        let mut chunk = [0; 1024];
        let count = stdout.read(&mut chunk).map_err(StartError::Spawn)?;
        said.extend_from_slice(&chunk[..count]);
        if count == 0 {
            break;
        }
    }
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        READY => Ok(()),
        "" => Err(StartError::Refused(
            "the shim's server died at its start".into(),
        )),
        reason => Err(StartError::Refused(reason.to_owned())),
    }
}

/// Makes the server a little likelier to be ended for memory than containerd, as containerd's own
/// shims do. Best effort: without the right to do so, the server keeps containerd's score.
fn raise_oom_score(server: u32) {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if let Ok(score) = own.trim().parse::<i32>() {
        let raised = (score + 1).min(1000).to_string();
        drop(fs::write(format!("/proc/{server}/oom_score_adj"), raised));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_names_the_group() {
        let bundle = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(bundle.path().join("config.json"), text).unwrap();
        write(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        assert_eq!(sandbox_of(bundle.path()).unwrap().as_deref(), Some("pod"));
        write(r#"{"ociVersion":"1.0.2"}"#);
        assert_eq!(sandbox_of(bundle.path()).unwrap(), None);
        write("{");
        let error = sandbox_of(bundle.path()).unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
    }
}
