//! `Create`: the paused machine, and all that serves it for as long as it lives.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim::api::CreateTaskRequest;
use containerd_shim::protos::events::task::TaskOOM;
use cri_glue::bundle::Bundle;
use cri_glue::launch::{self, Launched};
use qemu_driver::agent::Agent;
use qemu_driver::exec::{Room, User};
use qemu_driver::machine::Accelerator;
use rustix::process::Signal;
use vm_api::contract::GUEST_USER_ANNOTATION;

use super::agent::GuestAgent;
use super::credentials::Standing;
use super::ending::{Causes, Verdict, judge};
use super::exec::{Execs, Target};
use super::limits::Limits;
use super::power::PowerButton;
use super::resize::{Pinned, Resize};
use super::target::Start;
use super::{Machine, credentials, disk_errors, helpers};
use crate::create::rootfs;
use crate::stdio::{Console, Owner};
use crate::task::{Container, Exit, Fault, Holder, Life, Member, Pod, Process, StdioPaths};

/// Longest time for the guest agent to answer.
const AGENT_BOUND: Duration = Duration::from_secs(5);

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
        images: pod.images(),
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
        starts_paused,
        console_is_logged,
        credentials: wished,
        pid: _,
    } = launched;
    tokio::spawn(disk_errors::watch(qmp.clone(), events.resubscribe()));
    let helpers = helpers::watch(helpers, pid, &qmp);
    let network = network.map(Arc::new);
    let attached = match &network {
        Some(network) => pod.attach(network).await,
        None => Ok(()),
    };
    let owner = Owner {
        id: &request.id,
        namespace: &pod.daemon.namespace,
    };
    let connected = Console::connect(console, &stdio, owner, console_is_logged).await;
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
    let standing = Standing::default();
    if let Some(wished) = wished {
        let kept = credentials::keep(wished, guest.clone(), standing.clone());
        let ended = qmp.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = kept => {}
                _ = ended.ended() => {}
            }
        });
    }
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
    let loopback6 = network.as_ref().and_then(|network| network.loopback6());
    let network = Mutex::new(network);
    let button = PowerButton::new(qmp.clone(), guest.clone());
    let execs = Execs::new(Target {
        member: member.clone(),
        qmp: qmp.clone(),
        guest: guest.clone(),
        room: Room::default(),
        frozen: Arc::default(),
        button: button.clone(),
        console: console.clone(),
        network_namespace: holder.sandbox.network_namespace.clone(),
        loopback6,
        vsock_cid,
        user,
        credentials: standing,
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
            starts_paused,
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
