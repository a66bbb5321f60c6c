//! The machine container: a QEMU that `cri_glue` launched, under containerd's verbs.
//!
//! `Create` makes the paused machine, `Start` lets it run, `Kill` presses the power button or pulls
//! the plug. Its process is watched like every other; what its end means is said by `ending`.

mod agent;
mod ending;
mod exec;
mod helpers;
mod limits;
#[cfg(test)]
mod monitor;
mod power;
mod resize;
mod target;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim::protos::events::task::{TaskOOM, TaskPaused, TaskResumed};
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use cri_glue::bundle::Bundle;
use cri_glue::launch::{self, Launched, MachineNetwork};
use qemu_driver::agent::Agent;
use qemu_driver::exec::{Room, User};
use qemu_driver::machine::Accelerator;
use qemu_driver::qmp::Qmp;
use rustix::process::Signal;
use vm_api::contract::GUEST_USER_ANNOTATION;

use crate::create::rootfs;
use crate::resources;
use crate::stdio::Console;
use crate::task::{
    Container, Exit, Fault, Happening, Holder, Life, Member, Phase, Pod, Process, StdioPaths,
    to_the_end,
};
use agent::GuestAgent;
use ending::{Causes, Verdict, judge};
use exec::{Execs, Target};
use limits::Limits;
use power::PowerButton;
use resize::{Pinned, Resize};
use target::Start;

/// Longest time for the guest agent to answer.
const AGENT_BOUND: Duration = Duration::from_secs(5);

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
}

/// Makes the machine of `bundle`, whose root is mounted; its container and QEMU's pid.
pub(crate) async fn create(
    pod: &Arc<Pod>,
    bundle: Bundle,
    holder: &Holder,
    request: &CreateTaskRequest,
) -> Result<(Container, u32), Fault> {
    let directory = bundle.dir().to_owned();
    let bundle = Arc::new(bundle);
    let user = guest_user(&bundle)?;
    let launched = launch::create(launch::Request {
        node: pod.node_now().map_err(Fault::failed)?,
        bundle: bundle.clone(),
        sandbox: holder.sandbox.clone(),
        rootfs: rootfs(&directory),
        holder: holder.pid,
        namespace: pod.daemon.namespace.clone(),
        reserved_ports: pod.declared(),
        worker: pod.worker.clone(),
    })
    .await
    .map_err(Fault::failed)?;

    let pid = launched.pid;
    let process = Process::open(pid)
        .map_err(|error| Fault::failed(format!("the machine's QEMU {pid} is gone: {error}")))?;
    let stdio = StdioPaths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let Launched {
        console,
        agent,
        qmp,
        network,
        cgroup,
        diagnostics,
        termination_log,
        accelerator,
        overhead,
        size,
        vsock_cid,
        pinning,
        events,
        helpers,
        pid: _,
    } = launched;
    let helpers = helpers::watch(helpers, pid, &qmp);
    let network = network.map(Arc::new);
    let attached = match &network {
        Some(network) => pod.attach(network).await,
        None => Ok(()),
    };
    let connected = Console::connect(console, &stdio, &request.id, &pod.daemon.namespace).await;
    let agent = Agent::new(agent, AGENT_BOUND).map_err(Fault::failed);
    let limits = Limits::new(pod, &bundle, overhead);
    let parts = attached
        .and(connected.map_err(Fault::failed))
        .and_then(|console| {
            let guest = GuestAgent::new(agent?, qmp.clone(), events);
            Ok((Arc::new(console), guest, limits?))
        });
    let (console, guest, limits) = match parts {
        Ok(parts) => parts,
        Err(fault) => {
            // Reaped here, because the undoing that follows takes a zombie for a living process.
            drop(process.signal(Signal::KILL));
            process.exited().await;
            return Err(fault);
        }
    };
    let (cpu_millis, memory_bytes) = limits.at_start();
    let start = Start {
        size,
        cpu_millis,
        memory_bytes,
    };
    let pinned = pinning.map(|(pinning, cpus)| Pinned { pinning, cpus, pid });
    let emulated = accelerator == Accelerator::Tcg;
    let resize = Resize::new(qmp.clone(), guest.clone(), limits, start, emulated, pinned);
    let resize = Arc::new(resize);
    let life = Life::new(request.id.clone(), request.bundle.clone(), pid, stdio);
    let member = Arc::new(Member::new(
        pod.clone(),
        life,
        process,
        directory,
        cgroup.clone(),
    ));
    let causes = Causes {
        qmp: qmp.clone(),
        cgroup,
        diagnostics,
        termination_log,
        helpers,
        hugepages: size.hugepages,
    };
    let last = {
        let (member, console) = (member.clone(), console.clone());
        move |exit| async move { end(&member, &console, causes, exit).await }
    };
    member.watch(last);
    let network = Mutex::new(network);
    let button = PowerButton::new(qmp.clone(), guest.clone());
    let execs = Execs::new(Target {
        member: member.clone(),
        qmp: qmp.clone(),
        guest: guest.clone(),
        room: Room::default(),
        button: button.clone(),
        console: console.clone(),
        network_namespace: holder.sandbox.network_namespace.clone(),
        vsock_cid,
        user,
    });
    Ok((
        Arc::new(Machine {
            member,
            qmp,
            button,
            console,
            guest,
            execs,
            resize,
            network,
        }),
        pid,
    ))
}

