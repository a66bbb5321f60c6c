//! From a container of a pod to a paused guest: all steps in order, each recorded before it is
//! done, all of them undone if one fails.
//!
//! Expected flow: [`create`] when containerd creates the task, QMP's `cont` when it starts it,
//! [`record::undo`](crate::record::undo) when it deletes it. Relies on a mounted root, a holder of
//! the pod's namespaces and a Tokio runtime; promises that its error is one sentence that names
//! what is wrong, and that nothing is left then.

mod error;
mod firmware;
mod helpers;
mod prepare;
mod processors;
mod size;
mod worker;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qemu_driver::Qmp;
use qemu_driver::machine::Accelerator;
use qemu_driver::qmp::{Event, QmpError};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::broadcast;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::Instrument;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::config::NodeConfig;
use crate::credentials::AgentCredentials;
use crate::diagnostics::Diagnostics;
use crate::network::{self, Loopback6, NetworkError, NetworkUndo, Port, Services};
use crate::overhead::Overhead;
use crate::pinning::{Cpus, Pinning};
use crate::record::{self, Stop};
use crate::runtime::Runtime;
use crate::sandbox::Sandbox;
use crate::termination::TerminationLog;

pub use error::LaunchError;
pub use helpers::RunningHelper;
use prepare::{Container, Prepared, prepare};
pub use processors::ProcessorsError;
pub use size::Size;
pub use worker::Worker;

/// How long QEMU may take to answer. It needs 0.1 s; a node under pressure, seconds.
const QMP_BOUND: Duration = Duration::from_secs(20);

/// How long opening and setting up may take: it is a matter of milliseconds, unless a claim's
/// server does not answer.
const PREPARE_BOUND: Duration = Duration::from_secs(45);

/// What a machine is launched from.
#[derive(Clone, Debug)]
pub struct Request {
    /// The node's configuration.
    pub node: Arc<NodeConfig>,
    /// The machine container's bundle.
    pub bundle: Arc<Bundle>,
    /// The pod's sandbox.
    pub sandbox: Arc<Sandbox>,
    /// The container's root, mounted.
    pub rootfs: PathBuf,
    /// Roots of the pod's containers that are images, mounted, by the container's name.
    pub images: BTreeMap<String, PathBuf>,
    /// Pid of the process that holds the pod's namespaces.
    pub holder: u32,
    /// Containerd's namespace.
    pub namespace: String,
    /// Ports that the pod's other containers declare, as far as they are known.
    pub reserved_ports: Vec<Port>,
    /// What does the pod's work that may get stuck.
    pub worker: Worker,
}

/// A guest that waits to be started by QMP's `cont`.
#[derive(Debug)]
pub struct Launched {
    /// QEMU, in the caller's PID namespace: a child of the nearest subreaper.
    pub pid: u32,
    /// The first serial port.
    pub console: UnixStream,
    /// The guest agent's port.
    pub agent: UnixStream,
    /// The monitor.
    pub qmp: Qmp,
    /// Its events, from the first on.
    pub events: broadcast::Receiver<Event>,
    /// The machine's networks, if it has any. Dropping it ends what serves it.
    pub network: Option<MachineNetwork>,
    /// QEMU's control group, if the runtime gave it one.
    pub cgroup: Option<Cgroup>,
    /// What QEMU says on its standard error.
    pub diagnostics: Diagnostics,
    /// Where kubelet reads the reason of the machine's end.
    pub termination_log: Option<TerminationLog>,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// What QEMU's control group has beyond the container's limits.
    pub overhead: Overhead,
    /// What it starts with and can grow to.
    pub size: Size,
    /// The programs beside QEMU.
    pub helpers: Vec<RunningHelper>,
    /// The guest's address on the node's vsock, if it has one.
    pub vsock_cid: Option<u32>,
    /// How its threads are bound to processors, and to which, if they are.
    pub pinning: Option<(Pinning, Cpus)>,
    /// Whether it stays paused when it is started.
    pub starts_paused: bool,
    /// Whether what it prints on its console is its container's output.
    pub console_is_logged: bool,
    /// Keys and passwords that its agent is to set, if there are any.
    pub credentials: Option<AgentCredentials>,
}

