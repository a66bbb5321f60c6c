//! What is plugged into a running machine by descriptor: serial ports, and viewers of its display.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use qapi::qmp;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::sleep;

use super::{Qmp, QmpError};
use crate::args::SERIAL_PORTS;

/// Serial ports that can be plugged in at once, beside the agent's.
pub const PORTS: usize = SERIAL_PORTS as usize - 2;

/// Longest pause before a backend that is still in use is tried again.
const BUSY: Duration = Duration::from_secs(1);

/// The command `device_add`. Its arguments are free in QEMU's schema, so they are ours here.
#[derive(Serialize)]
struct AddPort<'a> {
    driver: &'static str,
    bus: &'static str,
    id: &'a str,
    chardev: &'a str,
    name: &'a str,
}

impl qapi::Command for AddPort<'_> {
    type Ok = qapi::Empty;
    const NAME: &'static str = "device_add";
    const ALLOW_OOB: bool = false;
}

/// The command `chardev-add`, for a socket that is connected already.
#[derive(Serialize)]
struct AddSocket<'a> {
    id: &'a str,
    backend: serde_json::Value,
}

impl qapi::Command for AddSocket<'_> {
    type Ok = serde_json::Value;
    const NAME: &'static str = "chardev-add";
    const ALLOW_OOB: bool = false;
}

/// The command `query-vnc-servers`. Of its answer, only how many there are counts.
#[derive(Serialize)]
struct Displays {}

impl qapi::Command for Displays {
    type Ok = Vec<IgnoredAny>;
    const NAME: &'static str = "query-vnc-servers";
    const ALLOW_OOB: bool = false;
}

impl Qmp {
    /// Gives QEMU `descriptor` under `name`, for one use by a later command.
    async fn give(&self, name: &str, descriptor: &OwnedFd) -> Result<(), QmpError> {
        let command = qmp::getfd {
            fdname: name.to_owned(),
        };
        let descriptor = Some(descriptor.as_fd());
        self.connection
            .execute_with(&command, descriptor)
            .await
            .map(drop)
    }

    /// Plugs in a serial port that the guest knows by `name`, behind which is `socket`, a connected
    /// stream. The name is the port's id in QEMU too, and must be unused.
    pub async fn add_port(&self, name: &str, socket: OwnedFd) -> Result<(), QmpError> {
        self.give(name, &socket).await?;
        drop(socket);
        let address = json!({"type": "fd", "data": {"str": name}});
        let backend = AddSocket {
            id: name,
            backend: json!({"type": "socket", "data": {"addr": address, "server": false}}),
        };
        self.connection.execute(&backend).await?;
        let port = AddPort {
            driver: "virtserialport",
            bus: "ports.0",
            id: name,
            chardev: name,
            name,
        };
        let added = self.connection.execute(&port).await;
        if added.is_err() {
            self.remove_backend(name).await?;
        }
        added.map(drop)
    }

    /// Takes a port out again. What the guest had written and QEMU not yet passed on is lost.
    pub async fn remove_port(&self, name: &str) -> Result<(), QmpError> {
        let port = qmp::device_del {
            id: name.to_owned(),
        };
        let removed = self.execute(&port).await;
        self.remove_backend(name).await.and(removed.map(drop))
    }

    /// The serial ports that somebody in the guest has open, by their names.
    pub async fn open_ports(&self) -> Result<HashSet<String>, QmpError> {
        let ports = self.execute(&qmp::query_chardev {}).await?;
        let open = ports.into_iter().filter(|port| port.frontend_open);
        Ok(open.map(|port| port.label).collect())
    }

    /// Closes QEMU's end of a port, which its device lets go some time after it was taken out.
    async fn remove_backend(&self, name: &str) -> Result<(), QmpError> {
        let backend = qmp::chardev_remove {
            id: name.to_owned(),
        };
        let mut pause = Duration::from_millis(1);
        loop {
            match self.execute(&backend).await {
                Err(QmpError::Refused { reason, .. })
                    if reason.contains("busy") && pause < BUSY =>
                {
                    sleep(pause).await;
                    pause *= 2;
                }
                other => return other.map(drop),
            }
        }
    }

    /// Whether the machine has a display that viewers can be brought to.
    pub async fn has_display(&self) -> Result<bool, QmpError> {
        let displays = self.connection.execute(&Displays {}).await?;
        Ok(!displays.is_empty())
    }

    /// Connects `socket` with the machine's display, as a VNC client that needs no password.
    /// There must be one: QEMU keeps the socket and says nothing where there is none.
    pub async fn add_viewer(&self, name: &str, socket: OwnedFd) -> Result<(), QmpError> {
        self.give(name, &socket).await?;
        let viewer = qmp::add_client {
            protocol: "vnc".to_owned(),
            fdname: name.to_owned(),
            skipauth: Some(true),
            tls: None,
        };
        self.execute(&viewer).await.map(drop)
    }
}
