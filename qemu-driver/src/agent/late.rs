//! Answers that come after their bound: a command that was started is running, and an exit code that
//! was told is told once, whether or not somebody still waits.

use std::marker::PhantomData;

use qapi::qga::QgaCommand;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use super::conversation::parse;
use super::{Agent, AgentError};

/// What became of a question.
pub(crate) enum Asked<C: QgaCommand> {
    /// It is answered, or will never be.
    Now(Result<C::Ok, AgentError>),
    /// The agent has it, and may answer yet.
    Later(Late<C>),
}

/// An answer that may still come.
#[derive(Debug)]
pub(crate) struct Late<C> {
    line: oneshot::Receiver<Vec<u8>>,
    command: PhantomData<C>,
}

impl Agent {
    /// Executes one command, whose answer must not be lost.
    pub(crate) async fn ask<C: QgaCommand>(&self, command: &C) -> Asked<C> {
        let (sender, line) = oneshot::channel();
        let call = async { self.conversation.lock().await.ask(command, sender).await };
        match timeout(self.bound, call).await {
            Ok(answer) => Asked::Now(answer),
            Err(_) => {
                let command = PhantomData;
                Late { line, command }.look(self)
            }
        }
    }
}

impl<C: QgaCommand> Late<C> {
    /// Waits once more, as long as for any answer.
    pub(crate) async fn again(self, agent: &Agent) -> Asked<C> {
        let settle = async { agent.conversation.lock().await.settle().await };
        match timeout(agent.bound, settle).await {
            Ok(Err(error @ AgentError::Closed)) => Asked::Now(Err(error)),
            _ => self.look(agent),
        }
    }

    fn look(mut self, agent: &Agent) -> Asked<C> {
        match self.line.try_recv() {
            Ok(line) => Asked::Now(parse(C::NAME, &line)),
            Err(TryRecvError::Empty) => Asked::Later(self),
            Err(TryRecvError::Closed) => Asked::Now(Err(agent.silent::<C>())),
        }
    }
}
