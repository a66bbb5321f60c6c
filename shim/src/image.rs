//! An image of the machine's disks as a container: mounted, and without a process.
//!
//! The machine reads its disks and its kernel in the root, which stays mounted until `Delete`. Nothing runs:
//! the pid is the holder's, and the container ends when it is told to, or with the holder.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, KillRequest, PidsRequest, PidsResponse,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::events::task::{TaskExit, TaskStart};
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use cri_glue::bundle::Bundle;
use cri_glue::cgroup::{Cgroup, Version};
use rustix::process::Signal;
use vm_api::contract::exit_code::SIGNAL_BASE;

use crate::create::rootfs;
use crate::machine::Wish;
use crate::task::{
    Container, Exit, Fault, Happening, Holder, Life, Phase, Pod, StdioPaths, connected, least, undo,
};

/// The status after a polite request: nothing was left to be done.
const IN_PEACE: u32 = 0;

/// The status after SIGKILL, or when the pod's holder ended.
const BY_FORCE: u32 = SIGNAL_BASE + Signal::KILL.as_raw() as u32;

/// A container of the pod that is an image.
struct Image {
    pod: Arc<Pod>,
    life: Life,
    name: String,
    directory: PathBuf,
    /// The version of the node's control groups; the container has none of its own.
    cgroups: Version,
}

/// Makes the container of `bundle`, whose root is mounted; it and its pid.
pub(crate) fn create(
    pod: &Arc<Pod>,
    bundle: &Bundle,
    holder: &Holder,
    request: &CreateTaskRequest,
) -> (Container, u32) {
    let stdio = StdioPaths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let pid = holder.pid;
    let life = Life::new(request.id.clone(), request.bundle.clone(), pid, stdio);
    let name = bundle.container_name().unwrap_or_default().to_owned();
    let directory = bundle.dir().to_owned();
    pod.set_image(&name, &request.id, rootfs(&directory));
    let cgroup = bundle.cgroups_path().unwrap_or(bundle.dir());
    let image = Arc::new(Image {
        pod: pod.clone(),
        life,
        name,
        directory,
        cgroups: Cgroup::of_spec(cgroup).version(),
    });
    let (watched, holder) = (image.clone(), holder.member.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = holder.life.ended() => watched.end(BY_FORCE),
            _ = watched.life.ended() => {}
        }
    });
    (image, pid)
}

impl Image {
    /// Ends it, unless it has ended. The event is on its way before anybody who waits is told.
    fn end(&self, status: u32) {
        if matches!(self.life.phase(), Phase::Stopped | Phase::Deleted) {
            return;
        }
        let exit = Exit::now(status);
        let Life { id, pid, .. } = &self.life;
        tracing::info!(container = id, status, "the image is let go");
        self.pod.events.publish(&TaskExit {
            container_id: id.clone(),
            id: id.clone(),
            pid: *pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()).into(),
            ..TaskExit::default()
        });
        self.life.exited(exit);
    }
}

#[async_trait]
impl Task for Image {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        self.life.only_itself(&request.exec_id)?;
        Ok(self.life.state_response())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        self.life.only_itself(&request.exec_id)?;
        if !self.life.advance(Happening::Started) {
            return Err(self.life.not_now("started").into());
        }
        let Life { id, pid, .. } = &self.life;
        self.pod.events.publish(&TaskStart {
            container_id: id.clone(),
            pid: *pid,
            ..TaskStart::default()
        });
        Ok(StartResponse {
            pid: *pid,
            ..StartResponse::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        self.life.only_itself(&request.exec_id)?;
        Ok(self.life.wait_response().await)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        self.life.only_itself(&request.exec_id)?;
        match Wish::of(request.signal) {
            Some(Wish::Nothing) => {}
            Some(Wish::Button) => self.end(IN_PEACE),
            Some(Wish::Plug) => self.end(BY_FORCE),
            None => {
                return Err(Fault::Invalid(format!("{} is no signal", request.signal)).into());
            }
        }
        Ok(Empty::default())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        self.life.only_itself(&request.exec_id)?;
        match self.life.phase() {
            Phase::Created => self.end(BY_FORCE),
            Phase::Running | Phase::Paused => return Err(self.life.not_now("deleted").into()),
            Phase::Stopped | Phase::Deleted => {}
        }
        Ok(undo(&self.pod, &self.life, &self.directory).await?)
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> TtrpcResult<Empty> {
        let sentence = format!(
            "container {} is an image of the machine's disks and runs no commands: name the machine's \
             container",
            self.name
        );
        Err(Fault::Unsupported(sentence).into())
    }

    /// There is nothing that a limit could hold for.
    async fn update(&self, _: &TtrpcContext, _: UpdateTaskRequest) -> TtrpcResult<Empty> {
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, _: CloseIORequest) -> TtrpcResult<Empty> {
        Ok(Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, _: PidsRequest) -> TtrpcResult<PidsResponse> {
        Ok(self.life.pids_response())
    }

    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        Ok(connected(self.life.pid))
    }

    async fn stats(&self, _: &TtrpcContext, _: StatsRequest) -> TtrpcResult<StatsResponse> {
        Ok(least(self.cgroups)?)
    }
}