/// The networks of a running machine.
#[derive(Debug)]
pub struct MachineNetwork {
    undos: Vec<NetworkUndo>,
    services: Vec<tokio::task::JoinHandle<()>>,
    loopback6: Option<Loopback6>,
}

impl Drop for MachineNetwork {
    fn drop(&mut self) {
        self.services
            .iter()
            .for_each(tokio::task::JoinHandle::abort);
    }
}

impl MachineNetwork {
    /// Keeps ports of a container that was created after the machine from the guest, from now on.
    /// Blocks for about a millisecond for each of the machine's interfaces.
    pub fn reserve(&self, ports: &[Port]) -> Result<(), NetworkError> {
        if let Some(loopback) = &self.loopback6 {
            loopback.reserve(ports);
        }
        let mut undos = self.undos.iter();
        undos.try_for_each(|undo| network::reserve(undo, ports))
    }

    /// The guest behind the pod's `::1`, if it is there.
    pub fn loopback6(&self) -> Option<Loopback6> {
        self.loopback6.clone()
    }

    /// None if there is nothing to serve.
    fn serve(networks: Vec<(Services, NetworkUndo)>) -> Option<Self> {
        let serve = |services: Services| {
            tokio::spawn(async move {
                match services.serve().await {
                    Ok(never) => match never {},
                    Err(error) => {
                        tracing::info!(%error, "the guest's network is not served any more");
                    }
                }
            })
        };
        let mut served = Self {
            undos: vec![],
            services: vec![],
            loopback6: networks
                .iter()
                .find_map(|(services, _)| services.loopback6()),
        };
        for (services, undo) in networks {
            served.undos.push(undo);
            served.services.push(serve(services));
        }
        (!served.undos.is_empty()).then_some(served)
    }
}

/// Launches the machine of `request`, which then waits for QMP's `cont`. After an error everything
/// is undone, what the caller noted in the bundle's record included.
///
/// Takes tens of milliseconds; run it on a task of its own, since dropping the future halfway
/// leaves the undoing to the record.
pub async fn create(request: Request) -> Result<Launched, LaunchError> {
    let request = Arc::new(request);
    let stop = Arc::new(Stop::default());
    let mut started = Started::default();
    match launch(&request, &stop, &mut started).await {
        Ok(launched) => Ok(launched),
        Err(error) => {
            let bundle = request.bundle.dir().to_owned();
            let undo = move || {
                started.qemu.into_iter().for_each(end);
                started.helpers.iter().for_each(|helper| end(helper.pid));
                stop.set();
                record::undo(&bundle)
            };
            match spawn_blocking(undo).await {
                Ok(Ok(())) => {}
                Ok(Err(errors)) => tracing::error!(%errors, "a failed launch is not undone"),
                Err(panic) => tracing::error!(%panic, "a failed launch is not undone"),
            }
            Err(error)
        }
    }
}

/// Processes of a launch that is under way.
#[derive(Debug, Default)]
struct Started {
    qemu: Option<u32>,
    helpers: Vec<RunningHelper>,
}

