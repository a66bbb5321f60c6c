//! Commands in the guest, with streams: through nothing but the stock guest agent.
//!
//! Each stream of a command is a serial port of its own, plugged in for it. The agent starts a shell
//! that opens the ports and becomes the command, so bytes never pass through the agent. Relies on a
//! Linux guest with `/bin/sh`; what it lacks is said by name. Promises that every port is taken out
//! again, that no byte that the command wrote is lost, and that no wait on the guest is without a
//! bound, but for the command's own end.

mod bootstrap;
mod error;
mod late;
mod running;
mod signal;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qapi::qga;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent::{Agent, AgentError, Asked};
use crate::qmp::{PORTS, Qmp, QmpError};
pub use error::ExecError;
pub use running::{Ended, Handle, Running};

/// Commands that can run in a guest at the same time: each has three ports at most.
const MOST: usize = PORTS / 3;

/// A command for the guest.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program, which is looked up on the guest's `PATH`, and its arguments; not empty.
    pub args: Vec<String>,
    /// Variables on top of the guest's own.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub directory: String,
    /// Who it runs as; `None` is the agent's own user, root.
    pub user: Option<User>,
    /// Whether it has an input; without one it reads the end of file.
    pub stdin: bool,
    /// Whether it has a terminal, which then is all of its streams.
    pub terminal: bool,
    /// Whether it may take one of the last places: what watches over the machine must not fail for
    /// what others run in it.
    pub urgent: bool,
}

/// The name of a user of the guest: a letter or `_`, then letters, digits, `_`, `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User(String);

/// The text is no name of a user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "guest user {0:?}: use 1 to 32 letters, digits, '_', '.' or '-', beginning with a letter or '_'"
)]
pub struct NoUser(String);

impl User {
    /// Checks `name`. Whether the guest has that user, it says itself.
    pub fn new(name: &str) -> Result<Self, NoUser> {
        let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let rest = |byte: u8| first(byte) || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
        let good =
            name.len() <= 32 && name.bytes().next().is_some_and(first) && name.bytes().all(rest);
        good.then(|| Self(name.to_owned()))
            .ok_or_else(|| NoUser(name.to_owned()))
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u32,
    /// Characters of a line.
    pub columns: u32,
}

/// The host's ends of a command's streams. Those that the command writes end when the last process
/// of the guest has closed them and [`Running::drained`] says so.
#[derive(Debug)]
pub struct Streams {
    /// What the command reads. Its end is the command's end of file.
    pub stdin: Option<UnixStream>,
    /// What the command writes; of a terminal, both ways.
    pub stdout: UnixStream,
    /// What the command writes as its errors; none of a terminal.
    pub stderr: Option<UnixStream>,
}

/// What is needed to start a command.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The monitor.
    pub qmp: &'a Qmp,
    /// The guest's agent.
    pub agent: &'a Agent,
    /// The machine's room for commands.
    pub room: &'a Room,
}

/// A machine's room for commands: one for each machine.
#[derive(Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    /// Numbers commands, so that no two have ports of the same name.
    next: AtomicU64,
}

/// Places that are kept for urgent commands.
const KEPT: usize = 4;

impl Room {
    fn enter(&self, urgent: bool) -> Result<OwnedSemaphorePermit, ExecError> {
        if !urgent && self.places.available_permits() <= KEPT {
            return Err(ExecError::Full);
        }
        let place = self.places.clone().try_acquire_owned();
        place.map_err(|_| ExecError::Full)
    }
}

impl Default for Room {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST)),
            next: AtomicU64::new(1),
        }
    }
}

/// The ports of one command, which are in the machine.
#[derive(Debug)]
struct Ports {
    qmp: Qmp,
    names: Vec<String>,
    place: Option<OwnedSemaphorePermit>,
}

impl Ports {
    /// Plugs in a port `exec-<number>-<role>`; the host's end.
    async fn add(&mut self, number: u64, role: &str) -> Result<UnixStream, ExecError> {
        let (ours, qemus) = UnixStream::pair().map_err(ExecError::Sockets)?;
        let name = port_name(number, role);
        // An error does not mean that it is not there.
        self.names.push(name.clone());
        self.qmp.add_port(&name, qemus.into()).await?;
        Ok(ours)
    }
}

impl Drop for Ports {
    /// Takes the ports out, behind the caller's back: QEMU lets go of them only after a while.
    fn drop(&mut self) {
        let (qmp, names) = (self.qmp.clone(), std::mem::take(&mut self.names));
        let place = self.place.take();
        tokio::spawn(async move {
            for name in &names {
                match qmp.remove_port(name).await {
                    // The machine has ended, which takes its ports along.
                    Ok(()) | Err(QmpError::Closed { .. }) => {}
                    Err(error) => tracing::warn!(name, %error, "a port was not taken out"),
                }
            }
            drop(place);
        });
    }
}

fn port_name(number: u64, role: &str) -> String {
    format!("exec-{number}-{role}")
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    /// When the guest has no agent that does it, or the machine has no port left; the command was
    /// not started then, or is ended as soon as an agent that was too slow says that it was.
    pub async fn start(self, guest: Guest<'_>) -> Result<(Running, Streams), ExecError> {
        let place = guest.room.enter(self.urgent)?;
        let number = guest.room.next.fetch_add(1, Ordering::Relaxed);
        let events = guest.qmp.events();
        let mut ports = Ports {
            qmp: guest.qmp.clone(),
            names: Vec::new(),
            place: Some(place),
        };
        let (pid, streams, control) = self.start_with(guest, number, &mut ports).await?;
        let running = Running::new(pid, ports, &streams, control, events);
        Ok((running.map_err(ExecError::Sockets)?, streams))
    }

    async fn start_with(
        self,
        guest: Guest<'_>,
        number: u64,
        ports: &mut Ports,
    ) -> Result<(i64, Streams, Option<UnixStream>), ExecError> {
        let (streams, control) = if self.terminal {
            let streams = Streams {
                stdin: None,
                stdout: ports.add(number, bootstrap::TERMINAL).await?,
                stderr: None,
            };
            (streams, Some(ports.add(number, bootstrap::CONTROL).await?))
        } else {
            let stdin = match self.stdin {
                true => Some(ports.add(number, bootstrap::IN).await?),
                false => None,
            };
            let streams = Streams {
                stdin,
                stdout: ports.add(number, bootstrap::OUT).await?,
                stderr: Some(ports.add(number, bootstrap::ERR).await?),
            };
            (streams, None)
        };
        let command = bootstrap::command(&self, number);
        match guest.agent.ask(&command).await {
            Asked::Now(Ok(qga::GuestExec { pid })) => Ok((pid, streams, control)),
            Asked::Now(Err(AgentError::Refused { reason, .. })) => Err(ExecError::refused(reason)),
            Asked::Now(Err(error)) => Err(error.into()),
            Asked::Later(late) => {
                tokio::spawn(late::end(guest.agent.clone(), late));
                Err(guest.agent.silent::<qga::guest_exec>().into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_the_names_of_users() {
        for good in ["root", "_apt", "debian-user", "a.b", "u1"] {
            assert_eq!(
                User::new(good).map(|user| user.to_string()),
                Ok(good.into())
            );
        }
        for bad in ["", "-x", "1a", "a b", "a;b", "a$b", "ä", &"x".repeat(33)] {
            assert!(User::new(bad).is_err(), "{bad}");
        }
    }
}
