//! What the sandbox and the machine have in common: a process made by the OCI runtime, watched from
//! its creation to its end, and the calls whose answer follows from that alone.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use containerd_shim::api::{
    ConnectResponse, DeleteResponse, PidsResponse, StartResponse, StatsResponse,
};
use containerd_shim::protos::events::task::{TaskDelete, TaskExit, TaskStart};
use cri_glue::cgroup::Cgroup;
use cri_glue::record;
use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Exit, Fault, Happening, Life, Phase, Pod, Process, blocking, connected, metrics};

/// Longest time between SIGKILL and the end of a process; more means that the kernel cannot end it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A container of the pod with a process of ours.
pub(crate) struct Member {
    pub(crate) pod: Arc<Pod>,
    pub(crate) life: Life,
    pub(crate) process: Process,
    directory: PathBuf,
    cgroup: Option<Cgroup>,
    /// Whether the process was sent SIGKILL, so that its end is certain.
    doomed: AtomicBool,
    /// Held while the process is started and while its end is told, so that the events of a fast
    /// exit come in their order.
    turn: Mutex<()>,
}

impl Member {
    /// The member whose bundle is `directory` and whose process is `process`.
    pub(crate) fn new(
        pod: Arc<Pod>,
        life: Life,
        process: Process,
        directory: PathBuf,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self {
            pod,
            life,
            process,
            directory,
            cgroup,
            doomed: AtomicBool::new(false),
            turn: Mutex::default(),
        }
    }

    /// Watches the process from now on. At its end, `last` says what becomes of the exit before
    /// it is told to anybody.
    pub(crate) fn watch<F>(self: &Arc<Self>, last: impl FnOnce(Exit) -> F + Send + 'static)
    where
        F: Future<Output = Exit> + Send,
    {
        let member = self.clone();
        tokio::spawn(async move {
            let exit = member.process.exited().await;
            let _turn = member.turn.lock().await;
            let exit = last(exit).await;
            let Life { id, pid, .. } = &member.life;
            tracing::info!(container = id, pid, status = exit.status, "exited");
            member.pod.events.publish(&TaskExit {
                container_id: id.clone(),
                id: id.clone(),
                pid: *pid,
                exit_status: exit.status,
                exited_at: Some(exit.at.into()).into(),
                ..TaskExit::default()
            });
            member.life.exited(exit);
        });
    }

    /// `Start`: does `work`, unless the container is past that.
    pub(crate) async fn start(
        &self,
        work: impl Future<Output = Result<(), Fault>>,
    ) -> Result<StartResponse, Fault> {
        let _turn = self.turn.lock().await;
        if self.life.phase() != Phase::Created {
            return Err(self.life.not_now("started"));
        }
        work.await?;
        self.life.advance(Happening::Started);
        let pid = self.life.pid;
        let container_id = self.life.id.clone();
        self.pod.events.publish(&TaskStart {
            container_id,
            pid,
            ..TaskStart::default()
        });
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    /// Ends the process at once and waits until it is gone.
    pub(crate) async fn end(&self) -> Result<(), Fault> {
        self.send(Signal::KILL)?;
        let pid = self.life.pid;
        match timeout(KILL_TIMEOUT, self.life.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::Timeout(format!(
                "process {pid} still exists {} s after SIGKILL",
                KILL_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Sends `signal` to the process.
    pub(crate) fn send(&self, signal: Signal) -> Result<(), Fault> {
        let pid = self.process.pid();
        self.process.signal(signal).map_err(|error| {
            Fault::failed(format!(
                "cannot send signal {} to {pid}: {error}",
                signal.as_raw()
            ))
        })?;
        if signal == Signal::KILL {
            self.doomed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `Delete`: undoes everything that was set up for the container. A process that was sent
    /// SIGKILL is waited for.
    pub(crate) async fn delete(&self) -> Result<DeleteResponse, Fault> {
        match self.life.phase() {
            Phase::Created => self.end().await?,
            Phase::Running | Phase::Paused if self.doomed.load(Ordering::Relaxed) => {
                self.end().await?;
            }
            Phase::Running | Phase::Paused => return Err(self.life.not_now("deleted")),
            Phase::Stopped | Phase::Deleted => {}
        }
        undo(&self.pod, &self.life, &self.directory).await
    }

    /// `Connect`.
    pub(crate) fn connect(&self) -> ConnectResponse {
        connected(self.life.pid)
    }

    /// `Pids`.
    pub(crate) fn pids(&self) -> PidsResponse {
        self.life.pids_response()
    }

    /// `Stats`.
    pub(crate) async fn stats(&self) -> Result<StatsResponse, Fault> {
        match self.cgroup.clone() {
            Some(cgroup) => blocking(move || metrics(&cgroup)).await,
            None => Err(Fault::Unsupported(format!(
                "container {} has no control group of its own, so it has no figures",
                self.life.id
            ))),
        }
    }
}

/// Undoes what was set up for the container of `life`, once that has ended, by the record in `directory`,
/// and tells that it is deleted.
pub(crate) async fn undo(
    pod: &Pod,
    life: &Life,
    directory: &Path,
) -> Result<DeleteResponse, Fault> {
    let exit = life.ended().await;
    let directory = directory.to_owned();
    blocking(move || record::undo(&directory).map_err(Fault::failed)).await?;
    life.advance(Happening::Deleted);
    let Life { id, pid, .. } = life;
    pod.events.publish(&TaskDelete {
        container_id: id.clone(),
        pid: *pid,
        exit_status: exit.status,
        exited_at: Some(exit.at.into()).into(),
        ..TaskDelete::default()
    });
    Ok(DeleteResponse {
        pid: *pid,
        exit_status: exit.status,
        exited_at: Some(exit.at.into()).into(),
        ..DeleteResponse::default()
    })
}