/// Who commands run as in the guest, if the pod says so.
fn guest_user(bundle: &Bundle) -> Result<Option<User>, Fault> {
    let user = bundle.annotation(GUEST_USER_ANNOTATION).map(User::new);
    user.transpose()
        .map_err(|error| Fault::Invalid(format!("annotation {GUEST_USER_ANNOTATION}: {error}")))
}

/// The machine has ended: its last output, why it ended, and what containerd is told.
async fn end(member: &Member, console: &Arc<Console>, causes: Causes, exit: Exit) -> Exit {
    console.drain().await;
    let Verdict {
        status,
        reason,
        out_of_memory,
    } = judge(causes, exit.status).await;
    tracing::info!(
        container = member.life.id,
        status,
        reason,
        "the machine ended"
    );
    if out_of_memory {
        let container_id = member.life.id.clone();
        member.pod.events.publish(&TaskOOM {
            container_id,
            ..TaskOOM::default()
        });
    }
    Exit { status, ..exit }
}

/// What a signal to a machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// To pull the plug.
    Plug,
    /// To press the power button.
    Button,
    /// What a process ignores unless it asks for it.
    Nothing,
}

impl Wish {
    /// What the signal with this number asks for, real-time signals included.
    fn of(number: u32) -> Option<Self> {
        const IGNORED: [Signal; 4] = [Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH];
        let number = i32::try_from(number)
            .ok()
            .filter(|number| (1..=64).contains(number))?;
        Some(if number == Signal::KILL.as_raw() {
            Self::Plug
        } else if IGNORED.iter().any(|signal| signal.as_raw() == number) {
            Self::Nothing
        } else {
            Self::Button
        })
    }
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
            return Err(self.member.not_now("paused").into());
        }
        self.qmp.stop().await.map_err(Fault::failed)?;
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
            return Err(self.member.not_now("resumed").into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_its_meaning() {
        for (number, wish) in [
            (0, None),
            (1, Some(Wish::Button)),
            (9, Some(Wish::Plug)),
            (15, Some(Wish::Button)),
            (17, Some(Wish::Nothing)),
            (18, Some(Wish::Nothing)),
            (23, Some(Wish::Nothing)),
            (28, Some(Wish::Nothing)),
            // SIGRTMIN+3, by which systemd as PID 1 is stopped.
            (37, Some(Wish::Button)),
            (64, Some(Wish::Button)),
            (65, None),
            (u32::MAX, None),
        ] {
            assert_eq!(Wish::of(number), wish, "{number}");
        }
    }
}
