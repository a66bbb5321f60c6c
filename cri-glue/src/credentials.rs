//! Keys and passwords for the guest's users, from the Secrets that the pod mounts beneath
//! [`ACCESS_CREDENTIALS_DIRECTORY`].
//!
//! A Secret may change while the machine runs: kubelet then replaces what is in the mount, all at once.
//! They are read with the rights of the pod's user, and never written anywhere but into the guest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vm_api::contract::ACCESS_CREDENTIALS_DIRECTORY;
use vm_api::field::shown;
use vm_api::machine::{CredentialKind, MachineCredential};

use crate::beneath::{Directory, Links};
use crate::identity::Identity;
use crate::mounts::{PodMounts, Volume};

/// Bytes of all Secrets of a machine at most: what Kubernetes lets one have. Of what is made of them, as
/// many: a key counts for each of its users.
const MAX_BYTES: usize = 1 << 20;

/// Data of all Secrets of a machine at most.
const MAX_DATA: usize = 1024;

/// Keys at most, each counted for each of its users.
const MAX_KEYS: usize = 4096;

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum CredentialError {
    #[error(
        "accessCredentials: the Secret {secret} is not in the pod: mount it at \
         {ACCESS_CREDENTIALS_DIRECTORY}/{secret} of the machine container"
    )]
    Missing { secret: String },
    #[error("accessCredentials: cannot read the Secret {secret}: {source}")]
    Read { secret: String, source: io::Error },
    #[error(
        "accessCredentials: with the Secret {secret}, there are more than {MAX_DATA} data, or more than \
         {MAX_BYTES} bytes"
    )]
    TooLarge { secret: String },
    #[error(
        "accessCredentials: there are more than {MAX_KEYS} keys, or more than {MAX_BYTES} bytes of \
         them, each counted for each of its users"
    )]
    TooManyKeys,
    #[error("accessCredentials: {datum} of the Secret {secret} is no text")]
    NotText { secret: String, datum: String },
}

/// What the guest's agent is to set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Public keys, by user.
    pub keys: BTreeMap<String, Vec<String>>,
    /// Passwords, by user.
    pub passwords: BTreeMap<String, String>,
}

impl fmt::Debug for Wanted {
    /// Names the users, and nothing else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("keys", &self.keys.keys())
            .field("passwords", &self.passwords.keys())
            .finish()
    }
}

/// Where the credentials of a machine are that its agent sets.
#[derive(Clone, Debug)]
pub struct AgentCredentials {
    identity: Identity,
    sources: Vec<(Secret, For)>,
}

#[derive(Clone, Debug)]
enum For {
    Keys(Vec<String>),
    Passwords,
}

/// A Secret of the pod, on the node.
#[derive(Clone, Debug)]
struct Secret {
    name: String,
    directory: PathBuf,
}

impl AgentCredentials {
    /// Those of `credentials` that the guest's agent sets, if there are any.
    pub fn of(
        credentials: &[MachineCredential<'_>],
        mounts: &PodMounts,
        identity: &Identity,
    ) -> Result<Option<Self>, CredentialError> {
        let mut sources = Vec::new();
        for credential in credentials {
            let wanted = match credential.kind {
                CredentialKind::SeedKeys => continue,
                CredentialKind::AgentKeys(users) => For::Keys(users.to_vec()),
                CredentialKind::Passwords => For::Passwords,
            };
            sources.push((Secret::of(credential.secret, mounts)?, wanted));
        }
        let identity = identity.clone();
        Ok((!sources.is_empty()).then_some(Self { identity, sources }))
    }

    /// The directories in which kubelet replaces what is in the Secrets.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.sources
            .iter()
            .map(|(secret, _)| secret.directory.as_path())
    }

