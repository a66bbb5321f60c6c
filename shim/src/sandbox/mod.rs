//! The sandbox ("pause") container: a record, and the holder of the pod's namespaces.
//!
//! The holder is PID 1 of the pod's PID namespace. When it ends, with the shim or by `Kill`, the
//! kernel ends everything in that namespace, QEMU first of all.

mod holder;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use containerd_shim::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, DeleteRequest, DeleteResponse, Empty,
    ExecProcessRequest, KillRequest, PidsRequest, PidsResponse, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use cri_glue::bundle::Bundle;
use cri_glue::cgroup::Cgroup;
use cri_glue::runtime::Runtime;
use cri_glue::sandbox::Sandbox as Facts;
use rustix::process::Signal;

use crate::create::rootfs;
use crate::resources;
use crate::task::{
    Container, Fault, Holder, Life, Member, Phase, Pod, Process, StdioPaths, blocking,
};

/// The sandbox of the pod.
struct Sandbox {
    member: Arc<Member>,
    runtime: Runtime,
    bundle: PathBuf,
    /// The shim's end of the pipe to the holder.
    line: Mutex<Option<OwnedFd>>,
}

/// Makes the sandbox of `bundle`, whose root is mounted; its container and its pid.
pub(crate) async fn create(
    pod: &Arc<Pod>,
    bundle: Bundle,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    let facts = Facts::from_bundle(&bundle).map_err(Fault::failed)?;
    let cgroups_path = facts.cgroups_path.clone();
    let runtime = Runtime::new(&pod.node, &pod.daemon.namespace, cgroups_path.as_deref());
    let (made, runtime, directory) = {
        let directory = bundle.dir().to_owned();
        blocking(move || {
            let made = holder::create(&bundle, &rootfs(bundle.dir()), &runtime);
            made.map(|made| (made, runtime, directory))
                .map_err(Fault::failed)
        })
        .await?
    };
    let pid = made.pid;
    let process = Process::open(pid)
        .map_err(|error| Fault::failed(format!("the pod's holder {pid} is gone: {error}")))?;
    let life = Life::new(
        request.id.clone(),
        request.bundle.clone(),
        pid,
        StdioPaths::default(),
    );
    let cgroup = cgroups_path.as_deref().map(Cgroup::of_spec);
    let bundle = holder::bundle_of(&directory);
    let member = Arc::new(Member::new(pod.clone(), life, process, directory, cgroup));
    member.watch(|exit| async move { exit });
    pod.set_holder(Some(Holder {
        sandbox: Arc::new(facts),
        pid,
        member: member.clone(),
    }));
    let line = Mutex::new(Some(made.line));
    Ok((
        Arc::new(Sandbox {
            member,
            runtime,
            bundle,
            line,
        }),
        pid,
    ))
}

impl Sandbox {
    /// Ends the holder in peace, with status 0.
    fn hang_up(&self) {
        self.line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

#[async_trait]
impl Task for Sandbox {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        self.member.life.only_itself(&request.exec_id)?;
        Ok(self.member.life.state_response())
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> TtrpcResult<StartResponse> {
        self.member.life.only_itself(&request.exec_id)?;
        let runtime = self.runtime.clone();
        let start = blocking(move || {
            runtime
                .start(&request.id)
                .map_err(|error| Fault::failed(format!("cannot start the pod's holder: {error}")))
        });
        Ok(self.member.start(start).await?)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        self.member.life.only_itself(&request.exec_id)?;
        Ok(self.member.life.wait_response().await)
    }

    /// A signal that asks for the end gets it, as from the pause container.
    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        self.member.life.only_itself(&request.exec_id)?;
        let started = self.member.life.phase() != Phase::Created;
        match Signal::from_named_raw(i32::try_from(request.signal).unwrap_or_default()) {
            Some(Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP) if started => {
                self.hang_up();
            }
            // The holder listens to nothing else, and before its start to nothing at all.
            Some(_) => self.member.send(Signal::KILL)?,
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
        self.member.life.only_itself(&request.exec_id)?;
        let deleted = self.member.delete().await?;
        self.member.pod.set_holder(None);
        Ok(deleted)
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> TtrpcResult<Empty> {
        Err(
            Fault::Unsupported("the pod's sandbox runs no commands: name a container".into())
                .into(),
        )
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        let resources = resources::parse(&request)?;
        let (runtime, bundle) = (self.runtime.clone(), self.bundle.clone());
        blocking(move || {
            runtime
                .update(&request.id, &bundle, &resources)
                .map_err(Fault::failed)
        })
        .await?;
        Ok(Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, _: PidsRequest) -> TtrpcResult<PidsResponse> {
        Ok(self.member.pids())
    }

    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        Ok(self.member.connect())
    }

    async fn stats(&self, _: &TtrpcContext, _: StatsRequest) -> TtrpcResult<StatsResponse> {
        Ok(self.member.stats().await?)
    }
}
