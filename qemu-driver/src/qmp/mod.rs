//! The monitor: commands to a running QEMU, and what it reports by itself.
//!
//! Relies on the descriptor pair of [`Channels`](crate::Channels), so nobody else can talk to the
//! monitor. Promises that no call waits longer than its bound, that whatever QEMU sends takes
//! bounded memory, and that the reason of the machine's end is never lost. Commands and their
//! answers are the types of the `qapi` crate; the transport is ours, since that crate's neither
//! bounds a line nor survives an unknown event or a call given up.

mod connection;
mod cpu;
mod error;
mod event;
mod input;
mod picture;
mod plug;
mod size;
mod stats;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qapi::qmp;
use serde::Deserialize;
use tokio::sync::{Semaphore, broadcast};

use crate::machine::{MachineType, Name};
use crate::version::Version;
use connection::Connection;
pub use error::QmpError;
pub use event::{Ending, Event};
pub use picture::Picture;
pub use plug::PORTS;
pub use size::{AvailableMemory, GuestMemory, VcpuPlace};
pub use stats::DiskStats;

/// The state of the machine as QEMU names it: `running`, `paused`, `internal-error`, …
pub use qapi::qmp::RunState;

/// A connection to a QEMU's monitor. Clones share it.
#[derive(Clone, Debug)]
pub struct Qmp {
    connection: Arc<Connection>,
    version: Version,
    /// Places for pictures that are being read.
    pictures: Arc<Semaphore>,
}

/// QEMU's greeting, the first line of a monitor.
#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Deserialize)]
struct GreetingBody {
    version: qmp::VersionInfo,
}

impl Qmp {
    /// Waits at most `bound` for QEMU's greeting, refuses a QEMU that is too old, and makes the
    /// monitor ready for commands, each of which waits at most `bound` for its answer.
    ///
    /// Must be called within a tokio runtime with I/O and time, on which a task reads the monitor
    /// until QEMU ends or the last clone of the result is dropped. The receiver gets every event
    /// from the beginning.
    pub async fn connect(
        stream: UnixStream,
        bound: Duration,
    ) -> Result<(Self, broadcast::Receiver<Event>), QmpError> {
        Self::connect_within(stream, bound, bound).await
    }

    /// The same for a QEMU that was just started: it may take `start` for its greeting, and what is
    /// left of that to get ready for commands, or `bound` where that is longer.
    pub async fn connect_within(
        stream: UnixStream,
        start: Duration,
        bound: Duration,
    ) -> Result<(Self, broadcast::Receiver<Event>), QmpError> {
        let begun = Instant::now();
        let (mut connection, greeting, events) = Connection::open(stream, start).await?;
        connection.set_bound(start.saturating_sub(begun.elapsed()).max(bound));
        let greeting: Greeting =
            serde_json::from_slice(&greeting).map_err(|source| QmpError::Answer {
                command: "greeting",
                source,
            })?;
        let number = |part: i64| u32::try_from(part).unwrap_or(0);
        let version = greeting.qmp.version.qemu;
        let version = Version {
            major: number(version.major),
            minor: number(version.minor),
            micro: number(version.micro),
        };
        version.supported()?;
        connection
            .execute(&qmp::qmp_capabilities { enable: None })
            .await?;
        connection.set_bound(bound);
        Ok((
            Self {
                connection: Arc::new(connection),
                version,
                pictures: Arc::new(Semaphore::new(picture::PICTURES)),
            },
            events,
        ))
    }

    /// Executes one command.
    pub async fn execute<C: qmp::QmpCommand>(&self, command: &C) -> Result<C::Ok, QmpError> {
        self.connection.execute(command).await
    }