async fn launch(
    request: &Arc<Request>,
    stop: &Arc<Stop>,
    started: &mut Started,
) -> Result<Launched, LaunchError> {
    let (preparing, stopping) = (Arc::clone(request), Arc::clone(stop));
    let phase = tracing::info_span!("prepare");
    let prepare = move || phase.in_scope(|| prepare(&preparing, stopping));
    let prepared = request.worker.run(PREPARE_BOUND, prepare).await??;
    let Prepared {
        container,
        helpers,
        output,
        channels,
        networks,
        accelerator,
        overhead,
        termination_log,
        size,
        vsock_cid,
        pinning,
        open_trays,
        starts_paused,
        console_is_logged,
        credentials,
        processors,
        unplugged,
    } = prepared;
    let mut diagnostics = Diagnostics::read("qemu", output).map_err(LaunchError::Pipe)?;
    let cgroups_path = request.bundle.cgroups_path();
    let runtime = Runtime::new(&request.node, &request.namespace, cgroups_path);
    let place = (container.id.clone(), container.jail.clone());
    start(&runtime, container, &mut started.qemu).await?;
    let helped = helpers::start(&runtime, place, helpers, &mut started.helpers)
        .instrument(tracing::info_span!("start-helpers"))
        .await;
    if let Err(error) = helped {
        // Nothing can be started beside a QEMU that has ended; it says why itself.
        if !started.qemu.is_some_and(helpers::has_failed) {
            return Err(error);
        }
        let (said, command) = (last_words(&mut diagnostics).await, "qmp_capabilities");
        let error = QmpError::Closed { command };
        return Err(LaunchError::Qemu { error, said });
    }
    let network = MachineNetwork::serve(networks);
    let patience = QMP_BOUND + size.time_before_start();
    let connected = Qmp::connect_within(channels.qmp, patience, QMP_BOUND)
        .instrument(tracing::info_span!("wait-for-monitor"))
        .await;
    let (qmp, events) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let said = last_words(&mut diagnostics).await;
            // QEMU only says that nobody answered it.
            let failed = helpers::failed(&mut started.helpers).await;
            return Err(failed.unwrap_or_else(|| size.not_ready(error, said)));
        }
    };
    for drive in &open_trays {
        qmp.open_tray(drive).await.map_err(LaunchError::Tray)?;
    }
    processors.check(&qmp).await?;
    for name in unplugged {
        qmp.set_link(&name, false)
            .await
            .map_err(|error| LaunchError::Link { name, error })?;
    }
    let helpers = started.helpers.iter().map(|helper| helper.pid).collect();
    let pinning = pinning.map(|(pinning, cpus)| (pinning.with_helpers(helpers), cpus));
    if let (Some((pinning, cpus)), Some(pid)) = (&pinning, started.qemu) {
        pinning.apply(cpus, &qmp, pid).await?;
    }
    Ok(Launched {
        pid: started.qemu.unwrap_or_default(),
        console: channels.console,
        agent: channels.agent,
        qmp,
        events,
        network,
        cgroup: cgroups_path.map(Cgroup::of_spec),
        diagnostics,
        termination_log,
        accelerator,
        overhead,
        size,
        helpers: std::mem::take(&mut started.helpers),
        vsock_cid,
        pinning,
        starts_paused,
        console_is_logged,
        credentials,
    })
}

/// What a QEMU said that has ended, or soon will.
async fn last_words(diagnostics: &mut Diagnostics) -> Vec<String> {
    let said = timeout(Duration::from_secs(1), diagnostics.at_end()).await;
    said.unwrap_or_else(|_| diagnostics.tail())
}

/// Creates and starts QEMU's container; `pid` is set as soon as there is a process.
async fn start(
    runtime: &Runtime,
    container: Container,
    pid: &mut Option<u32>,
) -> Result<(), LaunchError> {
    let Container {
        id,
        jail,
        descriptors,
    } = container;
    let (creating, created_id) = (runtime.clone(), id.clone());
    let create = move || creating.create(&created_id, &jail, descriptors);
    let phase = tracing::info_span!("create-jail");
    *pid = Some(spawn_blocking(create).instrument(phase).await??.pid);
    let starting = runtime.clone();
    let phase = tracing::info_span!("exec-qemu");
    spawn_blocking(move || starting.start(&id))
        .instrument(phase)
        .await??;
    Ok(())
}

/// Ends and reaps QEMU if it is a child of this process: the OCI runtime could end it too, but
/// would take a dead child that nobody reaps for a living one.
fn end(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    for _ in 0..500 {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return,
        }
        if kill_process(pid, Signal::KILL).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
