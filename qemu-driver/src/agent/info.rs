//! What the agent tells of itself and of the guest's system.
//!
//! The answers have types of ours, which keep no more than can be of use.

use serde::{Deserialize, Serialize};

use super::{Agent, AgentError, text};
use crate::bounded;

/// The most commands of an agent that are told: QEMU 11 knows some 50.
const MAX_COMMANDS: usize = 512;

/// The longest name of a host, in characters. Source: RFC 1035.
const MAX_HOSTNAME: usize = 253;

/// The longest text about the guest's system, in characters.
const MAX_OS: usize = 256;

/// What the agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version, in its own words.
    pub version: String,
    /// The commands that it knows and that the guest's owner lets it execute.
    pub commands: Vec<String>,
}

/// The guest's system, in the words of its `/etc/os-release` and `uname`; what is not told is empty.
/// Source: QEMU, `qga/qapi-schema.json`, `GuestOSInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[expect(missing_docs, reason = "they are named as in their source")]
pub struct OsInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel_release: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub machine: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pretty_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version_id: String,
}

impl OsInfo {
    fn checked(mut self) -> Self {
        for text in [
            &mut self.id,
            &mut self.kernel_release,
            &mut self.kernel_version,
            &mut self.machine,
            &mut self.name,
            &mut self.pretty_name,
            &mut self.variant,
            &mut self.variant_id,
            &mut self.version,
            &mut self.version_id,
        ] {
            *text = bounded::text(text, MAX_OS);
        }
        self
    }
}

/// The command `guest-info`.
#[derive(Serialize)]
struct Query {}

#[derive(Deserialize)]
struct Info {
    version: String,
    #[serde(deserialize_with = "bounded::first::<MAX_COMMANDS, _, _>")]
    supported_commands: Vec<Known>,
}

#[derive(Deserialize)]
struct Known {
    name: String,
    enabled: bool,
}

impl qapi::Command for Query {
    type Ok = Info;
    const NAME: &'static str = "guest-info";
    const ALLOW_OOB: bool = false;
}

impl qapi::qga::QgaCommand for Query {}

/// The command `guest-get-osinfo`.
#[derive(Serialize)]
struct QueryOs {}

impl qapi::Command for QueryOs {
    type Ok = OsInfo;
    const NAME: &'static str = "guest-get-osinfo";
    const ALLOW_OOB: bool = false;
}

impl qapi::qga::QgaCommand for QueryOs {}

impl Agent {
    /// What the agent is and can do.
    pub async fn info(&self) -> Result<AgentInfo, AgentError> {
        let info = self.execute(&Query {}).await?;
        let enabled = info.supported_commands.iter().filter(|known| known.enabled);
        Ok(AgentInfo {
            version: text(&info.version),
            commands: enabled.map(|known| text(&known.name)).collect(),
        })
    }

    /// The guest's name.
    pub async fn hostname(&self) -> Result<String, AgentError> {
        let answer = self.execute(&qapi::qga::guest_get_host_name {}).await?;
        Ok(bounded::text(&answer.host_name, MAX_HOSTNAME))
    }

    /// The guest's system.
    pub async fn os(&self) -> Result<OsInfo, AgentError> {
        self.execute(&QueryOs {}).await.map(OsInfo::checked)
    }
}