    /// A receiver of the events from now on. It reports
    /// [`Lagged`](broadcast::error::RecvError::Lagged) when its owner is too slow, and closes when
    /// QEMU ends.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.connection.events()
    }

    /// Waits until the monitor is closed, which QEMU's end does, and tells what it had said about
    /// the machine's end by then. This wait has no bound of its own.
    pub async fn ended(&self) -> Ending {
        self.connection.ended().await
    }

    /// What QEMU has said about the machine's end so far.
    pub fn ending(&self) -> Ending {
        self.connection.ending()
    }

    /// QEMU's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Lets the guest run: the first time, or after a pause.
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.execute(&qmp::cont {}).await.map(drop)
    }

    /// Pauses the guest.
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.execute(&qmp::stop {}).await.map(drop)
    }

    /// Stops the guest until [`Qmp::cont`]. One that QEMU has stopped already, for a disk, stays so: that
    /// is refused, since such a guest goes on by other means than whoever paused it.
    pub async fn pause(&self) -> Result<(), QmpError> {
        self.stop().await?;
        match self.state().await? {
            RunState::io_error => Err(QmpError::WaitsForDisk),
            _ => Ok(()),
        }
    }

    /// Presses the power button. What follows is the guest's matter.
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.execute(&qmp::system_powerdown {}).await.map(drop)
    }

    /// Presses the reset button.
    pub async fn system_reset(&self) -> Result<(), QmpError> {
        self.execute(&qmp::system_reset {}).await.map(drop)
    }

    /// Memory that the guest has, in bytes: what the balloon leaves it.
    pub async fn memory_bytes(&self) -> Result<u64, QmpError> {
        self.base_memory().await
    }

    /// Opens the tray of the drive of the disk `name`; its medium stays in it.
    pub async fn open_tray(&self, name: &Name) -> Result<(), QmpError> {
        #[expect(
            deprecated,
            reason = "the field that is, is left empty, but must be named"
        )]
        let command = qmp::blockdev_open_tray {
            device: None,
            id: Some(format!("disk-{name}")),
            // The guest may have locked it.
            force: Some(true),
        };
        self.execute(&command).await.map(drop)
    }

    /// Ends QEMU, writing back what it holds of the disks. QEMU's end may be quicker than its
    /// answer: that counts as success.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.execute(&qmp::quit {}).await {
            Ok(_) | Err(QmpError::Closed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the machine is doing.
    pub async fn state(&self) -> Result<RunState, QmpError> {
        Ok(self.execute(&qmp::query_status {}).await?.status)
    }

    /// Whether the guest runs on the processor (KVM).
    pub async fn kvm(&self) -> Result<bool, QmpError> {
        Ok(self.execute(&qmp::query_kvm {}).await?.enabled)
    }

    /// The versioned machine type that QEMU runs, also where it was started with an alias: what a
    /// restored or migrated machine has to be started with.
    pub async fn machine_type(&self) -> Result<MachineType, QmpError> {
        let command = qmp::qom_get {
            path: "/machine".into(),
            property: "type".into(),
        };
        let answer = self.execute(&command).await?;
        let name = answer
            .as_str()
            .and_then(|name| name.strip_suffix("-machine"));
        name.and_then(|name| MachineType::new(name).ok())
            .ok_or_else(|| QmpError::MachineType(answer.to_string()))
    }

    /// Plugs the cable of the interface `name` in or out, as the guest sees it.
    pub async fn set_link(&self, name: &Name, up: bool) -> Result<(), QmpError> {
        let name = format!("nic-{name}");
        self.execute(&qmp::set_link { name, up }).await.map(drop)
    }

    /// The threads that run the vCPUs, in the order of the vCPUs; their ids are those of QEMU's
    /// own PID namespace.
    pub async fn vcpu_threads(&self) -> Result<Vec<i64>, QmpError> {
        let cpus = self.execute(&qmp::query_cpus_fast {}).await?;
        let mut threads: Vec<_> = cpus
            .into_iter()
            .filter_map(|cpu| match cpu {
                qmp::CpuInfoFast::x86_64(cpu) => Some((cpu.cpu_index, cpu.thread_id)),
                _ => None,
            })
            .collect();
        threads.sort_unstable();
        Ok(threads.into_iter().map(|(_, thread)| thread).collect())
    }

    /// What each disk has done, by the disk's QEMU id (`disk-<name>`).
    pub async fn disk_stats(&self) -> Result<Vec<(String, DiskStats)>, QmpError> {
        self.connection
            .execute(&stats::Query {})
            .await
            .map(stats::of_disks)
    }
}

#[cfg(test)]
mod tests;
