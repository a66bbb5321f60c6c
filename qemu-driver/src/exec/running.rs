//! A command that runs in the guest.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use qapi::qga;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep, timeout};

use super::bootstrap::{self, LACKING, helper};
use super::signal::script;
use super::{Ports, Size, Streams};
use crate::agent::{Agent, AgentError, Asked, Late};
use crate::qmp::Event;

/// Time between two questions whether the command has ended: at first, and at most. The guest's end
/// of a stream asks at once.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How long processes that the command left behind keep its streams open.
const LINGER: Duration = Duration::from_secs(2);

/// How long an agent may not answer, when the command's streams have ended too, until the command is
/// given up.
const SILENT: Duration = Duration::from_secs(30);

/// How often a stream is looked at for whether it was read empty.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// Round trips to QEMU's main loop in which nothing more arrives, until a stream is taken for empty:
/// each lets it pass on what it holds.
const QUIET_TRIPS: u32 = 3;

/// The most bytes of a terminal's device.
const MAX_DEVICE: u64 = 64;

/// Signals of Linux.
pub(super) const KILL: u32 = 9;

/// A command that was started.
#[derive(Debug)]
pub struct Running {
    ports: Ports,
    /// Ports that the guest has open, or has not opened yet.
    open: BTreeSet<String>,
    events: broadcast::Receiver<Event>,
    /// Copies of the host's ends of what the command writes.
    written: Vec<OwnedFd>,
    handle: Handle,
}

/// What was seen of the guest.
enum Sight {
    /// A port of the command was closed.
    Closed,
    /// The guest began anew, in which the command is no more.
    Reset,
    /// Something, but not what.
    Missed,
}

/// What can be done to a command while it runs. Clones are for the same command.
#[derive(Clone, Debug)]
pub struct Handle {
    pid: i64,
    terminal: Arc<Mutex<Terminal>>,
}

/// What is known of the command's terminal.
#[derive(Debug)]
enum Terminal {
    None,
    /// The guest will tell its device here.
    Awaited(UnixStream),
    /// It is this device of the guest.
    Device(String),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status, as a shell would say it: its exit code, or 128 and the signal's number.
    Status(u32),
    /// It was not run: what the guest lacks, in the guest's words.
    Lacking(String),
    /// Nobody knows: why.
    Lost(&'static str),
}

impl Running {
    pub(super) fn new(
        pid: i64,
        ports: Ports,
        streams: &Streams,
        control: Option<UnixStream>,
        events: broadcast::Receiver<Event>,
    ) -> std::io::Result<Self> {
        let mut written = vec![streams.stdout.try_clone()?.into()];
        if let Some(stderr) = &streams.stderr {
            written.push(stderr.try_clone()?.into());
        }
        let open = ports.names.iter().cloned().collect();
        let terminal = control.map_or(Terminal::None, Terminal::Awaited);
        let terminal = Arc::new(Mutex::new(terminal));
        Ok(Self {
            ports,
            open,
            events,
            written,
            handle: Handle { pid, terminal },
        })
    }

