//! The machine container: a QEMU that `cri_glue` launched, under containerd's verbs.
//!
//! `Create` makes the paused machine, `Start` lets it run, `Kill` presses the power button or pulls
//! the plug. Its process is watched like every other; what its end means is said by `ending`.

mod agent;
mod create;
mod credentials;
mod disk_errors;
mod ending;
mod exec;
mod helpers;
mod limits;
#[cfg(test)]
mod monitor;
mod power;
mod resize;
mod signal;
mod target;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest,
    PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::protos::events::task::{TaskPaused, TaskResumed};
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use cri_glue::launch::MachineNetwork;
use qemu_driver::qmp::Qmp;
use rustix::process::Signal;

use crate::resources;
use crate::stdio::Console;
use crate::task::{Fault, Happening, Member, Phase, to_the_end};
use agent::GuestAgent;
pub(crate) use create::create;
use exec::Execs;
use power::PowerButton;
use resize::Resize;
pub(crate) use signal::Wish;

/// The pod's machine.
struct Machine {
    member: Arc<Member>,
    qmp: Qmp,
    button: Arc<PowerButton>,
    console: Arc<Console>,
    guest: Arc<GuestAgent>,
    execs: Execs,
    resize: Arc<Resize>,
    /// Serves the guest's DHCP for as long as the machine lives.
    network: Mutex<Option<Arc<MachineNetwork>>>,
    /// It stays paused when it is started, until the verb `vm:resume`.
    starts_paused: bool,
}

impl Machine {
    fn unsupported<T>(&self, sentence: &str) -> TtrpcResult<T> {
        Err(Fault::Unsupported(sentence.to_owned()).into())
    }

    /// Lets the paused guest run again.
    async fn go_on(&self) -> Result<(), Fault> {
        self.qmp.cont().await.map_err(Fault::failed)?;
        self.member.life.advance(Happening::Resumed);
        let container_id = self.member.life.id.clone();
        self.member.pod.events.publish(&TaskResumed {
            container_id,
            ..TaskResumed::default()
        });
        Ok(())
    }

    /// Presses the power button; what follows is the guest's matter.
    async fn power_button(&self) -> Result<(), Fault> {
        tracing::info!("pressing the power button");
        let pressed = self.button.press(&self.member).await;
        pressed.map_err(|error| {
            Fault::failed(format!("cannot press the machine's power button: {error}"))
        })
    }
}

#[async_trait]
impl Task for Machine {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> TtrpcResult<StateResponse> {
        if !request.exec_id.is_empty() {
            return Ok(self.execs.get(&request.exec_id)?.life.state_response());
        }
        Ok(self.member.life.state_response())
    }

    async fn start(
        &self,
        context: &TtrpcContext,
        request: StartRequest,
    ) -> TtrpcResult<StartResponse> {
        if !request.exec_id.is_empty() {
            return Ok(self.execs.start(&request.exec_id, context).await?);
        }
        let start = async {
            if self.starts_paused {
                tracing::info!("the machine starts paused, as its spec says");
                return Ok(());
            }
            // Before it may print.
            self.console.await_first_line();
            self.qmp
                .cont()
                .await
                .map_err(|error| Fault::failed(format!("the machine does not start: {error}")))?;
            self.guest.guest_starts();
            Ok(())
        };
        Ok(self.member.start(start).await?)
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> TtrpcResult<WaitResponse> {
        if !request.exec_id.is_empty() {
            let process = self.execs.get(&request.exec_id)?;
            return Ok(process.life.wait_response().await);
        }
        Ok(self.member.life.wait_response().await)
    }

    /// SIGKILL ends the machine. Every other signal is a polite request, the power button if the
    /// machine runs, but for those that a process ignores by default.
    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> TtrpcResult<Empty> {
        if !request.exec_id.is_empty() {
            self.execs.kill(&request)?;
            return Ok(Empty::default());
        }
        let wish = Wish::of(request.signal)
            .ok_or_else(|| Fault::Invalid(format!("{} is no signal", request.signal)))?;
        match (wish, self.member.life.phase()) {
            (Wish::Nothing, _) | (_, Phase::Stopped | Phase::Deleted) => {}
            // A machine that never ran, or does not run, cannot follow its power button.
            (Wish::Plug, _) | (_, Phase::Created) => self.member.send(Signal::KILL)?,
            _ if !self.guest.has_started() => self.member.send(Signal::KILL)?,
            (_, Phase::Paused) => {
                self.go_on().await?;
                self.power_button().await?;
            }
            (_, Phase::Running) => self.power_button().await?,
        }
        Ok(Empty::default())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        if !request.exec_id.is_empty() {
            return Ok(self.execs.delete(&request).await?);
        }
        let deleted = self.member.delete().await?;
        self.network
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.console.close();
        Ok(deleted)
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

    async fn pause(&self, _: &TtrpcContext, _: PauseRequest) -> TtrpcResult<Empty> {
        if self.member.life.phase() != Phase::Running {
            return Err(self.member.life.not_now("paused").into());
        }
        self.qmp.pause().await.map_err(Fault::failed)?;
        self.member.life.advance(Happening::Paused);
        let container_id = self.member.life.id.clone();
        self.member.pod.events.publish(&TaskPaused {
            container_id,
            ..TaskPaused::default()
        });
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, _: ResumeRequest) -> TtrpcResult<Empty> {
        if self.member.life.phase() != Phase::Paused {
            return Err(self.member.life.not_now("resumed").into());
        }
        self.go_on().await?;
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> TtrpcResult<Empty> {
        let resize = self.resize.clone();
        let wanted = resources::parse(&request)?;
        to_the_end(async move { resize.update(wanted).await }).await?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> TtrpcResult<Empty> {
        match request.exec_id.as_str() {
            _ if !request.stdin => {}
            "" => self.console.close_input(),
            exec_id => self.execs.get(exec_id)?.close_input(),
        }
        Ok(Empty::default())
    }

    /// A serial line has no size: for the machine itself there is nothing to do, and nothing is lost.
    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> TtrpcResult<Empty> {
        if !request.exec_id.is_empty() {
            self.execs.resize(&request)?;
        }
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> TtrpcResult<Empty> {
        self.execs.add(&request)?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> TtrpcResult<Empty> {
        self.unsupported("a machine cannot be checkpointed: its guest's state is not a process's")
    }
}
