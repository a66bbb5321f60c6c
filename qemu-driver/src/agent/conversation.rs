//! Question and answer over the agent's port.
//!
//! The agent numbers nothing. So each command is preceded by `guest-sync-delimited` with a number
//! of its own: what comes before its echo answers older questions and is passed over, and the
//! byte 0xFF before it makes the agent's parser forget half a question.
//! Source: QEMU, `qga/qapi-schema.json`, `guest-sync-delimited`.

use std::borrow::Cow;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use qapi::Command;
use qapi::qga::guest_sync_delimited;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{AgentError, text};
use crate::lines::Lines;

/// The most bytes of one answer. The agent itself gives at most 16 MiB (captured output); what is
/// asked here fits into far less. What it holds is only ever read into the type that is expected, never
/// into a tree: such a tree takes up to ninety times the bytes that say it.
const MAX_ANSWER: usize = 1 << 20;

/// The byte that begins anew.
const DELIMITER: u8 = 0xff;

/// After this time a question that got no echo is taken for lost.
///
/// While no agent runs, QEMU keeps what we send for the one that will come; asking anew each time
/// would leave it a pile of questions.
const LOST: Duration = Duration::from_secs(15);

/// What errors call a command that is not known in advance.
pub(super) const ANY: &str = "the command";

#[derive(Debug)]
pub(super) struct Conversation {
    lines: Lines<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    number: i64,
    /// When the present `number` was sent, if its echo has not come yet.
    asked: Option<Instant>,
    /// Who wants the answer to the last command, should it come after its caller has given up.
    late: Option<oneshot::Sender<Vec<u8>>>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(rename = "return", borrow)]
    answer: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    desc: Cow<'a, str>,
}

impl Conversation {
    pub(super) fn new(stream: StdUnixStream) -> Result<Self, AgentError> {
        stream.set_nonblocking(true).map_err(AgentError::Socket)?;
        let stream = UnixStream::from_std(stream).map_err(AgentError::Socket)?;
        let (read, writer) = stream.into_split();
        Ok(Self {
            lines: Lines::new(read, MAX_ANSWER),
            writer,
            number: 0,
            asked: None,
            late: None,
        })
    }

    pub(super) async fn execute<C: Command>(&mut self, command: &C) -> Result<C::Ok, AgentError> {
        self.send(command).await?;
        self.receive(command).await
    }

    /// The same for a command whose answer must not be lost: if the future is dropped after the
    /// command was sent, the line of its answer goes to `late` in some later call. `late` closes when
    /// no answer will come.
    pub(super) async fn ask<C: Command>(
        &mut self,
        command: &C,
        late: oneshot::Sender<Vec<u8>>,
    ) -> Result<C::Ok, AgentError> {
        self.synchronize().await?;
        self.late = Some(late);
        self.write(Vec::new(), command).await?;
        self.receive(command).await
    }

    /// Reads what the agent has answered meanwhile, if somebody waits for it.
    pub(super) async fn settle(&mut self) -> Result<(), AgentError> {
        match self.late.is_some() {
            true => self.synchronize().await,
            false => Ok(()),
        }
    }

    /// Sends `line`, a command, and waits for its answer, which is passed on as it is.
    pub(super) async fn any(&mut self, line: &Value) -> Result<Box<RawValue>, AgentError> {
        self.synchronize().await?;
        self.write_line(line.to_string().into_bytes()).await?;
        self.answer(ANY).await
    }

    /// Sends `command` once the agent has shown that it listens: none is ever left waiting for an
    /// agent that starts later.
    pub(super) async fn send<C: Command>(&mut self, command: &C) -> Result<(), AgentError> {
        self.synchronize().await?;
        self.write(Vec::new(), command).await
    }

    /// Waits for the answer to `command`.
    pub(super) async fn receive<C: Command>(&mut self, _: &C) -> Result<C::Ok, AgentError> {
        self.answer(C::NAME).await
    }

    async fn answer<T: DeserializeOwned>(
        &mut self,
        command: &'static str,
    ) -> Result<T, AgentError> {
        let line = self.line().await?;
        self.late = None;
        parse(command, &line)
    }

    async fn synchronize(&mut self) -> Result<(), AgentError> {
        if self.asked.is_none_or(|asked| asked.elapsed() > LOST) {
            self.number += 1;
            self.asked = Some(Instant::now());
            self.write(vec![DELIMITER], &guest_sync_delimited { id: self.number })
                .await?;
        }
        loop {
            let line = self.line().await?;
            let Some(delimiter) = line.iter().rposition(|byte| *byte == DELIMITER) else {
                if let Some(late) = self.late.take() {
                    // Its receiver may have gone.
                    let _ = late.send(line);
                }
                continue;
            };
            let answer = serde_json::from_slice::<Answer>(&line[delimiter + 1..]);
            let echo = answer
                .ok()
                .and_then(|answer| answer.answer?.get().parse().ok());
            if echo == Some(self.number) {
                self.asked = None;
                self.late = None;
                return Ok(());
            }
        }
    }

    async fn write<C: Command>(
        &mut self,
        mut line: Vec<u8>,
        command: &C,
    ) -> Result<(), AgentError> {
        let request = qapi::Execute::<_, ()>::new(command, None);
        serde_json::to_writer(&mut line, &request).map_err(|source| AgentError::Answer {
            command: C::NAME,
            source,
        })?;
        self.write_line(line).await
    }

    async fn write_line(&mut self, mut line: Vec<u8>) -> Result<(), AgentError> {
        line.push(b'\n');
        self.writer
            .write_all(&line)
            .await
            .map_err(|_| AgentError::Closed)
    }

    async fn line(&mut self) -> Result<Vec<u8>, AgentError> {
        match self.lines.next().await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(AgentError::Closed),
            Err(error) => {
                // What is left of the endless line is passed over by the next call.
                self.lines.forget();
                Err(AgentError::Flood(error))
            }
        }
    }
}

/// What the agent's `line` answers to `command`.
pub(super) fn parse<T: DeserializeOwned>(
    command: &'static str,
    line: &[u8],
) -> Result<T, AgentError> {
    let misunderstood = |source| AgentError::Answer { command, source };
    let answer: Answer = serde_json::from_slice(line).map_err(misunderstood)?;
    if let Some(refusal) = answer.error {
        return Err(AgentError::Refused {
            command,
            reason: text(&refusal.desc),
        });
    }
    let answer = answer.answer.unwrap_or(RawValue::NULL);
    serde_json::from_str(answer.get()).map_err(misunderstood)
}
