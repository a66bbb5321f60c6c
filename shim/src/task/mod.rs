//! The Task service of one pod: a router from container ids to what each container is.
//!
//! Containerd's calls are cancelled with its connection; what changes something is therefore done
//! in a task of its own, which ends whatever becomes of the caller. Calls that only ask never wait.

mod exit;
mod fault;
mod life;
mod member;
mod pod;
mod readable;
mod router;
mod stats;

pub(crate) use exit::Process;
pub(crate) use fault::{Fault, is_not_found};
pub(crate) use life::{Exit, Happening, Life, Phase, StdioPaths, UNKNOWN_STATUS};
pub(crate) use member::{Member, undo};
pub(crate) use pod::{Daemon, Holder, Pod};
pub(crate) use readable::readable;
pub(crate) use router::{Answer, Router, connected};
pub(crate) use stats::{least, metrics};

use std::future::Future;
use std::sync::Arc;

use containerd_shim::Task;

/// One container of the pod; it answers the calls that name it.
pub(crate) type Container = Arc<dyn Task + Send + Sync>;

/// Runs `work` to its end, also if the caller is cancelled meanwhile.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Fault::failed(error)))
}

/// Runs `work`, which blocks, where it blocks nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Fault::failed(error)))
}
