//! The answer of a machine, read from `vm:status -o json` and cut to size.
//!
//! Half of it is the guest's word, and a guest is hostile: what is taken over has bounds, and nothing
//! in it is more than text.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

/// Interfaces of a guest that are reported at most.
const MOST_INTERFACES: usize = 32;

/// Addresses of an interface that are reported at most.
const MOST_ADDRESSES: usize = 16;

/// Bytes of a name that are taken over.
const NAME_LIMIT: usize = 128;

/// Bytes of a sentence that are taken over.
const SENTENCE_LIMIT: usize = 512;

/// What a machine told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What its processors do.
    pub state: State,
    /// The versioned machine type.
    pub machine_type: Option<String>,
    /// What its guest's agent tells, if there is one that answers.
    pub agent: Option<Agent>,
    /// Whether the guest has its access credentials, if it is to have any.
    pub access_credentials: Option<AccessCredentials>,
}

/// Whether a guest has its access credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AccessCredentials {
    /// It has them as they are now.
    pub synchronized: bool,
    /// Why not.
    #[serde(default, deserialize_with = "sentence")]
    pub message: String,
}

/// What the processors of a machine do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// They run, or whatever else is no pause.
    #[default]
    Running,
    /// Somebody paused them.
    Paused,
    /// They wait for a disk that returns errors.
    IoError,
}

/// What a guest's agent tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The operating system.
    pub os: Os,
    /// Network interfaces, loopback aside.
    pub interfaces: Vec<Interface>,
}

/// A guest's operating system, in the words of `guest-get-osinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[expect(missing_docs, reason = "they are named as in their source")]
pub struct Os {
    #[serde(deserialize_with = "name")]
    pub id: String,
    #[serde(deserialize_with = "name")]
    pub name: String,
    #[serde(deserialize_with = "name")]
    pub pretty_name: String,
    #[serde(deserialize_with = "name")]
    pub version: String,
    #[serde(deserialize_with = "name")]
    pub version_id: String,
    #[serde(deserialize_with = "name")]
    pub kernel_release: String,
    #[serde(deserialize_with = "name")]
    pub kernel_version: String,
    #[serde(deserialize_with = "name")]
    pub machine: String,
}

/// A network interface of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the guest.
    pub name: String,
    /// Its MAC address, in lower case.
    pub mac: Option<String>,
    /// Its addresses, those of the link last.
    pub addresses: Vec<String>,
}

/// The part of `vm:status -o json` that is reported.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    state: String,
    #[serde(default)]
    machine_type: Option<String>,
    #[serde(default)]
    guest_agent: GuestAgent,
    #[serde(default)]
    access_credentials: Option<AccessCredentials>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GuestAgent {
    connected: bool,
    os: Os,
    interfaces: Vec<GuestInterface>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GuestInterface {
    #[serde(deserialize_with = "name")]
    name: String,
    mac: Option<String>,
    addresses: Vec<String>,
}

impl Told {
    /// Reads what `vm:status -o json` wrote.
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        let answer: Answer = serde_json::from_slice(json)?;
        let agent = answer.guest_agent.connected.then(|| Agent {
            os: answer.guest_agent.os,
            interfaces: interfaces(answer.guest_agent.interfaces),
        });
        Ok(Self {
            state: match answer.state.as_str() {
                "paused" | "prelaunch" => State::Paused,
                "io-error" => State::IoError,
                _ => State::Running,
            },
            machine_type: answer.machine_type,
            agent,
            access_credentials: answer.access_credentials,
        })
    }

    /// Whether the guest has told, and got, what it is to tell and get when it has started.
    pub fn is_settled(&self) -> bool {
        let credentials = self.access_credentials.as_ref();
        self.agent.is_some() && credentials.is_none_or(|it| it.synchronized)
    }
}

fn interfaces(given: Vec<GuestInterface>) -> Vec<Interface> {
    given
        .into_iter()
        .filter(|interface| !interface.name.is_empty() && interface.name != "lo")
        .take(MOST_INTERFACES)
        .map(|interface| Interface {
            name: interface.name,
            mac: interface
                .mac
                .filter(|mac| mac.len() < NAME_LIMIT)
                .map(|mac| mac.to_ascii_lowercase()),
            addresses: addresses(&interface.addresses),
        })
        .collect()
}

