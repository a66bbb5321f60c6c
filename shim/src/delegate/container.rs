//! An ordinary container: every call goes to the inner shim. What the inner shim can no longer tell
//! once it died, the end of the container above all, is kept and told here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    Options, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::events::task::{TaskDelete, TaskExit};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::protobuf::{Message, MessageFull};
use containerd_shim::protos::ttrpc::Error;
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use cri_glue::bundle::Bundle;
use cri_glue::cgroup::is_systemd_form;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use tokio::sync::Mutex;

use super::link::Link;
use crate::task::{
    Answer, Container, Exit, Fault, Life, Pod, Process, StdioPaths, UNKNOWN_STATUS, connected,
    is_not_found,
};

/// Longest time for the inner shim to create a container: hooks and slow disks included.
const CREATE_TIMEOUT: Duration = Duration::from_secs(110);

struct Delegated {
    pod: Arc<Pod>,
    life: Life,
    directory: PathBuf,
    link: Arc<Link>,
    /// Whether the inner shim was given back.
    released: Mutex<bool>,
}

/// Hands the container of `bundle` to the inner shim; its container and its pid.
pub(crate) async fn create(
    pod: &Arc<Pod>,
    bundle: Bundle,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    pod.declare(&request.id, bundle.declared_ports().map_err(Fault::failed)?)
        .await?;
    let directory = bundle.dir().to_owned();
    let link = pod.inner.acquire(&directory).await.map_err(Fault::failed)?;
    let mut inner_request = request.clone();
    inner_request.options = options(pod, &directory, request.options.as_ref()).into();
    let limit = Some(CREATE_TIMEOUT);
    let created: Result<CreateTaskResponse, _> = link
        .call("Create", HashMap::new(), &inner_request, limit)
        .await;
    let pid = match created {
        Ok(created) => created.pid,
        Err(error) => {
            pod.inner.release(&link).await;
            return Err(plain(error));
        }
    };
    let stdio = StdioPaths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let life = Life::new(request.id.clone(), request.bundle.clone(), pid, stdio);
    let container = Arc::new(Delegated {
        pod: pod.clone(),
        life,
        directory,
        link,
        released: Mutex::default(),
    });
    tokio::spawn(container.clone().watch());
    Ok((container, pid))
}

/// The sentence of the inner shim's error, without ttrpc's frame around it.
fn plain(error: Error) -> Fault {
    match error {
        Error::RpcStatus(status) => Fault::Failed(status.message),
        other => Fault::failed(other),
    }
}

/// The inner shim's options: those of containerd if they are for it, else what the bundle and the
/// node's configuration imply.
fn options(pod: &Pod, bundle: &Path, given: Option<&Any>) -> Option<Any> {
    let name = Options::descriptor().full_name().to_owned();
    if let Some(given) = given.filter(|given| given.type_url.rsplit('/').next() == Some(&name)) {
        return Some(given.clone());
    }
    let systemd_cgroup = Bundle::read(bundle).is_ok_and(|bundle| {
        bundle
            .linux()
            .cgroups_path()
            .as_deref()
            .is_some_and(is_systemd_form)
    });
    let binary_name = pod.node.runtime.path.to_string_lossy().into_owned();
    let options = Options {
        systemd_cgroup,
        binary_name,
        ..Options::default()
    };
    let value = options.write_to_bytes().ok()?;
    Some(Any {
        type_url: name,
        value,
        ..Any::default()
    })
}

impl Delegated {
    /// Learns of the end from the inner shim, or sees to it if that died first.
    async fn watch(self: Arc<Self>) {
        let question = WaitRequest {
            id: self.life.id.clone(),
            ..WaitRequest::default()
        };
        let answer: Result<WaitResponse, _> = self
            .link
            .call("Wait", HashMap::new(), &question, None)
            .await;
        match answer {
            Ok(answer) => {
                let at = answer
                    .exited_at
                    .as_ref()
                    .map_or_else(SystemTime::now, time_of);
                self.life.exited(Exit {
                    status: answer.exit_status,
                    at,
                });
            }
            Err(error) => {
                tracing::error!(container = self.life.id, %error, "lost the node's own shim");
                self.link.kill();
                self.link.died().await;
                let exit = end_orphan(self.life.pid).await;
                self.pod.events.publish(&TaskExit {
                    container_id: self.life.id.clone(),
                    id: self.life.id.clone(),
                    pid: self.life.pid,
                    exit_status: exit.status,
                    exited_at: Some(exit.at.into()).into(),
                    ..TaskExit::default()
                });
                self.life.exited(exit);
            }
        }
    }

    async fn pass<Q: Message, A: Message>(
        &self,
        method: &str,
        context: &TtrpcContext,
        request: &Q,
    ) -> TtrpcResult<A> {
        self.link.forward(method, context, request).await
    }

