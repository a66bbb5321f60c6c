//! Keys and passwords for a guest's users: which Secrets hold them, and how they reach the guest.

use std::collections::BTreeSet;

use crate::field::FieldError;
use crate::v1::{
    AccessCredential, AccessCredentialSource, SshPublicKeyAccessCredential,
    VirtualMachineInstanceSpec,
};

/// A credential of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineCredential<'a> {
    /// Name of the Secret that holds it.
    pub secret: &'a str,
    /// What it is, and how it reaches the guest.
    pub kind: CredentialKind<'a>,
}

/// What a credential is, and how it reaches the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind<'a> {
    /// Public keys for SSH, by the machine's seed. Each datum of the Secret holds some.
    SeedKeys,
    /// Public keys for SSH of these users, by the guest's agent.
    AgentKeys(&'a [String]),
    /// Passwords, by the guest's agent. Each datum of the Secret is that of the user of its name.
    Passwords,
}

/// Characters of a user's name at most, as in Linux (`useradd(8)`), and a little more.
const LONGEST_USER: usize = 64;

/// Users that all credentials name together, at most: the guest's agent is asked for each of them.
const MAX_USERS: usize = 64;

/// The credentials of `spec`.
pub fn credentials(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<MachineCredential<'_>>, Vec<FieldError>> {
    let (mut credentials, mut errors) = (Vec::new(), Vec::new());
    for (index, credential) in spec.access_credentials.iter().enumerate() {
        let path = format!("accessCredentials[{index}]");
        match read(spec, credential, &path) {
            Ok(credential) => credentials.push(credential),
            Err(error) => errors.push(error),
        }
    }
    let users = credentials.iter().map(|credential| match credential.kind {
        CredentialKind::AgentKeys(users) => users.len(),
        _ => 0,
    });
    if users.sum::<usize>() > MAX_USERS {
        let message = format!("name at most {MAX_USERS} users in all");
        errors.push(FieldError::new("accessCredentials", message));
    }
    if errors.is_empty() {
        Ok(credentials)
    } else {
        Err(errors)
    }
}

fn read<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    credential: &'a AccessCredential,
    path: &str,
) -> Result<MachineCredential<'a>, FieldError> {
    match (&credential.ssh_public_key, &credential.user_password) {
        (Some(keys), None) => {
            let path = format!("{path}.sshPublicKey");
            Ok(MachineCredential {
                secret: secret(&keys.source, &path)?,
                kind: keys_by(spec, keys, &format!("{path}.propagationMethod"))?,
            })
        }
        (None, Some(passwords)) => {
            let path = format!("{path}.userPassword");
            let secret = secret(&passwords.source, &path)?;
            if passwords.propagation_method.qemu_guest_agent.is_none() {
                let path = format!("{path}.propagationMethod");
                return Err(FieldError::new(path, "set qemuGuestAgent: {}"));
            }
            let kind = CredentialKind::Passwords;
            Ok(MachineCredential { secret, kind })
        }
        _ => Err(FieldError::new(
            path,
            "set exactly one of sshPublicKey and userPassword",
        )),
    }
}

fn secret<'a>(source: &'a AccessCredentialSource, path: &str) -> Result<&'a str, FieldError> {
    let secret = source.secret.as_ref().map(|it| it.secret_name.as_str());
    let Some(name) = secret.filter(|name| !name.is_empty()) else {
        return Err(FieldError::new(format!("{path}.source"), "name a Secret"));
    };
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let edges = [part.bytes().next(), part.bytes().next_back()];
        edges.into_iter().all(|b| b.is_some_and(alphanumeric))
            && part.bytes().all(|b| alphanumeric(b) || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(part) {
        return Ok(name);
    }
    let message = format!("`{name}` is not the name of a Secret");
    Err(FieldError::new(
        format!("{path}.source.secret.secretName"),
        message,
    ))
}

