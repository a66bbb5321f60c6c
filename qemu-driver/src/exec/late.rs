//! Commands that the agent started after their start was given up.

use std::time::Duration;

use qapi::qga;
use tokio::time::sleep;

use super::Handle;
use super::running::{KILL, reap};
use crate::agent::{Agent, AgentError, Asked, Late};

/// Time between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a command that was started too late is killed, until an agent that does not do it is
/// given up.
const KILLS: u32 = 10;

/// Ends a command whose start was given up, if the agent has started it after all.
pub(super) async fn end(agent: Agent, mut late: Late<qga::guest_exec>) {
    let pid = loop {
        match late.again(&agent).await {
            Asked::Now(Ok(qga::GuestExec { pid })) => break pid,
            Asked::Now(Err(_)) => return,
            Asked::Later(answer) => late = answer,
        }
        sleep(PAUSE).await;
    };
    tracing::info!(
        pid,
        "a command is ended that the guest's agent started too late"
    );
    let handle = Handle::of(pid);
    for _ in 0..KILLS {
        match handle.kill(&agent, KILL).await {
            Ok(()) => break,
            Err(AgentError::Closed) => return,
            Err(error) => tracing::debug!(%error, pid, "it is not ended yet"),
        }
        sleep(PAUSE).await;
    }
    if let Err(error) = reap(&agent, pid).await {
        tracing::debug!(%error, pid, "the agent keeps a command that was ended");
    }
}

#[cfg(test)]
mod tests;
