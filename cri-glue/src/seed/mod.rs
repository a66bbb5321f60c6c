//! The seed: what cloud-init in the guest reads at its first start, by its source NoCloud or
//! ConfigDrive.
//!
//! User and network data come inline or from a Secret that the pod mounts; the seed is a tree of files,
//! of which a small disk is made that only ever exists in memory.

mod config_drive;

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::OFlags;
use vm_api::contract::{SEED_NETWORK_DATA_FILE, SEED_USER_DATA_FILE};
use vm_api::field::FieldError;
use vm_api::machine::{Datum, DiskBus, cloud_init};
use vm_api::v1::CloudInitSource;

use crate::beneath::{Directory, Links};
use crate::identity::Identity;
use crate::iso::Tree;
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
    /// The firmware's UUID.
    pub uuid: String,
    /// The disks that have a tag.
    pub tagged: Vec<TaggedDisk<'a>>,
    /// Public keys by which its first user can be entered by SSH.
    pub keys: &'a [String],
}

/// A disk that the guest finds by its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedDisk<'a> {
    /// Its tag.
    pub tag: &'a str,
    /// The bus that it is on.
    pub bus: DiskBus,
    /// Its serial number.
    pub serial: &'a str,
}

/// Where cloud-init looks for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By its source NoCloud.
    NoCloud,
    /// By its source ConfigDrive, as OpenStack has it.
    ConfigDrive,
}

impl Form {
    /// The label by which cloud-init finds such a seed.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCloud => "cidata",
            Self::ConfigDrive => "config-2",
        }
    }
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
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("volume {volume}: a block device is no Secret")]
    NotASecret { volume: String },
}

/// The files of the seed of `volume`.
pub(crate) fn make(
    volume: &str,
    source: &CloudInitSource,
    form: Form,
    identification: &Identification<'_>,
    mounts: &PodMounts,
    identity: &Identity,
) -> Result<Tree, SeedError> {
    let path = format!("volume {volume}");
    let (user_data, network_data) = cloud_init(source, &path)?;
    let seed = Seed {
        volume,
        mounts,
        identity,
    };
    let user_data = seed.read(user_data, &USER_DATA)?;
    let network_data = seed.read(network_data, &NETWORK_DATA)?;
    let mut tree = Tree::default();
    match form {
        Form::NoCloud => no_cloud(&mut tree, user_data, network_data, identification),
        Form::ConfigDrive => config_drive::add(&mut tree, user_data, network_data, identification),
    }
    Ok(tree)
}

fn no_cloud(
    tree: &mut Tree,
    user_data: Option<Vec<u8>>,
    network_data: Option<Vec<u8>>,
    identification: &Identification<'_>,
) {
    let mut meta_data = serde_json::json!({
        "instance-id": identification.instance_id,
        "local-hostname": identification.hostname,
    });
    if !identification.keys.is_empty() {
        meta_data["public-keys"] = identification.keys.into();
    }
    // cloud-init takes a directory for a seed only if both of the first two are there.
    tree.add("user-data", user_data.unwrap_or_default());
    tree.add("meta-data", meta_data.to_string().into_bytes());
    if let Some(data) = network_data {
        tree.add("network-config", data);
    }
}

/// One of the two data that a seed carries.
struct Kind {
    what: &'static str,
    /// Names of the file in the Secret, the first being the one to name in errors. KubeVirt takes
    /// both spellings.
    keys: [&'static str; 2],
}

const USER_DATA: Kind = Kind {
    what: "user data",
    keys: [SEED_USER_DATA_FILE, "userData"],
};
const NETWORK_DATA: Kind = Kind {
    what: "network data",
    keys: [SEED_NETWORK_DATA_FILE, "networkData"],
};

/// Where a seed's data come from.
struct Seed<'a> {
    volume: &'a str,
    mounts: &'a PodMounts,
    identity: &'a Identity,
}

impl Seed<'_> {
    fn read(&self, datum: Option<Datum<'_>>, kind: &Kind) -> Result<Option<Vec<u8>>, SeedError> {
        let data = match datum {
            None => return Ok(None),
            Some(Datum::Inline(data)) => data.into_owned(),
            Some(Datum::Secret(_)) => self.read_secret(kind)?,
        };
        if data.len() as u64 > MAX_DATA_BYTES {
            let (volume, what) = (self.volume.to_owned(), kind.what);
            return Err(SeedError::TooLarge { volume, what });
        }
        Ok(Some(data))
    }

    /// The datum in the mount of the volume, whichever Secrets the pod made it of.
    fn read_secret(&self, kind: &Kind) -> Result<Vec<u8>, SeedError> {
        let key = kind.keys[0];
        let volume = || self.volume.to_owned();
        let fail = |source| SeedError::Read {
            volume: volume(),
            key,
            source,
        };
        let Volume::Mount { source, .. } = self.mounts.volume(self.volume)? else {
            return Err(SeedError::NotASecret { volume: volume() });
        };
        let directory = Directory::open(source).map_err(fail)?;
        let read = || kind.keys.map(|key| read_bounded(&directory, key));
        for result in self.identity.run(read).map_err(fail)? {
            match result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result.map_err(fail),
            }
        }
        Err(SeedError::NoKey {
            volume: volume(),
            key,
            what: kind.what,
        })
    }
}