fn keys_by<'a>(
    spec: &VirtualMachineInstanceSpec,
    keys: &'a SshPublicKeyAccessCredential,
    path: &str,
) -> Result<CredentialKind<'a>, FieldError> {
    let method = &keys.propagation_method;
    let of_seed = |name: &str, there: bool| {
        let message = format!("there is no volume {name} that could carry the keys: add one");
        there
            .then_some(CredentialKind::SeedKeys)
            .ok_or_else(|| FieldError::new(path, message))
    };
    let mut volumes = spec.volumes.iter();
    match (
        &method.no_cloud,
        &method.config_drive,
        &method.qemu_guest_agent,
    ) {
        (Some(_), None, None) => {
            let there = volumes.any(|volume| volume.cloud_init_no_cloud.is_some());
            of_seed("cloudInitNoCloud", there)
        }
        (None, Some(_), None) => {
            let there = volumes.any(|volume| volume.cloud_init_config_drive.is_some());
            of_seed("cloudInitConfigDrive", there)
        }
        (None, None, Some(agent)) => {
            let path = format!("{path}.qemuGuestAgent.users");
            if agent.users.is_empty() {
                return Err(FieldError::new(path, "name the users whose keys they are"));
            }
            let wrong = |user: &&String| {
                user.is_empty() || user.len() > LONGEST_USER || user.contains(char::is_control)
            };
            if let Some(user) = agent.users.iter().find(wrong) {
                let message = format!("`{user}` is not the name of a user");
                return Err(FieldError::new(path, message));
            }
            let mut seen = BTreeSet::new();
            match agent.users.iter().find(|user| !seen.insert(*user)) {
                Some(user) => {
                    let message = format!("`{user}` is named twice: name it once");
                    Err(FieldError::new(path, message))
                }
                None => Ok(CredentialKind::AgentKeys(&agent.users)),
            }
        }
        _ => Err(FieldError::new(
            path,
            "set exactly one of noCloud, configDrive and qemuGuestAgent",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(credentials: Value) -> VirtualMachineInstanceSpec {
        with_seed(credentials, "cloudInitNoCloud")
    }

    fn with_seed(credentials: Value, form: &str) -> VirtualMachineInstanceSpec {
        let volumes = json!([{ "name": "seed", form: { "userData": "x" } }]);
        let spec = json!({ "accessCredentials": credentials, "volumes": volumes });
        serde_json::from_value(spec).unwrap()
    }

    fn keys(secret: &str, method: Value) -> Value {
        let source = json!({ "secret": { "secretName": secret } });
        json!({ "sshPublicKey": { "source": source, "propagationMethod": method } })
    }

    #[test]
    fn each_way_into_the_guest_is_read() {
        let source = json!({ "secret": { "secretName": "c" } });
        let method = json!({ "qemuGuestAgent": {} });
        let spec = spec(json!([
            keys("a", json!({ "noCloud": {} })),
            keys("b.c", json!({ "qemuGuestAgent": { "users": ["root", "me"] } })),
            { "userPassword": { "source": source, "propagationMethod": method } },
        ]));
        let users = ["root".to_owned(), "me".to_owned()];
        let expected = [
            ("a", CredentialKind::SeedKeys),
            ("b.c", CredentialKind::AgentKeys(&users)),
            ("c", CredentialKind::Passwords),
        ];
        let expected = expected.map(|(secret, kind)| MachineCredential { secret, kind });
        assert_eq!(credentials(&spec).unwrap(), expected);
        let drive = json!([keys("a", json!({ "configDrive": {} }))]);
        let spec = with_seed(drive, "cloudInitConfigDrive");
        let expected = MachineCredential {
            secret: "a",
            kind: CredentialKind::SeedKeys,
        };
        assert_eq!(credentials(&spec).unwrap(), [expected]);
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let agent = |users: Value| json!({ "qemuGuestAgent": { "users": users } });
        for (credential, path) in [
            (json!({}), ""),
            (keys("", agent(json!(["a"]))), ".sshPublicKey.source"),
            (
                keys("../a", agent(json!(["a"]))),
                ".sshPublicKey.source.secret.secretName",
            ),
            (keys("a", json!({})), ".sshPublicKey.propagationMethod"),
            (
                keys("a", json!({ "configDrive": {} })),
                ".sshPublicKey.propagationMethod",
            ),
            (
                keys("a", agent(json!([]))),
                ".sshPublicKey.propagationMethod.qemuGuestAgent.users",
            ),
            (
                keys("a", agent(json!(["a\n"]))),
                ".sshPublicKey.propagationMethod.qemuGuestAgent.users",
            ),
            (
                keys("a", agent(json!(["a", "b", "a"]))),
                ".sshPublicKey.propagationMethod.qemuGuestAgent.users",
            ),
        ] {
            let error = credentials(&spec(json!([credential])))
                .unwrap_err()
                .swap_remove(0);
            assert_eq!(error.path, format!("accessCredentials[0]{path}"));
        }
    }

    #[test]
    fn all_credentials_together_name_some_users() {
        let of = |count: usize| {
            let users: Vec<_> = (0..count).map(|number| format!("u{number}")).collect();
            let method = json!({ "qemuGuestAgent": { "users": users } });
            keys("a", method)
        };
        assert!(credentials(&spec(json!([of(32), of(32)]))).is_ok());
        let errors = credentials(&spec(json!([of(32), of(33)]))).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "accessCredentials: name at most 64 users in all"
        );
    }
}