    /// What they are now. Blocks for as long as a few files take.
    pub fn read(&self) -> Result<Wanted, CredentialError> {
        let mut wanted = Wanted::default();
        let (mut secrets, mut room) = (Secrets::of(&self.identity), Room::default());
        for (secret, what) in &self.sources {
            let data = secrets.read(secret)?;
            match what {
                For::Keys(users) => {
                    for user in users {
                        let all = wanted.keys.entry(user.clone()).or_default();
                        room.add_keys(data, all)?;
                    }
                }
                For::Passwords => {
                    let trimmed = |(user, text): (&String, &String)| {
                        let password = text.trim_end_matches(['\r', '\n']);
                        (user.clone(), password.to_owned())
                    };
                    wanted.passwords.extend(data.iter().map(trimmed));
                }
            }
        }
        Ok(wanted)
    }
}

/// The public keys of `credentials` that the machine's seed carries.
pub fn seed_keys(
    credentials: &[MachineCredential<'_>],
    mounts: &PodMounts,
    identity: &Identity,
) -> Result<Vec<String>, CredentialError> {
    let mut keys = Vec::new();
    let (mut secrets, mut room) = (Secrets::of(identity), Room::default());
    for credential in credentials {
        if credential.kind == CredentialKind::SeedKeys {
            let secret = Secret::of(credential.secret, mounts)?;
            room.add_keys(secrets.read(&secret)?, &mut keys)?;
        }
    }
    Ok(keys)
}

/// Room for keys.
struct Room {
    keys: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            keys: MAX_KEYS,
            bytes: MAX_BYTES,
        }
    }
}

impl Room {
    /// Adds the keys in `data` to `all` of a user.
    fn add_keys(&mut self, data: &Data, all: &mut Vec<String>) -> Result<(), CredentialError> {
        for key in data.values().flat_map(|text| lines(text)) {
            let left = (self.keys.checked_sub(1), self.bytes.checked_sub(key.len()));
            let (Some(keys), Some(bytes)) = left else {
                return Err(CredentialError::TooManyKeys);
            };
            *self = Self { keys, bytes };
            all.push(key.to_owned());
        }
        Ok(())
    }
}

/// The keys in `text`: a line each, comments apart.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The data of a Secret, by their names.
type Data = BTreeMap<String, String>;

/// Secrets as they are read: each once, with the rights of `identity`, and all within bounds.
struct Secrets<'a> {
    identity: &'a Identity,
    read: BTreeMap<String, Data>,
    data: usize,
    bytes: usize,
}

impl<'a> Secrets<'a> {
    fn of(identity: &'a Identity) -> Self {
        Self {
            identity,
            read: BTreeMap::new(),
            data: MAX_DATA,
            bytes: MAX_BYTES,
        }
    }

    fn read(&mut self, secret: &Secret) -> Result<&Data, CredentialError> {
        if !self.read.contains_key(&secret.name) {
            let (data, bytes) = (&mut self.data, &mut self.bytes);
            // The pod's user has no way through kubelet's directories; what is in this one is the pod's.
            let directory = Directory::open(&secret.directory);
            let directory = directory.map_err(|source| secret.failed(source))?;
            let read = self
                .identity
                .run(|| secret.read_here(&directory, data, bytes));
            let read = read.unwrap_or_else(|source| Err(secret.failed(source)))?;
            self.read.insert(secret.name.clone(), read);
        }
        Ok(&self.read[&secret.name])
    }
}

impl Secret {
    fn of(name: &str, mounts: &PodMounts) -> Result<Self, CredentialError> {
        match mounts.credential(name) {
            Some(Volume::Mount { source, .. }) => Ok(Self {
                name: name.to_owned(),
                directory: source.clone(),
            }),
            _ => Err(CredentialError::Missing {
                secret: name.to_owned(),
            }),
        }
    }