/// Addresses without their prefix lengths; what is none is left out.
fn addresses(given: &[String]) -> Vec<String> {
    let mut addresses: Vec<IpAddr> = given
        .iter()
        .filter_map(|address| address.split('/').next()?.parse().ok())
        .take(MOST_ADDRESSES)
        .collect();
    // Who reads only the first one wants one that leads somewhere.
    addresses.sort_by_key(|address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    });
    addresses.iter().map(ToString::to_string).collect()
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| cut(text, NAME_LIMIT))
}

fn sentence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(cut(text.unwrap_or_default(), SENTENCE_LIMIT))
}

fn cut(mut text: String, limit: usize) -> String {
    text.retain(|character| !character.is_control());
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index));
    text.truncate(end.unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Told {
        Told::read(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_is_read_as_the_machine_writes_it() {
        let told = read(&json!({
            "state": "running", "accelerator": "kvm", "qemuVersion": "7.2.22",
            "machineType": "pc-q35-7.2", "vcpus": 2, "memoryBytes": 1, "disks": [],
            "guestAgent": {
                "connected": true, "version": "7.2", "hostname": "tl",
                "os": { "id": "debian", "pretty-name": "Debian 12", "kernel-release": "6.1" },
                "interfaces": [
                    { "name": "lo", "mac": null, "addresses": ["127.0.0.1/8"] },
                    { "name": "enp1s0", "mac": "02:00:00:00:00:0A",
                      "addresses": ["fe80::1/64", "10.0.2.2/24", "nonsense"] },
                ],
            },
        }));
        assert_eq!(told.state, State::Running);
        assert_eq!(told.machine_type.as_deref(), Some("pc-q35-7.2"));
        let agent = told.agent.unwrap();
        assert_eq!(
            (&*agent.os.id, &*agent.os.pretty_name),
            ("debian", "Debian 12")
        );
        let [interface] = agent.interfaces.as_slice() else {
            panic!("{:?}", agent.interfaces);
        };
        assert_eq!(interface.mac.as_deref(), Some("02:00:00:00:00:0a"));
        assert_eq!(interface.addresses, ["10.0.2.2", "fe80::1"]);
    }

    #[test]
    fn a_machine_without_an_agent_tells_its_state() {
        let agent = json!({ "connected": false });
        for (word, expected) in [
            ("paused", State::Paused),
            ("prelaunch", State::Paused),
            ("io-error", State::IoError),
            ("running", State::Running),
            ("finish-migrate", State::Running),
        ] {
            let told = read(&json!({ "state": word, "guestAgent": agent }));
            assert_eq!((told.state, told.agent), (expected, None), "{word}");
        }
        assert!(Told::read(b"error: not running").is_err());
    }

    #[test]
    fn a_machine_tells_whether_its_guest_has_its_credentials() {
        let told = |credentials: Value| {
            read(
                &json!({ "state": "running", "guestAgent": { "connected": true },
                "accessCredentials": credentials }),
            )
        };
        assert!(told(Value::Null).is_settled());
        assert!(told(json!({ "synchronized": true })).is_settled());
        let failed = told(json!({ "synchronized": false, "message": "no such user\n".repeat(99) }));
        assert!(!failed.is_settled());
        let message = failed.access_credentials.unwrap().message;
        assert_eq!(message.len(), SENTENCE_LIMIT);
    }

    #[test]
    fn what_a_guest_says_has_bounds() {
        let long = "ä\n".repeat(1000);
        let interface = json!({ "name": long, "mac": long, "addresses": vec!["10.0.0.1"; 1000] });
        let told = read(&json!({ "state": "running", "guestAgent": {
            "connected": true, "os": { "name": long }, "interfaces": vec![interface; 1000],
        } }));
        let agent = told.agent.unwrap();
        assert_eq!(agent.os.name, "ä".repeat(NAME_LIMIT / 2));
        assert_eq!(agent.interfaces.len(), MOST_INTERFACES);
        let first = &agent.interfaces[0];
        assert_eq!(
            (first.mac.as_deref(), first.addresses.len()),
            (None, MOST_ADDRESSES)
        );
    }
}
