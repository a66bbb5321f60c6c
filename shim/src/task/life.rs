//! The life of a container as containerd sees it: one state machine for the sandbox, the machine
//! and the delegated containers.
//!
//! Reading it takes no lock that work could hold: every RPC that only asks answers at once,
//! whatever else is going on.

use std::time::SystemTime;

use containerd_shim::api::{PidsResponse, StateResponse, Status, WaitResponse};
use containerd_shim::protos::api::ProcessInfo;
use tokio::sync::watch;

use super::Fault;

/// Where a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything is set up, the process waits for `Start`.
    Created,
    /// The process runs.
    Running,
    /// The process exists, but is suspended.
    Paused,
    /// The process has ended and was reaped.
    Stopped,
    /// Everything was undone; the id is about to be forgotten.
    Deleted,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// `Start` succeeded.
    Started,
    /// `Pause` succeeded.
    Paused,
    /// `Resume` succeeded.
    Resumed,
    /// The process ended.
    Exited,
    /// `Delete` succeeded.
    Deleted,
}

impl Phase {
    /// The phase after `happening`, or nothing if it cannot happen now.
    pub(crate) fn after(self, happening: Happening) -> Option<Self> {
        use Phase::{Created, Deleted, Paused, Running, Stopped};
        match (self, happening) {
            (Created, Happening::Started) | (Paused, Happening::Resumed) => Some(Running),
            (Running, Happening::Paused) => Some(Paused),
            (Created | Running | Paused, Happening::Exited) => Some(Stopped),
            (Stopped, Happening::Deleted) => Some(Deleted),
            _ => None,
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Created => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Paused => Status::PAUSED,
            Self::Stopped | Self::Deleted => Status::STOPPED,
        }
    }

    /// The phase in the words of an error message.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created, but not started",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 0 to 255 as a shell would say: the exit code, or 128 + the signal's number.
    pub(crate) status: u32,
    /// When the shim saw it.
    pub(crate) at: SystemTime,
}

impl Exit {
    /// An exit with `status`, now.
    pub(crate) fn now(status: u32) -> Self {
        Self {
            status,
            at: SystemTime::now(),
        }
    }
}

/// Where containerd's client expects a container's input and output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioPaths {
    /// Fifo for standard input, or empty.
    pub(crate) stdin: String,
    /// Fifo or URI for standard output, or empty.
    pub(crate) stdout: String,
    /// Fifo or URI for standard error, or empty.
    pub(crate) stderr: String,
    /// Whether the client has a terminal.
    pub(crate) terminal: bool,
}

#[derive(Debug, Clone)]
struct Snapshot {
    phase: Phase,
    exit: Option<Exit>,
}

/// The life of one container.
#[derive(Debug)]
pub(crate) struct Life {
    /// The container's id.
    pub(crate) id: String,
    /// Its bundle, as containerd named it.
    pub(crate) bundle: String,
    /// The task's pid, in the shim's own PID namespace; stays the same after the exit.
    pub(crate) pid: u32,
    /// Where its input and output go.
    pub(crate) stdio: StdioPaths,
    state: watch::Sender<Snapshot>,
}

impl Life {
    /// The life of a container that was just created.
    pub(crate) fn new(id: String, bundle: String, pid: u32, stdio: StdioPaths) -> Self {
        let state = watch::Sender::new(Snapshot {
            phase: Phase::Created,
            exit: None,
        });
        Self {
            id,
            bundle,
            pid,
            stdio,
            state,
        }
    }

    /// Where the container stands.
    pub(crate) fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    /// Moves on; false, and no change, if `happening` cannot happen now.
    pub(crate) fn advance(&self, happening: Happening) -> bool {
        self.state.send_if_modified(|state| {
            let next = state.phase.after(happening);
            state.phase = next.unwrap_or(state.phase);
            next.is_some()
        })
    }

    /// The process ended: only the first call counts.
    pub(crate) fn exited(&self, exit: Exit) -> bool {
        self.state
            .send_if_modified(|state| match state.phase.after(Happening::Exited) {
                Some(phase) => {
                    *state = Snapshot {
                        phase,
                        exit: Some(exit),
                    };
                    true
                }
                None => false,
            })
    }