    /// Its data, of which there may be so many, and so many bytes.
    fn read_here(
        &self,
        directory: &Directory,
        most: &mut usize,
        bytes: &mut usize,
    ) -> Result<Data, CredentialError> {
        let failed = |source| self.failed(source);
        let mut data = Data::new();
        for entry in directory.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let datum = entry.to_string_lossy().into_owned();
            // Kubelet's own: the directory that the data are links into.
            if datum.starts_with("..") {
                continue;
            }
            let too_large = || CredentialError::TooLarge {
                secret: self.name.clone(),
            };
            *most = most.checked_sub(1).ok_or_else(too_large)?;
            // Kubelet's files are links to links, all inside.
            let file = directory.file(Path::new(&entry), OFlags::RDONLY, Links::Followed);
            let text = self.text(file.map_err(|error| failed(error.into()))?, *bytes, &datum)?;
            *bytes = bytes.checked_sub(text.len()).ok_or_else(too_large)?;
            data.insert(datum, text);
        }
        Ok(data)
    }

    fn text(&self, file: File, most: usize, datum: &str) -> Result<String, CredentialError> {
        let mut bytes = Vec::new();
        let read = file.take(most as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|source| self.failed(source))?;
        String::from_utf8(bytes).map_err(|_| CredentialError::NotText {
            secret: self.name.clone(),
            datum: shown(datum),
        })
    }

    fn failed(&self, source: io::Error) -> CredentialError {
        CredentialError::Read {
            secret: self.name.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::thread::CapabilitySet;
    use serde_json::json;

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    const ROOT: Identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        capabilities: CapabilitySet::empty(),
    };

    /// A Secret's mount as kubelet makes it.
    fn secret(data: &[(&str, &str)]) -> tempfile::TempDir {
        let secret = tempfile::tempdir().unwrap();
        let at = |name: &str| secret.path().join(name);
        std::fs::create_dir(at("..2026")).unwrap();
        symlink("..2026", at("..data")).unwrap();
        for (name, text) in data {
            std::fs::write(at("..2026").join(name), text).unwrap();
            symlink(format!("..data/{name}"), at(name)).unwrap();
        }
        secret
    }

    fn mounts(name: &str, directory: &Path) -> PodMounts {
        let mut spec = spec();
        spec["mounts"].as_array_mut().unwrap().push(json!({
            "destination": format!("/access-credentials/{name}"), "type": "bind",
            "source": directory, "options": ["ro"],
        }));
        PodMounts::of(&bundle(spec)).unwrap()
    }

    #[test]
    fn keys_and_passwords_are_read_and_read_again() {
        let secret = secret(&[("a", "# mine\nssh-rsa A\n\n"), ("b", "ssh-rsa B")]);
        let mounts = mounts("s", secret.path());
        let users = ["root".to_owned(), "me".to_owned()];
        let of = |kind| MachineCredential { secret: "s", kind };
        let all = [
            of(CredentialKind::AgentKeys(&users)),
            of(CredentialKind::SeedKeys),
        ];
        let credentials = AgentCredentials::of(&all, &mounts, &ROOT).unwrap().unwrap();
        let keys = vec!["ssh-rsa A".to_owned(), "ssh-rsa B".to_owned()];
        let wanted = credentials.read().unwrap();
        assert_eq!(wanted.keys["root"], keys);
        assert_eq!(wanted.keys["me"], keys);
        assert_eq!(seed_keys(&all, &mounts, &ROOT).unwrap(), keys);
        assert_eq!(credentials.directories().count(), 1);
        std::fs::write(secret.path().join("..2026/a"), "ssh-rsa C").unwrap();
        assert_eq!(credentials.read().unwrap().keys["me"][0], "ssh-rsa C");

        let passwords = [of(CredentialKind::Passwords)];
        let passwords = AgentCredentials::of(&passwords, &mounts, &ROOT).unwrap();
        let wanted = passwords.unwrap().read().unwrap();
        assert_eq!(wanted.passwords["b"], "ssh-rsa B");
        assert!(!format!("{wanted:?}").contains("ssh-rsa"), "{wanted:?}");
        let none = AgentCredentials::of(&[of(CredentialKind::SeedKeys)], &mounts, &ROOT);
        assert!(none.unwrap().is_none());
    }

    /// Kubelet's directories are root's alone; the Secret in them is the pod's.
    #[test]
    fn the_way_to_a_secret_need_not_be_the_pods() {
        let way = tempfile::tempdir().unwrap();
        let directory = way.path().join("keys");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("a"), "ssh-rsa A").unwrap();
        for (path, mode) in [(way.path(), 0o700), (&directory, 0o755)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let mounts = mounts("s", &directory);
        let users = ["root".to_owned()];
        let kind = CredentialKind::AgentKeys(&users);
        let pods = Identity {
            uid: 107,
            gid: 107,
            ..ROOT
        };
        let credentials =
            AgentCredentials::of(&[MachineCredential { secret: "s", kind }], &mounts, &pods);
        let wanted = credentials.unwrap().unwrap().read().unwrap();
        assert_eq!(wanted.keys["root"], ["ssh-rsa A"]);
    }

    #[test]
    fn mistakes_are_named_and_nothing_leads_out() {
        let secret = secret(&[]);
        let mounts = mounts("s", secret.path());
        let passwords = |secret| {
            let kind = CredentialKind::Passwords;
            AgentCredentials::of(&[MachineCredential { secret, kind }], &mounts, &ROOT)
        };
        let error = passwords("other").unwrap_err().to_string();
        assert!(
            error.contains("mount it at /access-credentials/other"),
            "{error}"
        );
        let credentials = passwords("s").unwrap().unwrap();
        let at = |name: &str| secret.path().join(name);
        std::fs::write(at("a"), b"\xff").unwrap();
        let error = credentials.read().unwrap_err().to_string();
        assert!(error.contains("a of the Secret s is no text"), "{error}");
        std::fs::write(at("a"), "x".repeat((1 << 20) + 1)).unwrap();
        assert!(
            credentials
                .read()
                .unwrap_err()
                .to_string()
                .contains("more than")
        );
        std::fs::remove_file(at("a")).unwrap();
        symlink("/etc/passwd", at("root")).unwrap();
        let error = credentials.read().unwrap_err().to_string();
        assert!(error.contains("cannot read the Secret s"), "{error}");
    }

    #[test]
    fn all_of_them_together_are_bounded() {
        let secret = secret(&[("a", &format!("ssh-rsa {}", "A".repeat(600 << 10)))]);
        let mounts = mounts("s", secret.path());
        let of = |kind| MachineCredential { secret: "s", kind };
        let one = ["root".to_owned()];
        // One Secret is read once, however often it is named.
        let passwords = [of(CredentialKind::Passwords); 8];
        let keys = of(CredentialKind::AgentKeys(&one));
        let all = [&passwords[..], &[keys]].concat();
        let read = |all: &[_]| {
            let credentials = AgentCredentials::of(all, &mounts, &ROOT).unwrap();
            credentials
                .unwrap()
                .read()
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(&all).unwrap().keys["root"].len(), 1);
        let error = read(&[keys, keys]).unwrap_err();
        assert!(error.contains("more than 1048576 bytes of them"), "{error}");
        let two = ["root".to_owned(), "me".to_owned()];
        let error = read(&[of(CredentialKind::AgentKeys(&two))]).unwrap_err();
        assert!(error.contains("more than 4096 keys"), "{error}");
        let seeds = [of(CredentialKind::SeedKeys); 2];
        assert!(seed_keys(&seeds[..1], &mounts, &ROOT).is_ok());
        let error = seed_keys(&seeds, &mounts, &ROOT).unwrap_err();
        assert!(matches!(error, CredentialError::TooManyKeys));
        std::fs::write(secret.path().join("..2026/a"), "k\n".repeat(MAX_KEYS + 1)).unwrap();
        let error = seed_keys(&seeds[..1], &mounts, &ROOT).unwrap_err();
        assert!(matches!(error, CredentialError::TooManyKeys));
    }
}
