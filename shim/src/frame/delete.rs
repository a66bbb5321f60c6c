//! `delete`: containerd's last word about a container whose connection has closed, in its bundle.
//!
//! A living server is asked to end the container; after that, or when the server was killed, what
//! is left is undone from the record alone. Twice is as good as once.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use containerd_shim::Flags;
use containerd_shim::api::{
    DeleteRequest, DeleteResponse, KillRequest, ShutdownRequest, WaitRequest,
};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::shim_async::{Client, TaskClient};
use containerd_shim::protos::ttrpc::context;
use cri_glue::bundle::Bundle;
use cri_glue::jail;
use cri_glue::mounts::PodMounts;
use cri_glue::record;
use cri_glue::termination::TerminationLog;
use tokio::time::timeout;

use super::socket;
use crate::delegate;
use crate::task::is_not_found;

/// containerd gives `delete` 5 s in all.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time for the end of a killed container to be told: output that nobody reads holds it up.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for the server's `Delete`, which it does to the end whoever waits.
const DELETE_TIMEOUT: Duration = Duration::from_millis(1500);

/// The status of a container that was ended by force.
const KILLED: u32 = 137;

/// Why something was left behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// The record could not be undone.
    #[error("container {id} was not undone: {source}")]
    Undo {
        /// Its id.
        id: String,
        /// What is left.
        source: record::UndoErrors,
    },
    /// The node's own shim could not be cleaned up after.
    #[error(transparent)]
    Inner(#[from] delegate::InnerError),
    /// The answer could not be written.
    #[error("cannot answer containerd: {0}")]
    Answer(#[source] io::Error),
}

/// Serves `delete`: everything of the container is gone, and a `DeleteResponse` printed.
pub(crate) fn delete(flags: &Flags) -> Result<(), DeleteError> {
    let bundle = bundle_of(flags);
    let address = socket::saved_address(&bundle);
    let alive = address.as_deref().is_some_and(socket::answers);
    if let Some(address) = address.filter(|_| alive) {
        ask_server(&address, &flags.id);
    }
    // After the server's own way out no record is left, and these find nothing to do.
    let killed = !alive && bundle.join(jail::DIRECTORY).exists();
    let undone = record::undo(&bundle);
    let inner = delegate::clean_up(flags, &bundle, alive);
    if let Some(address) = socket::saved_address(&bundle)
        && !socket::answers(&address)
        && let Err(error) = socket::remove(&address)
    {
        eprintln!("{error}");
    }
    if killed && let Err(reason) = tell(&bundle) {
        eprintln!("the termination message was not written: {reason}");
    }
    undone.map_err(|source| DeleteError::Undo {
        id: flags.id.clone(),
        source,
    })?;
    inner?;

    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: Some(SystemTime::now().into()).into(),
        ..DeleteResponse::default()
    };
    let mut stdout = io::stdout().lock();
    response
        .write_to_bytes()
        .map_err(io::Error::other)
        .and_then(|bytes| stdout.write_all(&bytes))
        .and_then(|()| stdout.flush())
        .map_err(DeleteError::Answer)
}

/// Tells kubelet why the machine of `bundle` ended, which nobody else can.
fn tell(bundle: &Path) -> Result<(), String> {
    let bundle = Bundle::read(bundle).map_err(|error| error.to_string())?;
    let mounts = PodMounts::of(&bundle).map_err(|error| error.to_string())?;
    let Some(log) = TerminationLog::of(&bundle, &mounts) else {
        return Ok(());
    };
    log.write("the machine was ended because its shim was killed")
        .map_err(|error| error.to_string())
}

/// The bundle: containerd names it by a flag, and runs `delete` in it.
fn bundle_of(flags: &Flags) -> PathBuf {
    if flags.bundle.is_empty() {
        std::env::current_dir().unwrap_or_else(|_| Path::new(".").to_owned())
    } else {
        PathBuf::from(&flags.bundle)
    }
}

/// Has the living server end and delete container `id`. It may know nothing of it any more, or
/// hang: then the record is what counts.
fn ask_server(address: &str, id: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let Ok(runtime) = runtime else { return };
    let asked = runtime.block_on(async { timeout(SERVER_TIMEOUT, end(address, id)).await });
    match asked {
        Ok(Ok(())) => {}
        Ok(Err(error)) if is_not_found(&error) => {}
        // It has died meanwhile.
        Ok(Err(_)) if !socket::answers(address) => {}
        Ok(Err(error)) => eprintln!("the shim at {address} did not end container {id}: {error}"),
        Err(_) => eprintln!("the shim at {address} does not answer"),
    }
}

async fn end(address: &str, id: &str) -> containerd_shim::protos::ttrpc::Result<()> {
    let client = TaskClient::new(Client::connect(&with_scheme(address)).await?);
    let context = || context::with_duration(SERVER_TIMEOUT);
    let kill = KillRequest {
        id: id.to_owned(),
        signal: 9,
        all: true,
        ..KillRequest::default()
    };
    // A process that has ended is not found, but its container may be there.
    match client.kill(context(), &kill).await {
        Err(error) if !is_not_found(&error) => return Err(error),
        _ => {}
    }
    let wait = WaitRequest {
        id: id.to_owned(),
        ..WaitRequest::default()
    };
    // The server's `Delete` waits for the rest of the end.
    let _ = timeout(END_TIMEOUT, client.wait(context(), &wait)).await;
    let delete = DeleteRequest {
        id: id.to_owned(),
        ..DeleteRequest::default()
    };
    match timeout(DELETE_TIMEOUT, client.delete(context(), &delete)).await {
        // It ends all the same: it may have been started for a container that never came.
        Ok(Err(error)) if !is_not_found(&error) => return Err(error),
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    let last = ShutdownRequest {
        id: id.to_owned(),
        ..ShutdownRequest::default()
    };
    client.shutdown(context(), &last).await?;
    Ok(())
}

fn with_scheme(address: &str) -> String {
    format!("unix://{}", socket::path(address).display())
}
