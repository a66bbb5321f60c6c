//! Verbs on a machine: what `kubectl exec POD -- vm:VERB` does, beside commands in the guest.
//!
//! A verb is read by [`parse`], with its own `--help`, and done by [`Verb::run`]. What it gives is
//! either a text, or a stream that the caller connects with its client. Relies on a running QEMU;
//! promises that every wait has a bound, and that a verb which cannot be done says what to do.

mod arguments;
mod connect;
mod status;

use std::path::Path;
use std::time::Duration;

use qemu_driver::Qmp;
use qemu_driver::agent::{Agent, AgentError, GuestShutdownMode};
use qemu_driver::qmp::{Picture, QmpError, RunState};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::network::Loopback6;

pub use arguments::{Format, Help, Protocol, Verb, parse};
pub use connect::{ConnectError, Connection};
pub use status::{Credentials, Status};

/// Time that a guest needs to light its screen.
const LIGHT: Duration = Duration::from_millis(500);

/// What a verb is done on.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The monitor.
    pub qmp: &'a Qmp,
    /// The guest's agent, if it is there.
    pub agent: Option<&'a Agent>,
    /// The pod's network namespace.
    pub network_namespace: &'a Path,
    /// The guest behind the pod's `::1`, if it is there.
    pub loopback6: Option<&'a Loopback6>,
    /// The guest's address on the node's vsock, if it has one.
    pub vsock_cid: Option<u32>,
    /// Whether the guest has its access credentials, if it is to have any.
    pub credentials: Option<&'a Credentials>,
}

/// What a verb gives.
#[derive(Debug)]
pub enum Outcome {
    /// A text.
    Bytes(Vec<u8>),
    /// A picture of the display.
    Picture(Picture),
    /// A stream of bytes both ways, until one side ends it.
    Stream(UnixStream),
    /// The same by network.
    Connection(Connection),
    /// The serial console, which the caller has.
    Console,
    /// The power button is to be pressed, by the caller, and then this to be said.
    PowerButton(Vec<u8>),
    /// The plug is to be pulled, by the caller, and then this to be said: the machine has not run since
    /// its start or its reset, and so has nothing that could follow its power button.
    Plug(Vec<u8>),
    /// The guest's file systems are to be frozen, or thawed, by the caller, and then this to be said.
    Freeze {
        /// Frozen, not thawed.
        frozen: bool,
        /// Seconds after which they are thawed again.
        thaw_after: Option<u32>,
        /// What is to be said.
        said: Vec<u8>,
    },
}

/// Why a verb was not done.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum VerbError {
    #[error("no guest agent runs in the machine: install and start qemu-guest-agent in the guest")]
    NoAgent,
    #[error("the arguments of {command} are not a JSON object: {source}")]
    AgentArguments {
        command: String,
        source: serde_json::Error,
    },
    #[error(
        "the machine has no display: leave domain.devices.autoattachGraphicsDevice at its default"
    )]
    NoDisplay,
    #[error("the machine is paused: let it run again by the command vm:resume")]
    Paused,
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("cannot make a stream: {0}")]
    Stream(#[source] std::io::Error),
}

