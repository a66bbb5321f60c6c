//! The seed: what cloud-init in the guest reads at its first start, by its source NoCloud.
//!
//! User and network data come inline or from a Secret that the pod mounts; the seed is a small
//! disk that only ever exists in memory.

mod image;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vm_api::contract::{SEED_NETWORK_DATA_FILE, SEED_USER_DATA_FILE};
use vm_api::v1::CloudInitSource;

use crate::beneath::{Directory, Links};
use crate::identity::Identity;
use crate::mounts::{MountError, PodMounts, Volume};

/// The most bytes of user data or of network data: what a Secret can hold.
const MAX_DATA_BYTES: u64 = 1 << 20;

/// What a seed tells the guest about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification<'a> {
    /// Changes when the guest shall be initialised anew.
    pub instance_id: &'a str,
    /// Host name.
    pub hostname: &'a str,
}

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum SeedError {
    #[error(
        "volume {volume}: its Secret has no key {key}; add the key with the {what} for cloud-init"
    )]
    NoKey {
        volume: String,
        key: &'static str,
        what: &'static str,
    },
    #[error("volume {volume}: cannot read key {key} of its Secret: {source}")]
    Read {
        volume: String,
        key: &'static str,
        source: io::Error,
    },
    #[error("volume {volume}: its {what} has more than {MAX_DATA_BYTES} bytes")]
    TooLarge { volume: String, what: &'static str },
    #[error("volume {volume}: its {what} is not base64: {source}")]
    Base64 {
        volume: String,
        what: &'static str,
        source: base64::DecodeError,
    },
    #[error("volume {volume}: its {what} is given more than once")]
    Ambiguous { volume: String, what: &'static str },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("volume {volume}: its Secret is not mounted as a directory at {}", source_path.display())]
    NotADirectory {
        volume: String,
        source_path: PathBuf,
    },
    #[error("volume {volume}: cannot make the seed: {source}")]
    Make { volume: String, source: io::Error },
}

/// One of the two data that a seed carries.
struct Datum<'a> {
    what: &'static str,
    /// Names of the file in the Secret, the first being the one to name in errors. KubeVirt takes
    /// both spellings.
    keys: [&'static str; 2],
    inline: Option<&'a str>,
    base64: Option<&'a str>,
    from_secret: bool,
}

/// Makes the seed of `volume`: a read-only image in memory.
pub fn make(
    volume: &str,
    source: &CloudInitSource,
    identification: &Identification<'_>,
    mounts: &PodMounts,
    identity: &Identity,
) -> Result<File, SeedError> {
    let read = |datum: Datum<'_>| datum.read(volume, mounts, identity);
    let user_data = read(Datum {
        what: "user data",
        keys: [SEED_USER_DATA_FILE, "userData"],
        inline: source.user_data.as_deref(),
        base64: source.user_data_base64.as_deref(),
        from_secret: source.secret_ref.is_some(),
    })?;
    let network_data = read(Datum {
        what: "network data",
        keys: [SEED_NETWORK_DATA_FILE, "networkData"],
        inline: source.network_data.as_deref(),
        base64: source.network_data_base64.as_deref(),
        from_secret: source.network_data_secret_ref.is_some(),
    })?;
    let meta_data = serde_json::json!({
        "instance-id": identification.instance_id,
        "local-hostname": identification.hostname,
    });
    // cloud-init takes a directory for a seed only if both of the first two are there.
    let mut files = vec![
        ("user-data", user_data.unwrap_or_default()),
        ("meta-data", meta_data.to_string().into_bytes()),
    ];
    files.extend(network_data.map(|data| ("network-config", data)));
    image::make(&files).map_err(|source| SeedError::Make {
        volume: volume.to_owned(),
        source,
    })
}

impl Datum<'_> {
    fn read(
        self,
        volume: &str,
        mounts: &PodMounts,
        identity: &Identity,
    ) -> Result<Option<Vec<u8>>, SeedError> {
        let what = self.what;
        let volume_name = || volume.to_owned();
        let data = match (self.inline, self.base64, self.from_secret) {
            (None, None, false) => return Ok(None),
            (Some(text), None, false) => text.as_bytes().to_vec(),
            (None, Some(text), false) => STANDARD
                .decode(text.split_whitespace().collect::<String>())
                .map_err(|source| SeedError::Base64 {
                    volume: volume_name(),
                    what,
                    source,
                })?,
            (None, None, true) => self.read_secret(volume, mounts, identity)?,
            _ => {
                return Err(SeedError::Ambiguous {
                    volume: volume_name(),
                    what,
                });
            }
        };
        if data.len() as u64 > MAX_DATA_BYTES {
            return Err(SeedError::TooLarge {
                volume: volume_name(),
                what,
            });
        }
        Ok(Some(data))
    }

    fn read_secret(
        &self,
        volume: &str,
        mounts: &PodMounts,
        identity: &Identity,
    ) -> Result<Vec<u8>, SeedError> {
        let key = self.keys[0];
        let fail = |source| SeedError::Read {
            volume: volume.to_owned(),
            key,
            source,
        };
        let source_path = match mounts.volume(volume)? {
            Volume::Mount { source, .. } => source,
            Volume::Device { .. } => {
                let (volume, source_path) = (volume.to_owned(), volume.into());
                return Err(SeedError::NotADirectory {
                    volume,
                    source_path,
                });
            }
        };
        let directory = Directory::open(source_path).map_err(fail)?;
        let read = || {
            self.keys
                .iter()
                .map(|key| read_bounded(&directory, key))
                .collect()
        };
        let found: Vec<_> = identity.run(read).map_err(fail)?;
        for result in found {
            match result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result.map_err(fail),
            }
        }
        Err(SeedError::NoKey {
            volume: volume.to_owned(),
            key,
            what: self.what,
        })
    }
}