    /// What can be done to the command meanwhile.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for the command's end. The agent tells it once: a future that is dropped may take it
    /// along.
    pub async fn ended(&mut self, agent: &Agent) -> Ended {
        let mut pause = POLL.0;
        let mut silent_since: Option<Instant> = None;
        let mut late: Option<Late<_>> = None;
        let question = qga::guest_exec_status {
            pid: self.handle.pid,
        };
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                sight = Self::happens(&mut self.events, &mut self.open) => {
                    pause = POLL.0;
                    match sight {
                        Sight::Reset => return Ended::Lost("the guest was reset"),
                        // It may have been a port's closing or a reset, which closes them all.
                        Sight::Missed => match self.ports.qmp.open_ports().await {
                            Ok(open) => self.open.retain(|name| open.contains(name)),
                            Err(error) => tracing::debug!(%error, "open ports are unknown"),
                        },
                        Sight::Closed if !self.open.is_empty() => continue,
                        Sight::Closed => {}
                    }
                }
            }
            pause = (pause * 2).min(POLL.1);
            let asked = match late.take() {
                Some(late) => late.again(agent).await,
                None => agent.ask(&question).await,
            };
            match asked {
                Asked::Now(Ok(status)) if status.exited => return ended(status),
                Asked::Now(Ok(_)) => {
                    silent_since = None;
                    continue;
                }
                Asked::Now(Err(AgentError::Closed)) => return Ended::Lost("the machine ended"),
                // QEMU's words: "PID 1234 does not exist", before 8.2 "Invalid parameter 'pid'".
                Asked::Now(Err(AgentError::Refused { reason, .. }))
                    if reason.to_ascii_lowercase().contains("pid") =>
                {
                    return Ended::Lost("the guest's agent was started anew");
                }
                Asked::Now(Err(error)) => {
                    tracing::debug!(%error, "whether a command has ended is unknown");
                }
                // It may be the command's end, which is told once.
                Asked::Later(answer) => late = Some(answer),
            }
            let since = *silent_since.get_or_insert_with(Instant::now);
            if self.open.is_empty() && since.elapsed() > SILENT {
                return Ended::Lost("the guest's agent does not answer any more");
            }
        }
    }

    /// Waits until all that the command has written was read, or `given_up`, then ends the streams.
    pub async fn drained(mut self, given_up: impl Future<Output = ()>) {
        tokio::select! {
            () = self.read_empty() => {}
            () = given_up => {}
        }
        self.end_streams();
    }

    async fn read_empty(&mut self) {
        let ports = &self.ports;
        let all_closed = async {
            // QEMU tells a port's events once a second at most, but answers at any time.
            while let Ok(open) = ports.qmp.open_ports().await
                && ports.names.iter().any(|name| open.contains(name))
            {
                sleep(DRAIN_POLL).await;
            }
        };
        let lingers = timeout(LINGER, all_closed).await.is_err();
        let read = async {
            let mut quiet = 0;
            while quiet < QUIET_TRIPS {
                if self.written.iter().any(has_bytes) {
                    quiet = 0;
                    sleep(DRAIN_POLL).await;
                } else {
                    quiet += 1;
                }
                if ports.qmp.state().await.is_err() {
                    break;
                }
            }
        };
        if lingers {
            // Some process of the guest goes on without its streams.
            drop(timeout(LINGER, read).await);
        } else {
            read.await;
        }
    }

    /// Ends the streams whatever the command does.
    pub fn abandoned(self) {
        self.end_streams();
    }

    fn end_streams(self) {
        for socket in &self.written {
            // Whoever reads it sees the end now, not when QEMU has let go of it.
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Read);
        }
    }

    /// Returns when something happens in the guest that may be the command's end.
    async fn happens(
        events: &mut broadcast::Receiver<Event>,
        open: &mut BTreeSet<String>,
    ) -> Sight {
        loop {
            match events.recv().await {
                Ok(Event::Port { id, open: false }) if open.remove(&id) => return Sight::Closed,
                Ok(Event::Reset { .. }) => return Sight::Reset,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Sight::Missed,
                Err(RecvError::Closed) if open.is_empty() => std::future::pending().await,
                Err(RecvError::Closed) => {
                    open.clear();
                    return Sight::Closed;
                }
            }
        }
    }
}

impl Handle {
    /// The command `pid`, without a terminal.
    pub(super) fn of(pid: i64) -> Self {
        let terminal = Arc::new(Mutex::new(Terminal::None));
        Self { pid, terminal }
    }

    /// Sends `signal`, a number of Linux, to the command; SIGKILL also to what it has started.
    ///
    /// # Errors
    /// When the agent does not do it. A command that has ended already is fine.
    pub async fn kill(&self, agent: &Agent, signal: u32) -> Result<(), AgentError> {
        let script = script(signal == KILL);
        let (pid, signal) = (self.pid.to_string(), signal.to_string());
        run(agent, script, &[&pid, &signal]).await
    }