    /// The fault of a call that must name the container itself, and names a process in it.
    pub(crate) fn only_itself(&self, exec_id: &str) -> Result<(), Fault> {
        match exec_id {
            "" => Ok(()),
            exec_id => Err(Fault::NotFound(format!("process {exec_id} of {}", self.id))),
        }
    }

    /// The fault of a call that comes at the wrong time.
    pub(crate) fn not_now(&self, verb: &str) -> Fault {
        let (id, phase) = (&self.id, self.phase().word());
        Fault::Precondition(format!("container {id} cannot be {verb}: it is {phase}"))
    }

    /// Waits for the end, as long as it takes.
    pub(crate) async fn ended(&self) -> Exit {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| state.exit.is_some()).await {
            Ok(state) => state.exit.unwrap_or_else(|| Exit::now(UNKNOWN_STATUS)),
            // The sender is `self`, which outlives this borrow.
            Err(_) => Exit::now(UNKNOWN_STATUS),
        }
    }

    /// The answer to `State`.
    pub(crate) fn state_response(&self) -> StateResponse {
        let Snapshot { phase, exit } = self.state.borrow().clone();
        let mut response = StateResponse {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            pid: self.pid,
            status: phase.status().into(),
            stdin: self.stdio.stdin.clone(),
            stdout: self.stdio.stdout.clone(),
            stderr: self.stdio.stderr.clone(),
            terminal: self.stdio.terminal,
            ..StateResponse::default()
        };
        if let Some(exit) = exit {
            response.exit_status = exit.status;
            response.exited_at = Some(exit.at.into()).into();
        }
        response
    }

    /// The answer to `Pids`: the one process; also after its end, because a daemon that restarts
    /// takes an empty answer for a leaked shim and would lose the exit status.
    pub(crate) fn pids_response(&self) -> PidsResponse {
        let process = ProcessInfo {
            pid: self.pid,
            ..ProcessInfo::default()
        };
        PidsResponse {
            processes: vec![process],
            ..PidsResponse::default()
        }
    }

    /// The answer to `Wait`, once there is one.
    pub(crate) async fn wait_response(&self) -> WaitResponse {
        let exit = self.ended().await;
        WaitResponse {
            exit_status: exit.status,
            exited_at: Some(exit.at.into()).into(),
            ..WaitResponse::default()
        }
    }
}

/// The status of a process whose end nobody saw, as containerd itself reports it.
pub(crate) const UNKNOWN_STATUS: u32 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Happening as H;
        use Phase as P;
        let happenings = [H::Started, H::Paused, H::Resumed, H::Exited, H::Deleted];
        let table = [
            (
                P::Created,
                [Some(P::Running), None, None, Some(P::Stopped), None],
            ),
            (
                P::Running,
                [None, Some(P::Paused), None, Some(P::Stopped), None],
            ),
            (
                P::Paused,
                [None, None, Some(P::Running), Some(P::Stopped), None],
            ),
            (P::Stopped, [None, None, None, None, Some(P::Deleted)]),
            (P::Deleted, [None, None, None, None, None]),
        ];
        for (phase, expected) in table {
            for (happening, expected) in happenings.into_iter().zip(expected) {
                assert_eq!(phase.after(happening), expected, "{phase:?} {happening:?}");
            }
        }
    }

    fn life() -> Life {
        Life::new("c".into(), "/b".into(), 7, StdioPaths::default())
    }

    #[tokio::test]
    async fn only_the_first_exit_counts() {
        let life = life();
        assert!(life.exited(Exit::now(3)));
        assert!(!life.exited(Exit::now(4)));
        assert_eq!(life.ended().await.status, 3);
        assert_eq!(life.wait_response().await.exit_status, 3);
        let state = life.state_response();
        assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
        assert_eq!((state.pid, state.exit_status), (7, 3));
    }

    #[tokio::test]
    async fn many_wait_for_one_end() {
        let life = std::sync::Arc::new(life());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let life = life.clone();
                tokio::spawn(async move { life.ended().await.status })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(life.advance(Happening::Started));
        assert!(!life.advance(Happening::Started));
        life.exited(Exit::now(0));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), 0);
        }
    }
}