fn read_bounded(directory: &Directory, name: &str) -> io::Result<Vec<u8>> {
    // Kubelet's files are links to links, all inside.
    let file = directory.read(Path::new(name), Links::Followed)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut data = Vec::new();
    file.take(MAX_DATA_BYTES + 1).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    const ROOT: Identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    fn seed(source: serde_json::Value, secret: &Path) -> Result<File, SeedError> {
        let mut spec = spec();
        spec["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/volumes/seed", "type": "bind", "source": secret, "options": ["ro"]
        }));
        let mounts = PodMounts::of(&bundle(spec)).unwrap();
        let source = serde_json::from_value(source).unwrap();
        let identification = Identification {
            instance_id: "a.default",
            hostname: "a",
        };
        make("seed", &source, &identification, &mounts, &ROOT)
    }

    /// The files of a seed, as a FAT reader sees them.
    fn files(seed: File) -> Vec<(String, String)> {
        let fs = fatfs::FileSystem::new(seed, fatfs::FsOptions::new()).unwrap();
        assert_eq!(fs.volume_label(), "CIDATA");
        let root = fs.root_dir();
        root.iter()
            .map(|entry| {
                let entry = entry.unwrap();
                let mut text = String::new();
                entry.to_file().read_to_string(&mut text).unwrap();
                (entry.file_name(), text)
            })
            .collect()
    }

    #[test]
    fn data_come_inline_in_base64_or_from_a_secret() {
        // A Secret's mount as kubelet makes it.
        let secret = tempfile::tempdir().unwrap();
        let at = |name: &str| secret.path().join(name);
        std::fs::create_dir(at("..2026")).unwrap();
        std::fs::write(at("..2026/userdata"), "#cloud-config\n").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/userdata", at("userdata")).unwrap();
        let source = json!({"secretRef": {"name": "s"}, "networkDataBase64": "dmVyc2lvbjogMg=="});
        let files = files(seed(source, secret.path()).unwrap());
        let meta = r#"{"instance-id":"a.default","local-hostname":"a"}"#;
        let expected = [
            ("user-data", "#cloud-config\n"),
            ("meta-data", meta),
            ("network-config", "version: 2"),
        ];
        assert_eq!(
            files,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn nothing_given_is_an_empty_seed() {
        let files = files(seed(json!({"userData": ""}), Path::new("/")).unwrap());
        assert_eq!(files.len(), 2);
        assert_eq!(files[0], ("user-data".to_owned(), String::new()));
    }

    #[test]
    fn mistakes_are_named() {
        let secret = tempfile::tempdir().unwrap();
        let error = |source| seed(source, secret.path()).unwrap_err().to_string();
        let secret_ref = json!({"secretRef": {"name": "s"}});
        assert!(error(secret_ref.clone()).contains("no key userdata"));
        assert!(error(json!({"userDataBase64": "%"})).contains("not base64"));
        let both = json!({"userData": "a", "userDataBase64": "YQ=="});
        assert!(error(both).contains("more than once"));
        let large = "x".repeat((1 << 20) + 1);
        assert!(error(json!({"networkData": large})).contains("more than"));
        // A Secret is kubelet's, but a volume of another kind may hold anything.
        symlink("/etc/passwd", secret.path().join("userdata")).unwrap();
        assert!(error(secret_ref).contains("cannot read key userdata"));
    }

    #[test]
    fn large_data_fit() {
        let data = "x".repeat(1 << 20);
        let source = json!({"userData": data, "networkData": data});
        let files = files(seed(source, Path::new("/")).unwrap());
        assert_eq!(files[0].1.len(), 1 << 20);
        assert_eq!(files[2].1.len(), 1 << 20);
    }
}
