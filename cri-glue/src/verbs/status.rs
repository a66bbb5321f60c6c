//! What a machine is doing.

use std::fmt;

use qemu_driver::agent::{AgentInfo, Interface, OsInfo};
use qemu_driver::qmp::{DiskStats, RunState};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Target, VerbError, shown, word};

/// What a machine is doing, as `vm:status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// QEMU's word: `running`, `paused`, `io-error`, …
    pub state: RunState,
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// QEMU's version.
    pub qemu_version: String,
    /// The versioned machine type.
    pub machine_type: String,
    /// Processors that the guest has.
    pub vcpus: usize,
    /// Memory that the guest has, in bytes.
    pub memory_bytes: u64,
    /// The guest's address on the node's vsock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock_cid: Option<u32>,
    /// What the disks have done.
    pub disks: Vec<Disk>,
    /// Whether the guest has its access credentials, if it is to have any by its agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_credentials: Option<Credentials>,
    /// What the guest's agent tells.
    pub guest_agent: GuestAgent,
}

/// Whether a guest has the access credentials that its agent is to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// It has all of them.
    pub synchronized: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Credentials {
    /// There was nobody yet who could set them.
    pub fn waiting() -> Self {
        Self::failed("the guest's agent is not there yet".to_owned())
    }

    /// They are set.
    pub fn synchronized() -> Self {
        Self {
            synchronized: true,
            message: None,
        }
    }

    /// Some are not set.
    pub fn failed(message: String) -> Self {
        Self {
            synchronized: false,
            message: Some(message),
        }
    }
}

/// What a disk has done, in bytes and requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    name: String,
    #[serde(flatten)]
    stats: DiskStats,
}

/// What the guest's agent tells; all of it is the guest's word.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestAgent {
    /// Whether there is one that answers.
    pub connected: bool,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The guest's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The guest's operating system, in the agent's words (`guest-get-osinfo`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<OsInfo>,
    /// The guest's network interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Value>,
}

impl Disk {
    /// The disk that QEMU knows by this id.
    fn of((id, stats): (String, DiskStats)) -> Self {
        let name = id.strip_prefix("disk-").unwrap_or(&id).to_owned();
        Self { name, stats }
    }
}

impl Status {
    /// Asks the machine and its guest.
    pub(super) async fn of(target: Target<'_>) -> Result<Self, VerbError> {
        let qmp = target.qmp;
        let memory = qmp.memory_bytes().await?;
        let disks = qmp.disk_stats().await?;
        Ok(Self {
            state: shown(qmp.state().await?),
            accelerator: if qmp.kvm().await? { "kvm" } else { "tcg" },
            qemu_version: qmp.version().to_string(),
            machine_type: qmp.machine_type().await?.as_str().to_owned(),
            vcpus: qmp.vcpu_threads().await?.len(),
            memory_bytes: memory,
            vsock_cid: target.vsock_cid,
            disks: disks.into_iter().map(Disk::of).collect(),
            access_credentials: target.credentials.cloned(),
            guest_agent: GuestAgent::of(target).await,
        })
    }
}

impl GuestAgent {
    /// Asks the agent; one that does not answer is not there.
    async fn of(target: Target<'_>) -> Self {
        let Some(agent) = target.agent else {
            return Self::default();
        };
        let Ok(AgentInfo { version, commands }) = agent.info().await else {
            return Self::default();
        };
        let knows = |command: &str| commands.iter().any(|known| known == command);
        let mut guest = Self {
            connected: true,
            version: Some(version),
            ..Self::default()
        };
        if knows("guest-get-host-name") {
            guest.hostname = agent.hostname().await.ok();
        }
        if knows("guest-get-osinfo") {
            guest.os = agent.os().await.ok();
        }
        let interfaces = agent.interfaces().await.unwrap_or_default();
        guest.interfaces = interfaces.iter().map(interface).collect();
        guest
    }
}

fn interface(interface: &Interface) -> Value {
    let addresses = interface.addresses.iter();
    let addresses = addresses.map(|a| format!("{}/{}", a.address, a.prefix));
    json!({
        "name": interface.name,
        "mac": interface.mac.map(|mac| mac.to_string()),
        "addresses": addresses.collect::<Vec<_>>(),
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = json!(self.state);
        writeln!(f, "State:        {}", word(&state))?;
        writeln!(f, "Accelerator:  {}", self.accelerator)?;
        writeln!(
            f,
            "QEMU:         {} ({})",
            self.qemu_version, self.machine_type
        )?;
        writeln!(f, "vCPUs:        {}", self.vcpus)?;
        writeln!(f, "Memory:       {} MiB", self.memory_bytes >> 20)?;
        if let Some(cid) = self.vsock_cid {
            writeln!(f, "Vsock CID:    {cid}")?;
        }
        for Disk { name, stats } in &self.disks {
            writeln!(
                f,
                "Disk:         {name}, {} KiB read, {} KiB written",
                stats.read_bytes >> 10,
                stats.written_bytes >> 10
            )?;
        }
        if let Some(credentials) = &self.access_credentials {
            let words = credentials.message.as_deref().unwrap_or("synchronized");
            writeln!(f, "Credentials:  {words}")?;
        }
        let agent = &self.guest_agent;
        let version = agent.version.as_deref().unwrap_or("not there");
        writeln!(f, "Guest agent:  {version}")?;
        if let Some(hostname) = &agent.hostname {
            writeln!(f, "Hostname:     {hostname}")?;
        }
        for interface in &agent.interfaces {
            let addresses = interface["addresses"].as_array();
            let addresses: Vec<_> = addresses.into_iter().flatten().map(word).collect();
            writeln!(
                f,
                "Interface:    {}, {}",
                word(&interface["name"]),
                addresses.join(", ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_the_name_that_its_owner_gave_it() {
        for (id, name) in [("disk-root", "root"), ("disk-disk-0", "disk-0"), ("x", "x")] {
            let disk = Disk::of((id.to_owned(), DiskStats::default()));
            assert_eq!(disk.name, name);
        }
    }
}