    /// `Delete` after the inner shim died.
    async fn clean_up(&self) -> Result<DeleteResponse, Fault> {
        let exit = self.life.ended().await;
        self.pod
            .inner
            .delete(&self.life.id, &self.directory)
            .await
            .map_err(Fault::failed)?;
        let Life { id, pid, .. } = &self.life;
        self.pod.events.publish(&TaskDelete {
            container_id: id.clone(),
            pid: *pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()).into(),
            ..TaskDelete::default()
        });
        Ok(self.deleted().await)
    }

    /// `Delete` by the inner shim, which does it to its end whatever the caller's limit: an answer
    /// that is given up would be lost. A container that it no longer has is deleted already.
    async fn delete_inside(
        &self,
        context: &TtrpcContext,
        request: &DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        let metadata = context.metadata.clone();
        match self.link.call("Delete", metadata, request, None).await {
            Err(error) if is_not_found(&error) => Ok(self.deleted().await),
            answer => answer,
        }
    }

    /// The answer to `Delete`.
    async fn deleted(&self) -> DeleteResponse {
        let exit = self.life.ended().await;
        DeleteResponse {
            pid: self.life.pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()).into(),
            ..DeleteResponse::default()
        }
    }
}

/// The time that a message carries; one that makes no sense is the epoch's.
fn time_of(timestamp: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u32::try_from(timestamp.nanos).unwrap_or(0);
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Ends the process `pid` that a dead inner shim left to us; how it ended.
async fn end_orphan(pid: u32) -> Exit {
    let orphan = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|id| {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(id), look).is_ok()
        });
    // A pid that is not our child names no process of the container any more.
    match Process::open(pid) {
        Ok(process) if orphan => {
            if let Err(error) = process.signal(Signal::KILL) {
                tracing::error!(pid, %error, "cannot end an orphan");
            }
            process.exited().await
        }
        _ => Exit::now(UNKNOWN_STATUS),
    }
}

macro_rules! pass {
    ($($method:ident $name:literal: $request:ty => $response:ty;)*) => {$(
        fn $method<'a, 'b, 'c>(
            &'a self,
            context: &'b TtrpcContext,
            request: $request,
        ) -> Answer<'c, $response>
        where
            'a: 'c,
            'b: 'c,
        {
            Box::pin(async move { self.pass($name, context, &request).await })
        }
    )*};
}

#[async_trait]
impl Task for Delegated {
    pass! {
        start "Start": StartRequest => StartResponse;
        pause "Pause": PauseRequest => Empty;
        resume "Resume": ResumeRequest => Empty;
        checkpoint "Checkpoint": CheckpointTaskRequest => Empty;
        exec "Exec": ExecProcessRequest => Empty;
        resize_pty "ResizePty": ResizePtyRequest => Empty;
        close_io "CloseIO": CloseIORequest => Empty;
        update "Update": UpdateTaskRequest => Empty;
        stats "Stats": StatsRequest => StatsResponse;
    }

    async fn state(
        &self,
        context: &TtrpcContext,
        request: StateRequest,
    ) -> TtrpcResult<StateResponse> {
        if request.exec_id.is_empty() && self.link.is_dead() {
            return Ok(self.life.state_response());
        }
        self.pass("State", context, &request).await
    }

    /// After the inner shim's death the container is ended in any case: there is nothing to kill.
    async fn kill(&self, context: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        let killed = self.pass("Kill", context, &request).await;
        if killed.is_err() && self.link.is_dead() {
            self.life.ended().await;
            return Err(Fault::NotFound(format!("the process of container {}", request.id)).into());
        }
        killed
    }

    async fn pids(
        &self,
        context: &TtrpcContext,
        request: PidsRequest,
    ) -> TtrpcResult<PidsResponse> {
        if self.link.is_dead() {
            return Ok(self.life.pids_response());
        }
        self.pass("Pids", context, &request).await
    }

    async fn wait(
        &self,
        context: &TtrpcContext,
        request: WaitRequest,
    ) -> TtrpcResult<WaitResponse> {
        if request.exec_id.is_empty() {
            return Ok(self.life.wait_response().await);
        }
        self.pass("Wait", context, &request).await
    }

    /// The server is one for the whole pod: ours.
    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        Ok(connected(self.life.pid))
    }

    async fn delete(
        &self,
        context: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        if !request.exec_id.is_empty() {
            return self.pass("Delete", context, &request).await;
        }
        let deleted = if self.link.is_dead() {
            self.clean_up().await?
        } else {
            self.delete_inside(context, &request).await?
        };
        // Two calls may meet here.
        let mut released = self.released.lock().await;
        if !std::mem::replace(&mut *released, true) {
            self.pod.inner.release(&self.link).await;
        }
        Ok(deleted)
    }
}
