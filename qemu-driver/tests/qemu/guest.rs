//! A QEMU that runs for one test.

use std::fs::File;
use std::io::{self, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use qemu_driver::machine::{
    Accelerator, Cpu, CpuModel, Disk, DiskBus, DiskDevice, DiskFile, DiskImage, Format,
    MachineType, Memory, Name, Uuid,
};
use qemu_driver::qmp::{Ending, Event};
use qemu_driver::{CommandLine, FIRST_DESCRIPTOR, Machine, Qmp};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::boot_sector::{BootSector, SECTORS};

/// No wait of these tests takes longer, however slow the machine that runs them.
pub const LONG: Duration = Duration::from_secs(300);

pub struct Guest {
    pub child: Child,
    pub qmp: Qmp,
    pub events: broadcast::Receiver<Event>,
    pub console: UnixStream,
    #[expect(dead_code, reason = "held open")]
    pub agent: std::os::unix::net::UnixStream,
}

pub fn name(name: &str) -> Name {
    Name::new("thing", name).unwrap()
}

/// A machine without disks.
pub fn machine_of(memory: u64) -> Machine {
    let cpu = Cpu::new(1, 1, 1, CpuModel::Host).unwrap();
    Machine::new(
        name("test"),
        Uuid::from_u128(0x1234),
        MachineType::default(),
        Accelerator::Tcg,
        cpu,
        Memory::new(memory).unwrap(),
    )
}

pub fn machine() -> Machine {
    machine_of(32 << 20)
}

/// An unlinked file of these bytes.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub fn raw(bytes: &[u8]) -> DiskImage {
    DiskImage::File {
        file: DiskFile::new(file(bytes)).unwrap(),
        format: Format::Raw,
    }
}

/// A machine that boots `sector` from a virtio disk.
pub fn machine_with(sector: BootSector) -> Machine {
    let mut machine = machine();
    let image = raw(&sector.disk(SECTORS));
    let disk = Disk::new(name("root"), DiskDevice::Disk, DiskBus::Virtio, image).unwrap();
    machine.add_disk(disk).unwrap();
    machine
}

impl Guest {
    /// Starts QEMU, which waits for `cont`.
    pub async fn new(machine: Machine) -> Self {
        Self::with_stderr(machine, Stdio::inherit()).await.unwrap()
    }

    pub async fn booted(machine: Machine) -> Self {
        let guest = Self::new(machine).await;
        guest.qmp.cont().await.unwrap();
        guest
    }

    /// Starts QEMU, which must refuse; its words.
    pub async fn refused(machine: Machine) -> String {
        let mut stderr = tempfile::tempfile().unwrap();
        let result = Self::with_stderr(machine, stderr.try_clone().unwrap().into()).await;
        assert!(result.is_err(), "QEMU accepted it");
        let mut words = String::new();
        io::Seek::rewind(&mut stderr).unwrap();
        io::Read::read_to_string(&mut stderr, &mut words).unwrap();
        words
    }

    async fn with_stderr(machine: Machine, stderr: Stdio) -> Result<Self, ExitStatus> {
        let (line, channels) = CommandLine::new(machine).unwrap();
        let mappings = line
            .descriptors
            .into_iter()
            .enumerate()
            .map(|(index, parent_fd)| FdMapping {
                parent_fd,
                child_fd: (FIRST_DESCRIPTOR + index) as i32,
            });
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(line.args)
            .stdin(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        command.fd_mappings(mappings.collect()).unwrap();
        let mut child = command.spawn().expect("QEMU is installed");
        // With it go our copies of QEMU's ends: only so do the channels end when QEMU does.
        drop(command);
        let connected = Qmp::connect(channels.qmp, LONG).await;
        let (qmp, events) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let status = timeout(LONG, child.wait()).await.unwrap().unwrap();
                eprintln!("{error}: {status}");
                return Err(status);
            }
        };
        channels.console.set_nonblocking(true).unwrap();
        let console = UnixStream::from_std(channels.console).unwrap();
        Ok(Self {
            child,
            qmp,
            events,
            console,
            agent: channels.agent,
        })
    }

    /// Reads the console up to and with `text`.
    pub async fn await_text(&mut self, text: &str) -> String {
        let mut all = Vec::new();
        let found = timeout(LONG, async {
            while !all.ends_with(text.as_bytes()) {
                all.push(self.console.read_u8().await.unwrap());
            }
        });
        let found = found.await;
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(found.is_ok(), "{text:?} does not come after {all:?}");
        all
    }

    /// Waits for an event.
    pub async fn await_event(&mut self, expected: &Event) {
        let found = timeout(LONG, async {
            while self.events.recv().await.unwrap() != *expected {}
        });
        assert!(found.await.is_ok(), "{expected:?} does not come");
    }

    /// What is left on the console, QEMU's code, and what it said of its end.
    pub async fn end(mut self) -> (Vec<u8>, ExitStatus, Ending) {
        let end = async {
            let mut console = Vec::new();
            self.console.read_to_end(&mut console).await.unwrap();
            let status = self.child.wait().await.unwrap();
            (console, status, self.qmp.ended().await)
        };
        timeout(LONG, end).await.expect("QEMU ends")
    }
}
