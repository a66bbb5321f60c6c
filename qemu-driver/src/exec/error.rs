//! Why a command was not started in the guest.

use std::io;

use crate::agent::AgentError;
use crate::qmp::QmpError;

/// Why a command was not started in the guest.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Too many at a time.
    #[error(
        "{} commands run in the machine already: wait for one to end",
        super::MOST - super::KEPT
    )]
    Full,

    /// The agent's owner forbids it.
    #[error(
        "the guest's agent does not allow commands ({0}): take guest-exec and guest-exec-status off \
         its block list in the guest (/etc/sysconfig/qemu-ga or /etc/qemu/qemu-ga.conf) and restart \
         qemu-guest-agent"
    )]
    Forbidden(String),

    /// The agent could not start the shell.
    #[error("the guest has no /bin/sh that its agent can start: {0}")]
    NoShell(String),

    /// The agent does not do it.
    #[error(transparent)]
    Agent(#[from] AgentError),

    /// QEMU does not do it.
    #[error(transparent)]
    Qmp(#[from] QmpError),

    /// The host has no sockets left.
    #[error("cannot make the command's streams: {0}")]
    Sockets(#[source] io::Error),
}

impl ExecError {
    /// What the agent's refusal of `guest-exec` means.
    pub(super) fn refused(reason: String) -> Self {
        // QEMU's words for a command that is blocked, or was left out; others are glib's, about the
        // shell.
        let blocked = ["disabled", "not allowed", "not been found"];
        if blocked.iter().any(|words| reason.contains(words)) {
            Self::Forbidden(reason)
        } else {
            Self::NoShell(reason)
        }
    }
}
