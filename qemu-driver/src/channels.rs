//! The wires between a machine and its host: console, monitor and guest agent, each a pair of
//! connected sockets. QEMU's ends go in as descriptors, so no socket ever has a path that
//! somebody else could open.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{setsockopt, sockopt};

/// The host's ends. When QEMU ends, each of them reads to its end of file; bytes that QEMU wrote
/// before are still there. An end of file may show as `ECONNRESET` where QEMU left something
/// unread: take it for the same.
#[derive(Debug)]
pub struct Channels {
    /// The first serial port: what the guest prints, and what it gets as its input.
    pub console: UnixStream,
    /// The monitor, for [`Qmp::connect`](crate::Qmp::connect).
    pub qmp: UnixStream,
    /// The guest agent's port, for [`Agent`](crate::Agent).
    pub agent: UnixStream,
}

/// QEMU's ends of [`Channels`].
#[derive(Debug)]
pub(crate) struct QemuEnds {
    pub(crate) console: OwnedFd,
    pub(crate) qmp: OwnedFd,
    pub(crate) agent: OwnedFd,
}

/// Bytes of kernel memory that the console may hold while nobody reads it.
///
/// QEMU writes each character by itself and the kernel counts several hundred bytes for each such
/// write: the default of 208 KiB would hold some 280 characters.
const CONSOLE_BUFFER: usize = 4 << 20;

impl Channels {
    /// Makes the pairs.
    pub(crate) fn new() -> io::Result<(Self, QemuEnds)> {
        let (console, qemu_console) = UnixStream::pair()?;
        let (qmp, qemu_qmp) = UnixStream::pair()?;
        let (agent, qemu_agent) = UnixStream::pair()?;
        // Beyond the system's limit for the privileged, up to it for others.
        if setsockopt(&qemu_console, sockopt::SndBufForce, &CONSOLE_BUFFER).is_err() {
            setsockopt(&qemu_console, sockopt::SndBuf, &CONSOLE_BUFFER)?;
        }
        let ends = QemuEnds {
            console: qemu_console.into(),
            qmp: qemu_qmp.into(),
            agent: qemu_agent.into(),
        };
        Ok((
            Self {
                console,
                qmp,
                agent,
            },
            ends,
        ))
    }
}
