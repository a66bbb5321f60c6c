//! What a guest's agent tells, in KubeVirt's types.
//!
//! All of it is the guest's word: it is read into these types and nothing else, whatever it holds. A
//! command that the agent does not have, or has forbidden, leaves its field out.

use std::collections::HashSet;

use hyper::StatusCode;
use kube::Client;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::debug;
use vm_api::v1::API_VERSION;

use super::answer::{Answer, json as json_answer};
use super::failure::Failure;
use super::instances::{BOUND, failure};
use super::objects;
use crate::verbs::{Machine, Verbs};

/// Bytes of an agent's answer.
const LIMIT: usize = 1 << 20;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    version: String,
    supported_commands: Vec<Command>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Command {
    name: String,
    enabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Os {
    name: String,
    kernel_release: String,
    version: String,
    pretty_name: String,
    version_id: String,
    kernel_version: String,
    machine: String,
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    user: String,
    domain: String,
    login_time: f64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Filesystem {
    name: String,
    mountpoint: String,
    r#type: String,
    used_bytes: u64,
    total_bytes: u64,
    disk: Vec<Disk>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Disk {
    serial: String,
    bus_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timezone {
    zone: String,
    offset: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Hostname {
    host_name: String,
}

impl From<Os> for Value {
    fn from(os: Os) -> Self {
        let mut value = json!({
            "name": os.name, "kernelRelease": os.kernel_release, "version": os.version,
            "prettyName": os.pretty_name, "versionId": os.version_id,
            "kernelVersion": os.kernel_version, "machine": os.machine, "id": os.id,
        });
        without_empty(&mut value);
        value
    }
}

impl From<User> for Value {
    fn from(user: User) -> Self {
        let mut value = json!({ "domain": user.domain });
        without_empty(&mut value);
        value["userName"] = json!(user.user);
        if user.login_time != 0.0 {
            value["loginTime"] = json!(user.login_time);
        }
        value
    }
}

impl From<Filesystem> for Value {
    fn from(filesystem: Filesystem) -> Self {
        let disk = |disk: Disk| {
            let mut value = json!({ "serial": disk.serial });
            without_empty(&mut value);
            value["busType"] = json!(disk.bus_type);
            value
        };
        let disks: Vec<_> = filesystem.disk.into_iter().map(disk).collect();
        let mut value = json!({
            "diskName": filesystem.name, "mountPoint": filesystem.mountpoint,
            "fileSystemType": filesystem.r#type, "usedBytes": filesystem.used_bytes,
            "totalBytes": filesystem.total_bytes,
        });
        if !disks.is_empty() {
            value["disk"] = disks.into();
        }
        value
    }
}

/// Takes out fields that are empty texts.
fn without_empty(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| field.as_str() != Some(""));
    }
}

/// A guest.
pub(super) struct Guest<'a> {
    verbs: &'a Verbs,
    machine: Machine,
    name: &'a str,
}

impl<'a> Guest<'a> {
    /// The guest of the instance `namespace`/`name`.
    pub(super) async fn of(
        client: &Client,
        verbs: &'a Verbs,
        namespace: &str,
        name: &'a str,
    ) -> Result<Self, Failure> {
        let instance = objects::instance(client, namespace, name).await?;
        objects::running(&instance, "VMI")?;
        Ok(Self {
            verbs,
            machine: objects::running_machine(client, &instance).await?,
            name,
        })
    }

    /// Asks the agent.
    async fn ask<T: DeserializeOwned>(&self, command: &str) -> Result<T, Failure> {
        let words = ["vm:agent", command];
        let answer = self.verbs.call(&self.machine, &words, LIMIT, BOUND).await;
        let answer = answer.map_err(|error| failure(error, self.name))?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::internal(format!("the agent's answer to {command}: {error}")))
    }

    /// Asks the agent for something that it may not have.
    async fn try_ask<T: DeserializeOwned + Default>(
        &self,
        command: &str,
        known: &HashSet<&str>,
    ) -> T {
        if !known.contains(command) {
            return T::default();
        }
        match self.ask(command).await {
            Ok(answer) => answer,
            Err(failure) => {
                debug!(error = failure.message, command, "the agent does not tell");
                T::default()
            }
        }
    }

    /// `guestosinfo`.
    pub(super) async fn info(&self) -> Result<Answer, Failure> {
        let info: Info = self.ask("guest-info").await?;
        let known = info.supported_commands.iter();
        let known: HashSet<_> = known
            .filter(|command| command.enabled)
            .map(|command| command.name.as_str())
            .collect();
        let (hostname, os, timezone, users, filesystems, frozen) = futures::join!(
            self.try_ask::<Hostname>("guest-get-host-name", &known),
            self.try_ask::<Os>("guest-get-osinfo", &known),
            self.try_ask::<Timezone>("guest-get-timezone", &known),
            self.try_ask::<Vec<User>>("guest-get-users", &known),
            self.try_ask::<Vec<Filesystem>>("guest-get-fsinfo", &known),
            self.try_ask::<String>("guest-fsfreeze-status", &known),
        );
        let timezone = match timezone.zone.as_str() {
            "" => String::new(),
            zone => format!("{zone}, {}", timezone.offset),
        };
        let mut value = json!({
            "guestAgentVersion": info.version, "hostname": hostname.host_name,
            "timezone": timezone, "fsFreezeStatus": frozen,
        });
        without_empty(&mut value);
        value["kind"] = json!("VirtualMachineInstanceGuestAgentInfo");
        value["apiVersion"] = json!(API_VERSION);
        value["os"] = os.into();
        value["supportedCommands"] = json!(info.supported_commands);
        if !users.is_empty() {
            value["userList"] = all(users);
        }
        value["fsInfo"] = json!({ "disks": all(filesystems) });
        Ok(json_answer(StatusCode::OK, &value))
    }

    /// `userlist`.
    pub(super) async fn users(&self) -> Result<Answer, Failure> {
        let users: Vec<User> = self.ask("guest-get-users").await?;
        Ok(list("VirtualMachineInstanceGuestOSUserList", users))
    }

    /// `filesystemlist`.
    pub(super) async fn filesystems(&self) -> Result<Answer, Failure> {
        let filesystems: Vec<Filesystem> = self.ask("guest-get-fsinfo").await?;
        Ok(list("VirtualMachineInstanceFileSystemList", filesystems))
    }
}

fn all<T: Into<Value>>(items: Vec<T>) -> Value {
    items
        .into_iter()
        .map(Into::into)
        .collect::<Vec<Value>>()
        .into()
}

fn list<T: Into<Value>>(kind: &str, items: Vec<T>) -> Answer {
    let list = json!({
        "kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": all(items),
    });
    json_answer(StatusCode::OK, &list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T: DeserializeOwned + Into<Value>>(answer: Value) -> Value {
        serde_json::from_value::<T>(answer).unwrap().into()
    }

    #[test]
    fn the_agents_words_become_kubevirts() {
        let os = told::<Os>(json!({
            "id": "debian", "name": "Debian GNU/Linux", "kernel-release": "6.1", "machine": "x86_64",
        }));
        let expected = json!({
            "id": "debian", "name": "Debian GNU/Linux", "kernelRelease": "6.1", "machine": "x86_64",
        });
        assert_eq!(os, expected);
        let user = told::<User>(json!({ "user": "root", "login-time": 1.5 }));
        assert_eq!(user, json!({ "userName": "root", "loginTime": 1.5 }));
        let filesystem = told::<Filesystem>(json!({
            "name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1, "total-bytes": 2,
            "disk": [{ "bus-type": "virtio", "target": 0, "dev": "/dev/vda1" }],
        }));
        let expected = json!({
            "diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 1,
            "totalBytes": 2, "disk": [{ "busType": "virtio" }],
        });
        assert_eq!(filesystem, expected);
    }

    #[test]
    fn a_guest_that_answers_something_else_is_not_believed() {
        assert!(serde_json::from_value::<Vec<User>>(json!({ "user": "root" })).is_err());
        assert!(serde_json::from_value::<Filesystem>(json!({ "used-bytes": -1 })).is_err());
    }
}