    /// Tells the guest the size of the terminal, if there is one.
    ///
    /// # Errors
    /// When the agent does not do it.
    pub async fn resize(&self, agent: &Agent, size: Size) -> Result<(), AgentError> {
        let Some(device) = self.device().await else {
            return Ok(());
        };
        let (rows, columns) = (size.rows.to_string(), size.columns.to_string());
        let script = r#"stty -F "$1" rows "$2" cols "$3""#;
        run(agent, script, &[&device, &rows, &columns]).await
    }

    /// The terminal's device, once the guest has told it.
    async fn device(&self) -> Option<String> {
        let mut terminal = self.terminal.lock().await;
        if let Terminal::Awaited(control) = &*terminal {
            let read = async {
                let control = control.try_clone()?;
                control.set_nonblocking(true)?;
                let control = tokio::net::UnixStream::from_std(control)?;
                let mut line = Vec::new();
                let mut control = control.take(MAX_DEVICE);
                while !line.ends_with(b"\n") && control.read_buf(&mut line).await? > 0 {}
                Ok::<_, std::io::Error>(line)
            };
            let line = read.await.unwrap_or_default();
            let device = String::from_utf8_lossy(&line).trim().to_owned();
            *terminal = match device.starts_with("/dev/") {
                true => Terminal::Device(device),
                false => Terminal::None,
            };
        }
        match &*terminal {
            Terminal::Device(device) => Some(device.clone()),
            _ => None,
        }
    }
}

/// Runs a short script in the guest, and waits for its end so that the agent forgets it.
async fn run(agent: &Agent, script: &str, arguments: &[&str]) -> Result<(), AgentError> {
    let qga::GuestExec { pid } = agent.execute(&helper(script, arguments)).await?;
    reap(agent, pid).await
}

/// Waits for the end of `pid`, which is near, so that the agent forgets it.
pub(super) async fn reap(agent: &Agent, pid: i64) -> Result<(), AgentError> {
    let mut pause = POLL.0;
    // Longer than any of them takes; what is then left, the agent keeps.
    for _ in 0..8 {
        sleep(pause).await;
        pause *= 2;
        let status = agent.execute(&qga::guest_exec_status { pid }).await?;
        if status.exited {
            break;
        }
    }
    Ok(())
}

fn ended(status: qga::GuestExecStatus) -> Ended {
    let small = |number: i64| u32::try_from(number).unwrap_or(u32::from(u8::MAX));
    match (status.exitcode, status.signal) {
        (Some(LACKING), _) => match status.err_data {
            Some(said) if !said.is_empty() => Ended::Lacking(bootstrap::words_of(&said)),
            _ => Ended::Status(small(LACKING)),
        },
        (Some(code), _) => Ended::Status(small(code)),
        (None, Some(signal)) => Ended::Status(small(signal).saturating_add(128)),
        (None, None) => Ended::Lost("the guest's agent does not tell how it ended"),
    }
}

/// Whether something can be read from `socket`.
fn has_bytes(socket: &OwnedFd) -> bool {
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(socket.as_raw_fd(), &mut [0], look) {
        Ok(count) => count > 0,
        Err(Errno::EINTR) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_guest_tells_of_an_end_is_one(
            exitcode in prop::option::of(prop_oneof![any::<i64>(), Just(LACKING)]),
            signal in prop::option::of(prop_oneof![any::<i64>(), Just(i64::from(u32::MAX)), 0..64_i64]),
            said in prop::option::of(any::<Vec<u8>>()),
        ) {
            let status = qga::GuestExecStatus {
                exitcode, signal, exited: true, err_data: said,
                err_truncated: None, out_data: None, out_truncated: None,
            };
            match ended(status) {
                Ended::Lacking(words) => {
                    prop_assert_eq!(exitcode, Some(LACKING));
                    prop_assert!(!words.contains(char::is_control));
                }
                Ended::Status(status) => {
                    prop_assert!(status != 0 || exitcode == Some(0));
                    prop_assert!(exitcode.is_some() || status >= 128);
                }
                Ended::Lost(_) => prop_assert!(exitcode.is_none() && signal.is_none()),
            }
        }
    }
}
