//! What containerd runs beside a machine: commands in its guest and verbs on the machine itself
//! (`kubectl exec`, `cp`, probes, hooks).
//!
//! Each is a process to containerd: added, started, waited for, deleted. Whatever keeps it from
//! running after that is told on its standard error, where its caller looks, and by its exit code.

mod client;
mod console;
mod freeze;
mod guest;
mod process;
mod stream;
mod verb;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim::TtrpcContext;
use containerd_shim::api::{
    DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, ResizePtyRequest, StartResponse,
};
use containerd_shim::protos::events::task::{TaskExecAdded, TaskExecStarted};
use cri_glue::network::Loopback6;
use oci_spec::runtime;
use qemu_driver::exec::{Room, Size, User};
use qemu_driver::qmp::Qmp;

use super::agent::GuestAgent;
use super::credentials::Standing;
use super::power::PowerButton;
use crate::stdio::Console;
use crate::task::{Exit, Fault, Happening, Life, Member, Phase, StdioPaths};
pub(super) use freeze::Frozen;
pub(super) use process::Process;

/// Processes that one machine can have, verbs included: each may hold some memory of the shim.
const MOST: usize = 64;

/// What processes run on.
pub(super) struct Target {
    pub(super) member: Arc<Member>,
    pub(super) qmp: Qmp,
    pub(super) guest: Arc<GuestAgent>,
    pub(super) room: Room,
    pub(super) button: Arc<PowerButton>,
    pub(super) frozen: Arc<Frozen>,
    pub(super) console: Arc<Console>,
    /// The pod's network namespace.
    pub(super) network_namespace: PathBuf,
    /// The guest behind the pod's `::1`, if it is there.
    pub(super) loopback6: Option<Loopback6>,
    /// The guest's address on the node's vsock, if it has one.
    pub(super) vsock_cid: Option<u32>,
    /// Who commands run as in the guest, if not as root.
    pub(super) user: Option<User>,
    /// How the guest's access credentials stand.
    pub(super) credentials: Standing,
}

/// The processes of one machine.
pub(super) struct Execs {
    target: Arc<Target>,
    all: Mutex<HashMap<String, Arc<Process>>>,
    /// Numbers processes, so that no two viewers have the same name.
    next: AtomicU64,
}

impl Execs {
    /// No process yet.
    pub(super) fn new(target: Target) -> Self {
        Self {
            target: Arc::new(target),
            all: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process `exec_id`.
    pub(super) fn get(&self, exec_id: &str) -> Result<Arc<Process>, Fault> {
        let process = self.all().get(exec_id).cloned();
        process.ok_or_else(|| {
            Fault::NotFound(format!(
                "process {exec_id} of {}",
                self.target.member.life.id
            ))
        })
    }

    /// `Exec`: adds a process, which waits for `Start`.
    pub(super) fn add(&self, request: &ExecProcessRequest) -> Result<(), Fault> {
        let life = &self.target.member.life;
        if life.phase() != Phase::Running {
            return Err(self.target.member.life.not_now("entered"));
        }
        let wanted = serde_json::from_slice::<runtime::Process>(&request.spec.value)
            .map_err(|error| Fault::Invalid(format!("the process's spec: {error}")))?;
        let args = wanted.args().clone().unwrap_or_default();
        if args.is_empty() {
            return Err(Fault::Invalid("the process has no command".into()));
        }
        let stdio = StdioPaths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let own = Life::new(
            request.exec_id.clone(),
            life.bundle.clone(),
            life.pid,
            stdio,
        );
        let process = Arc::new(Process::new(own, args, &wanted));
        {
            let mut all = self.all();
            if all.contains_key(&request.exec_id) {
                return Err(Fault::Exists(request.exec_id.clone()));
            }
            if all.len() >= MOST {
                return Err(Fault::Precondition(format!(
                    "{MOST} processes run beside the machine already: wait for one to end"
                )));
            }
            all.insert(request.exec_id.clone(), process);
        }
        self.target.member.pod.events.publish(&TaskExecAdded {
            container_id: life.id.clone(),
            exec_id: request.exec_id.clone(),
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    /// `Start` of the process `exec_id`. A caller with a deadline, as a probe is, does not wait for
    /// an agent that is not there yet; others do, while the guest may still be on its way up.
    pub(super) async fn start(
        &self,
        exec_id: &str,
        context: &TtrpcContext,
    ) -> Result<StartResponse, Fault> {
        let process = self.get(exec_id)?;
        let client = client::Client::open(&process.life).await?;
        if !process.life.advance(Happening::Started) {
            return Err(Fault::Precondition(format!(
                "process {exec_id} cannot be started: it is {}",
                process.life.phase().word()
            )));
        }
        let pid = process.life.pid;
        let container_id = self.target.member.life.id.clone();
        self.target.member.pod.events.publish(&TaskExecStarted {
            container_id,
            exec_id: exec_id.to_owned(),
            pid,
            ..TaskExecStarted::default()
        });
        let run = process::Run {
            process,
            target: self.target.clone(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
            patient: context.timeout_nano == 0,
        };
        tokio::spawn(run.run_to_its_end(client));
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    /// `Kill` of a process.
    pub(super) fn kill(&self, request: &KillRequest) -> Result<(), Fault> {
        let process = self.get(&request.exec_id)?;
        match process.life.phase() {
            // Whoever deletes it kills it first, and would wait for an end that never comes.
            Phase::Created => Err(Fault::Precondition(format!(
                "process {} has not been started",
                request.exec_id
            ))),
            Phase::Stopped | Phase::Deleted => Err(Fault::NotFound(format!(
                "process {}, which has ended,",
                request.exec_id
            ))),
            Phase::Running | Phase::Paused => {
                process.kill(request.signal);
                Ok(())
            }
        }
    }

    /// `ResizePty` of a process.
    pub(super) fn resize(&self, request: &ResizePtyRequest) -> Result<(), Fault> {
        let size = Size {
            rows: request.height,
            columns: request.width,
        };
        self.get(&request.exec_id)?.resize(size);
        Ok(())
    }

    /// `Delete` of a process.
    pub(super) async fn delete(&self, request: &DeleteRequest) -> Result<DeleteResponse, Fault> {
        let process = self.get(&request.exec_id)?;
        match process.life.phase() {
            Phase::Created => drop(process.life.exited(Exit::now(0))),
            Phase::Running | Phase::Paused => {
                return Err(Fault::Precondition(format!(
                    "process {} cannot be deleted: it is running",
                    request.exec_id
                )));
            }
            Phase::Stopped | Phase::Deleted => {}
        }
        let exit = process.life.ended().await;
        self.all().remove(&request.exec_id);
        process.forget();
        Ok(DeleteResponse {
            pid: process.life.pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()).into(),
            ..DeleteResponse::default()
        })
    }
}