fn read_bounded(directory: &Directory, name: &str) -> io::Result<Vec<u8>> {
    // Kubelet's files are links to links, all inside.
    let file = directory.file(Path::new(name), OFlags::RDONLY, Links::Followed)?;
    let mut data = Vec::new();
    file.take(MAX_DATA_BYTES + 1).read_to_end(&mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use rustix::thread::CapabilitySet;
    use serde_json::json;

    use super::*;
    use crate::bundle::tests::{bundle, spec};
    use crate::iso;

    const ROOT: Identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        capabilities: CapabilitySet::empty(),
    };

    fn make_seed(source: serde_json::Value, form: Form, secret: &Path) -> Result<Tree, SeedError> {
        let mut spec = spec();
        spec["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/volumes/seed", "type": "bind", "source": secret, "options": ["ro"]
        }));
        let mounts = PodMounts::of(&bundle(spec)).unwrap();
        let source = serde_json::from_value(source).unwrap();
        make("seed", &source, form, &identification(), &mounts, &ROOT)
    }

    fn identification() -> Identification<'static> {
        Identification {
            instance_id: "a.default",
            hostname: "a",
            uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".into(),
            tagged: vec![TaggedDisk {
                tag: "fast",
                bus: DiskBus::Scsi,
                serial: "S1",
            }],
            keys: &[],
        }
    }

    fn seed(source: serde_json::Value, secret: &Path) -> Result<Tree, SeedError> {
        make_seed(source, Form::NoCloud, secret)
    }

    /// The files of a seed, as the reader of its disk sees them.
    fn files(seed: &Tree) -> BTreeMap<String, String> {
        let (label, files) = iso::tests::read(&iso::image(seed, "cidata"));
        assert_eq!(label, "cidata");
        let text = |content| String::from_utf8(content).unwrap();
        let files = files.into_iter();
        files.map(|(path, content)| (path, text(content))).collect()
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
        let files = files(&seed(source, secret.path()).unwrap());
        let meta = r#"{"instance-id":"a.default","local-hostname":"a"}"#;
        let expected = [
            ("/user-data", "#cloud-config\n"),
            ("/meta-data", meta),
            ("/network-config", "version: 2"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(files, BTreeMap::from(expected));
    }

    #[test]
    fn a_config_drive_is_as_openstack_has_it() {
        let source = json!({"userData": "#cloud-config\n", "networkData": "{}"});
        let files = files(&make_seed(source, Form::ConfigDrive, Path::new("/")).unwrap());
        assert_eq!(files["/openstack/latest/user_data"], "#cloud-config\n");
        assert_eq!(files["/openstack/latest/network_data.json"], "{}");
        let meta = &files["/openstack/latest/meta_data.json"];
        let meta: serde_json::Value = serde_json::from_str(meta).unwrap();
        let expected = json!({
            "uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223",
            "instance_id": "a.default", "hostname": "a", "local_hostname": "a",
            "devices": [{ "type": "disk", "bus": "scsi", "serial": "S1", "tags": ["fast"] }],
        });
        assert_eq!(meta, expected);
        let source = json!({"networkData": "{}"});
        let files = self::files(&make_seed(source, Form::ConfigDrive, Path::new("/")).unwrap());
        assert!(!files.contains_key("/openstack/latest/user_data"));
    }

    #[test]
    fn user_data_are_always_there() {
        let source = json!({"networkData": "version: 2"});
        let files = files(&seed(source, Path::new("/")).unwrap());
        assert_eq!(files["/user-data"], "");
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn keys_are_in_the_meta_data() {
        let keys = ["ssh-rsa A me".to_owned(), "ssh-rsa B".to_owned()];
        let meta = |form, file: &str| {
            let source = serde_json::from_value(json!({"userData": "x"})).unwrap();
            let identification = Identification {
                keys: &keys,
                ..identification()
            };
            let mounts = PodMounts::of(&bundle(spec())).unwrap();
            let seed = make("seed", &source, form, &identification, &mounts, &ROOT).unwrap();
            serde_json::from_str::<serde_json::Value>(&files(&seed)[file]).unwrap()
        };
        let no_cloud = meta(Form::NoCloud, "/meta-data");
        assert_eq!(no_cloud["public-keys"], json!(keys));
        let config_drive = meta(Form::ConfigDrive, "/openstack/latest/meta_data.json");
        let expected = json!({"key-0": keys[0], "key-1": keys[1]});
        assert_eq!(config_drive["public_keys"], expected);
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
        let files = files(&seed(source, Path::new("/")).unwrap());
        assert_eq!(files["/user-data"].len(), 1 << 20);
        assert_eq!(files["/network-config"].len(), 1 << 20);
    }
}
