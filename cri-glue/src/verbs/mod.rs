//! Verbs on a machine: what `kubectl exec POD -- vm:VERB` does, beside commands in the guest.
//!
//! A verb is read by [`parse`], with its own `--help`, and done by [`Verb::run`]. What it gives is
//! either a text, or a stream that the caller connects with its client. Relies on a running QEMU;
//! promises that every wait has a bound, and that a verb which cannot be done says what to do.

mod arguments;
mod connect;
mod status;

use std::path::Path;

use qemu_driver::Qmp;
use qemu_driver::agent::{Agent, AgentError};
use qemu_driver::qmp::{Picture, QmpError, RunState};
use serde_json::{Value, json};
use tokio::net::UnixStream;

pub use arguments::{Format, Help, Protocol, Verb, parse};
pub use connect::{ConnectError, Connection};
pub use status::Status;

/// What a verb is done on.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The monitor.
    pub qmp: &'a Qmp,
    /// The guest's agent, if it is there.
    pub agent: Option<&'a Agent>,
    /// The pod's network namespace.
    pub network_namespace: &'a Path,
    /// The guest's address on the node's vsock, if it has one.
    pub vsock_cid: Option<u32>,
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
                match done(format, "power button pressed", qmp.state().await?)? {
                    Outcome::Bytes(said) => Ok(Outcome::PowerButton(said)),
                    other => Ok(other),
                }
            }
            Self::Screenshot => qmp
                .screenshot()
                .await
                .map(Outcome::Picture)
                .map_err(no_display),
            Self::Vnc { number } => {
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
            Self::Connect { protocol, port } => {
                let connection = connect::open(target.network_namespace, protocol, port).await?;
                Ok(Outcome::Connection(connection))
            }
        }
    }
}

/// What a verb that changes the machine says.
fn done(format: Format, what: &str, state: RunState) -> Result<Outcome, VerbError> {
    let state = json!(state);
    Ok(Outcome::Bytes(match format {
        Format::Json => json_line(&json!({"done": what, "state": state})),
        Format::Text => format!("{what}; the machine is {}\n", word(&state)).into_bytes(),
    }))
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