impl Verb {
    /// Does it.
    pub async fn run(self, target: Target<'_>) -> Result<Outcome, VerbError> {
        let Target { qmp, agent, .. } = target;
        match self {
            Self::Status { format } => {
                let status = Status::of(target).await?;
                Ok(Outcome::Bytes(match format {
                    Format::Json => json_line(&json!(status)),
                    Format::Text => status.to_string().into_bytes(),
                }))
            }
            Self::Pause { format } => {
                qmp.pause().await?;
                done(format, "paused", qmp.state().await?)
            }
            Self::Resume { format } => {
                qmp.cont().await?;
                done(format, "resumed", qmp.state().await?)
            }
            Self::Reset { format } => {
                qmp.system_reset().await?;
                done(format, "reset", qmp.state().await?)
            }
            Self::Shutdown { format } => {
                let state = qmp.state().await?;
                let never_ran = state == RunState::prelaunch;
                let said = match never_ran {
                    true => done(format, "switched off", RunState::shutdown)?,
                    false => done(format, "power button pressed", state)?,
                };
                match said {
                    Outcome::Bytes(said) if never_ran => Ok(Outcome::Plug(said)),
                    Outcome::Bytes(said) => Ok(Outcome::PowerButton(said)),
                    other => Ok(other),
                }
            }
            Self::Reboot { format } => {
                let state = qmp.state().await?;
                if shown(state) == RunState::paused {
                    return Err(VerbError::Paused);
                }
                reboot(qmp, agent).await?;
                done(format, "asked to reboot", state)
            }
            Self::Freeze { format, thaw_after } => {
                agent.ok_or(VerbError::NoAgent)?;
                frozen(
                    true,
                    thaw_after,
                    done(format, "frozen", qmp.state().await?)?,
                )
            }
            Self::Thaw { format } => {
                agent.ok_or(VerbError::NoAgent)?;
                frozen(false, None, done(format, "thawed", qmp.state().await?)?)
            }
            Self::Screenshot { wake } => {
                if wake {
                    wake_screen(qmp).await;
                }
                qmp.screenshot()
                    .await
                    .map(Outcome::Picture)
                    .map_err(no_display)
            }
            Self::Vnc { number } => {
                if !qmp.has_display().await? {
                    return Err(VerbError::NoDisplay);
                }
                let (ours, qemus) =
                    std::os::unix::net::UnixStream::pair().map_err(VerbError::Stream)?;
                ours.set_nonblocking(true).map_err(VerbError::Stream)?;
                let name = format!("vnc-{number}");
                qmp.add_viewer(&name, qemus.into())
                    .await
                    .map_err(no_display)?;
                let ours = UnixStream::from_std(ours).map_err(VerbError::Stream)?;
                Ok(Outcome::Stream(ours))
            }
            Self::Console => Ok(Outcome::Console),
            Self::Agent { command, arguments } => {
                let agent = agent.ok_or(VerbError::NoAgent)?;
                let arguments = match arguments {
                    None => None,
                    Some(text) => {
                        let object = serde_json::from_str::<serde_json::Map<_, _>>(&text);
                        Some(object.map_err(|source| VerbError::AgentArguments {
                            command: command.clone(),
                            source,
                        })?)
                    }
                };
                let answer = agent.any(&command, arguments).await?;
                Ok(Outcome::Bytes(line(answer.get())))
            }
            Self::Connect { protocol, port, .. } => {
                let connection = connect::open(&target, protocol, port).await?;
                Ok(Outcome::Connection(connection))
            }
        }
    }
}

/// Asks the guest to start anew. An agent that does not do it is no reason to leave it.
async fn reboot(qmp: &Qmp, agent: Option<&Agent>) -> Result<(), QmpError> {
    if let Some(agent) = agent {
        match agent.shutdown(GuestShutdownMode::Reboot).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, "the agent does not reboot its guest"),
        }
    }
    qmp.ctrl_alt_delete().await
}

/// Moves the pointer. A machine without one has no screen that goes dark for want of it.
async fn wake_screen(qmp: &Qmp) {
    match qmp.nudge_pointer().await {
        Ok(()) => sleep(LIGHT).await,
        Err(error) => tracing::debug!(%error, "the pointer was not moved"),
    }
}

fn frozen(frozen: bool, thaw_after: Option<u32>, said: Outcome) -> Result<Outcome, VerbError> {
    match said {
        Outcome::Bytes(said) => Ok(Outcome::Freeze {
            frozen,
            thaw_after,
            said,
        }),
        other => Ok(other),
    }
}

/// What a verb that changes the machine says.
fn done(format: Format, what: &str, state: RunState) -> Result<Outcome, VerbError> {
    let state = json!(shown(state));
    Ok(Outcome::Bytes(match format {
        Format::Json => json_line(&json!({"done": what, "state": state})),
        Format::Text => format!("{what}; the machine is {}\n", word(&state)).into_bytes(),
    }))
}

/// QEMU's word for what the machine does; one that was started paused is paused like any other.
fn shown(state: RunState) -> RunState {
    match state {
        RunState::prelaunch => RunState::paused,
        state => state,
    }
}

/// A JSON string without its quotes.
fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn json_line(value: &Value) -> Vec<u8> {
    line(&value.to_string())
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

/// QEMU's refusal where there is nothing to look at.
fn no_display(error: QmpError) -> VerbError {
    match error {
        QmpError::Refused { ref reason, .. }
            if reason.contains("no such device") || reason.contains("There is no console") =>
        {
            VerbError::NoDisplay
        }
        error => error.into(),
    }
}
