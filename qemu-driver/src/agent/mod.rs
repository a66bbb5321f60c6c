//! The guest agent: a program within the guest that answers, if there is one, and if it wants to.
//!
//! Whatever comes from it is the guest's word. Relies on the agent's port of
//! [`Channels`](crate::Channels); promises that each call ends within its bound, that an answer
//! takes bounded memory, and that an answer is never taken for that of another call, whatever was
//! left unread before. Commands are the types of the `qapi` crate.

mod conversation;
mod error;
mod info;
mod late;
mod network;
#[cfg(test)]
pub(crate) mod port;
mod size;
mod users;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use qapi::qga;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::bounded;
use conversation::Conversation;
pub use error::AgentError;
pub use info::{AgentInfo, OsInfo};
pub(crate) use late::{Asked, Late};
pub use network::{Address, Interface};

/// What [`Agent::shutdown`] asks for.
pub use qapi::qga::GuestShutdownMode;

/// How long a refusal of [`Agent::shutdown`] can take; there is no other answer to it.
const REFUSAL: Duration = Duration::from_secs(1);

/// The longest text from a guest that is kept, in characters.
const MAX_TEXT: usize = 64;

/// A guest's agent. Calls wait for each other; clones are the same agent.
#[derive(Clone, Debug)]
pub struct Agent {
    conversation: Arc<Mutex<Conversation>>,
    bound: Duration,
}

impl Agent {
    /// An agent behind `stream`, there or not; each call waits at most `bound`. Must be called
    /// within a tokio runtime with I/O and time.
    pub fn new(stream: UnixStream, bound: Duration) -> Result<Self, AgentError> {
        Ok(Self {
            conversation: Arc::new(Mutex::new(Conversation::new(stream)?)),
            bound,
        })
    }

    /// Executes one command.
    pub async fn execute<C: qga::QgaCommand>(&self, command: &C) -> Result<C::Ok, AgentError> {
        let call = async { self.conversation.lock().await.execute(command).await };
        let answer = timeout(self.bound, call).await;
        answer.map_err(|_| self.silent::<C>())?
    }

    /// What is said of an agent that does not answer `C`.
    pub(crate) fn silent<C: qga::QgaCommand>(&self) -> AgentError {
        AgentError::Silent {
            command: C::NAME,
            bound: self.bound,
        }
    }

    /// Executes a command that is only known by name; the answer as it is, which is JSON and nothing
    /// more.
    pub async fn any(
        &self,
        command: &str,
        arguments: Option<serde_json::Map<String, Value>>,
    ) -> Result<Box<RawValue>, AgentError> {
        let mut line = json!({"execute": command});
        if let Some(arguments) = arguments {
            line["arguments"] = arguments.into();
        }
        let call = async { self.conversation.lock().await.any(&line).await };
        timeout(self.bound, call)
            .await
            .map_err(|_| AgentError::Silent {
                command: conversation::ANY,
                bound: self.bound,
            })?
    }

    /// Whether the agent answers.
    pub async fn ping(&self) -> Result<(), AgentError> {
        self.execute(&qga::guest_ping {}).await.map(drop)
    }

    /// The guest's network interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, AgentError> {
        self.execute(&network::Query {}).await.map(network::checked)
    }

    /// Has the guest write out its file systems and hold them still; how many. A guest that has none of
    /// which it could do so answers none.
    pub async fn freeze(&self) -> Result<u32, AgentError> {
        let frozen = self.execute(&qga::guest_fsfreeze_freeze {}).await?;
        Ok(u32::try_from(frozen).unwrap_or_default())
    }

    /// Lets the guest's file systems go on; how many were held.
    pub async fn thaw(&self) -> Result<u32, AgentError> {
        let thawed = self.execute(&qga::guest_fsfreeze_thaw {}).await?;
        Ok(u32::try_from(thawed).unwrap_or_default())
    }

    /// Asks the guest to end. Success means that it was asked: what follows is the guest's matter.
    pub async fn shutdown(&self, mode: GuestShutdownMode) -> Result<(), AgentError> {
        let command = qga::guest_shutdown { mode: Some(mode) };
        let call = async {
            let mut conversation = self.conversation.lock().await;
            conversation.send(&command).await?;
            match timeout(REFUSAL, conversation.receive(&command)).await {
                Err(_) | Ok(Ok(_) | Err(AgentError::Closed)) => Ok(()),
                Ok(Err(error)) => Err(error),
            }
        };
        let command = "guest-shutdown";
        timeout(self.bound + REFUSAL, call)
            .await
            .map_err(|_| AgentError::Silent {
                command,
                bound: self.bound,
            })?
    }
}

/// Text from the guest, fit to be shown: cut, and without control characters.
fn text(text: &str) -> String {
    bounded::text(text, MAX_TEXT)
}

#[cfg(test)]
mod tests;
