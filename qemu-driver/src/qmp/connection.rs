//! The transport below [`Qmp`](super::Qmp): numbered commands out, answers and events in.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use qapi::Command;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{MutexGuard, broadcast, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error::MAX_WORDS;
use super::{Ending, Event, QmpError};
use crate::bounded::text;
use crate::lines::Lines;

/// The most bytes of one line from QEMU. Its longest known answer, the description of all its
/// commands, has some 250 KiB.
const MAX_LINE: usize = 1 << 20;

/// Lines of one monitor that are no QMP and are logged.
const LOGGED_LINES: u32 = 100;

/// Events kept for a receiver that is behind.
const EVENTS_KEPT: usize = 256;

/// An answer: what the command returned, or QEMU's words of refusal.
type Answer = Result<Box<RawValue>, String>;

/// Calls that wait for an answer, by their number. None once the monitor is closed.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

#[derive(Debug)]
pub(super) struct Connection {
    /// None after a call was given up in the middle of its line: what is sent after half a line
    /// would not be understood.
    writer: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    waiting: Waiting,
    next: AtomicU64,
    bound: Duration,
    /// Weak in effect: the reader's sender closes the channel when QEMU ends.
    events: broadcast::WeakSender<Event>,
    ending: watch::Receiver<Ending>,
    reader: AbortHandle,
}

