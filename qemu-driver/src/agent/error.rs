//! Why a conversation with the guest agent failed.

use std::time::Duration;

use crate::lines::LineError;

/// Why a conversation with the guest agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket cannot be used.
    #[error("the guest agent's port cannot be used: {0}")]
    Socket(#[source] std::io::Error),

    /// No answer within the bound.
    #[error(
        "the guest agent did not answer {command} within {bound:?}: is qemu-guest-agent installed \
         and running in the guest?"
    )]
    Silent {
        /// The command.
        command: &'static str,
        /// The bound.
        bound: Duration,
    },

    /// The port was closed, as QEMU's end does.
    #[error("the machine ended while its guest agent was asked")]
    Closed,

    /// The agent understood and refused.
    #[error("the guest agent refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The agent's own words, cut.
        reason: String,
    },

    /// The answer has not the form that the agent's documentation gives it.
    // Not what serde says: it repeats the guest's words, which may be long.
    #[error(
        "the guest agent's answer to {command} is not understood from its byte {} on",
        source.column()
    )]
    Answer {
        /// The command.
        command: &'static str,
        /// Where it departs.
        source: serde_json::Error,
    },

    /// The guest floods the port.
    #[error("the guest agent sent {0}")]
    Flood(#[source] LineError),
}