/// One message from QEMU; which one it is, the fields tell.
#[derive(Deserialize)]
struct Message<'a> {
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "return", borrow)]
    answer: Option<&'a RawValue>,
    error: Option<Refusal>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Connection {
    /// Waits for the first line and starts to read.
    pub(super) async fn open(
        stream: StdUnixStream,
        bound: Duration,
    ) -> Result<(Self, Vec<u8>, broadcast::Receiver<Event>), QmpError> {
        let command = "greeting";
        stream.set_nonblocking(true).map_err(QmpError::Socket)?;
        let (read, write) = UnixStream::from_std(stream)
            .map_err(QmpError::Socket)?
            .into_split();
        let mut lines = Lines::new(read, MAX_LINE);
        let greeting = timeout(bound, lines.next())
            .await
            .map_err(|_| QmpError::TimeOut { command, bound })?
            .map_err(QmpError::Greeting)?
            .ok_or(QmpError::Closed { command })?;
        let (sender, events) = broadcast::channel(EVENTS_KEPT);
        let (ending_sender, ending) = watch::channel(Ending::default());
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let weak = sender.downgrade();
        let reader = Reader {
            lines,
            waiting: waiting.clone(),
            events: sender,
            ending: ending_sender,
            rubbish: 0,
        };
        let reader = tokio::spawn(reader.run()).abort_handle();
        let connection = Self {
            writer: tokio::sync::Mutex::new(Some(write)),
            waiting,
            next: AtomicU64::new(0),
            bound,
            events: weak,
            ending,
            reader,
        };
        Ok((connection, greeting, events))
    }

    /// Lets each call from now on wait at most `bound`.
    pub(super) fn set_bound(&mut self, bound: Duration) {
        self.bound = bound;
    }

    pub(super) async fn execute<C: Command>(&self, command: &C) -> Result<C::Ok, QmpError> {
        self.execute_with(command, None).await
    }

    /// Executes `command`, which takes along `descriptor`.
    pub(super) async fn execute_with<C: Command>(
        &self,
        command: &C,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<C::Ok, QmpError> {
        let name = C::NAME;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = qapi::Execute::new(command, Some(id));
        let mut line = serde_json::to_vec(&request).map_err(|source| QmpError::Answer {
            command: name,
            source,
        })?;
        line.push(b'\n');
        let exchange = self.exchange(name, id, &line, descriptor);
        let answer = timeout(self.bound, exchange).await;
        let answer = answer.map_err(|_| QmpError::TimeOut {
            command: name,
            bound: self.bound,
        })??;
        let answer = answer.map_err(|reason| QmpError::Refused {
            command: name,
            reason,
        })?;
        serde_json::from_str(answer.get()).map_err(|source| QmpError::Answer {
            command: name,
            source,
        })
    }

    async fn exchange(
        &self,
        command: &'static str,
        id: u64,
        line: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, QmpError> {
        let closed = || QmpError::Closed { command };
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting)
            .as_mut()
            .ok_or_else(closed)?
            .insert(id, sender);
        let _call = Call {
            waiting: &self.waiting,
            id,
        };
        {
            let mut sending = Sending {
                writer: self.writer.lock().await,
                left: line,
                begun: false,
            };
            if let Some(descriptor) = descriptor {
                let writer = sending.writer.as_ref().ok_or_else(closed)?;
                let sent = send_with(writer.as_ref(), line, descriptor).await;
                sending.sent(sent.map_err(QmpError::Socket)?);
            }
            while !sending.left.is_empty() {
                let writer = sending.writer.as_mut().ok_or_else(closed)?;
                match writer.write(sending.left).await {
                    Ok(0) | Err(_) => return Err(closed()),
                    Ok(sent) => sending.sent(sent),
                }
            }
        }
        receiver.await.map_err(|_| closed())
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        match self.events.upgrade() {
            Some(sender) => sender.subscribe(),
            // Closed already: a receiver that says so.
            None => broadcast::channel(1).1,
        }
    }

    pub(super) async fn ended(&self) -> Ending {
        let mut ending = self.ending.clone();
        while ending.changed().await.is_ok() {}
        self.ending()
    }

    pub(super) fn ending(&self) -> Ending {
        self.ending.borrow().clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A call that may be answered; none any more once this is dropped.
struct Call<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(self.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// A line on its way. Given up before its first byte was sent, it has done no harm; after that, the
/// writer goes with it.
struct Sending<'a> {
    writer: MutexGuard<'a, Option<OwnedWriteHalf>>,
    left: &'a [u8],
    begun: bool,
}

impl Sending<'_> {
    fn sent(&mut self, count: usize) {
        self.left = &self.left[count..];
        self.begun = true;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if self.begun && !self.left.is_empty() {
            self.writer.take();
        }
    }
}

/// Sends the beginning of `line` and `descriptor` with it; how much of the line was sent.
async fn send_with(
    stream: &UnixStream,
    line: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let message = [ControlMessage::ScmRights(&descriptors)];
            let parts = [IoSlice::new(line)];
            let socket = stream.as_raw_fd();
            Ok(sendmsg::<()>(
                socket,
                &parts,
                &message,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )?)
        })
        .await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the monitor until its end.
struct Reader {
    lines: Lines<OwnedReadHalf>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
    ending: watch::Sender<Ending>,
    /// Lines that were no QMP, up to [`LOGGED_LINES`].
    rubbish: u32,
}

impl Reader {
    async fn run(mut self) {
        loop {
            match self.lines.next().await {
                Ok(Some(line)) => self.take(&line),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "QEMU's monitor is given up");
                    break;
                }
            }
        }
        // Whoever still waits learns by its sender's end that there is no answer.
        lock(&self.waiting).take();
    }

    fn take(&mut self, line: &[u8]) {
        let message: Message = match serde_json::from_slice(line) {
            Ok(message) => message,
            Err(error) => {
                self.complain(&error);
                return;
            }
        };
        if let Some(name) = message.event {
            let Some(event) = Event::parse(&name, message.data.unwrap_or(RawValue::NULL)) else {
                tracing::trace!(name, "event of QEMU not acted on");
                return;
            };
            tracing::debug!(?event, "event of QEMU");
            self.ending.send_if_modified(|ending| ending.learn(&event));
            // Nobody listens: nobody misses it.
            let _ = self.events.send(event);
            return;
        }
        let sender = message.id.and_then(|id| {
            lock(&self.waiting)
                .as_mut()
                .and_then(|waiting| waiting.remove(&id))
        });
        let answer = match (message.answer, message.error) {
            (_, Some(refusal)) => Err(text(&refusal.desc, MAX_WORDS)),
            (answer, None) => Ok(answer.unwrap_or(RawValue::NULL).to_owned()),
        };
        match sender {
            // Its caller may have given up meanwhile.
            Some(sender) => drop(sender.send(answer)),
            None => tracing::debug!("QEMU answered what nobody waits for"),
        }
    }

    fn complain(&mut self, error: &serde_json::Error) {
        if self.rubbish == LOGGED_LINES {
            return;
        }
        self.rubbish += 1;
        if self.rubbish < LOGGED_LINES {
            tracing::warn!(%error, "QEMU's monitor sent what is not QMP");
        } else {
            tracing::warn!("further lines of QEMU's monitor that are not QMP are not logged");
        }
    }
}
