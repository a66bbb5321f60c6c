//! The mounts and devices that the pod gives its machine, sorted by what they are for.
//!
//! A mount is the runtime's own, or it is at `/volumes/<name>` and the machine's spec refers to
//! that volume. Everything else is refused by name, since the guest would never see it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use vm_api::contract::{ACCESS_CREDENTIALS_DIRECTORY, STATE_DIRECTORY, VOLUMES_DIRECTORY};
use vm_api::machine::MachineCredential;

use crate::bundle::Bundle;
use crate::host_devices::is_vfio;
use crate::user_namespace::UserNamespace;

/// Where kubelet mounts the file for the termination message unless the pod says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Kubelet's annotation with another place for the termination message.
const TERMINATION_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";

/// Bind mounts that runtime and kubelet give every container. A guest has its own, or gets what is
/// in them by DHCP; the service account's token is not passed on unless a volume asks for it.
const RUNTIMES_OWN: [&str; 6] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/shm",
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "/run/secrets/kubernetes.io/serviceaccount",
];

/// What the pod gives its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodMounts {
    volumes: BTreeMap<String, Volume>,
    credentials: BTreeMap<String, Volume>,
    state: Option<Volume>,
    resolv_conf: Option<PathBuf>,
    termination_log: Option<PathBuf>,
}

/// A volume of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// A directory or file of the node.
    Mount {
        /// Where it is on the node.
        source: PathBuf,
        /// The pod mounts it read-only.
        read_only: bool,
        /// All options of the mount, as mount(8) writes them.
        options: Vec<String>,
        /// How the pod's user namespace sees the owners of what is in it.
        ids: Option<UserNamespace>,
    },
    /// A block device of the node.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// The pod may only read it.
        read_only: bool,
    },
}

/// Why a mount or device is not the machine's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum MountError {
    #[error(
        "mount {}: a machine takes its volumes at {VOLUMES_DIRECTORY}/<name of the volume in its \
         spec>; move the mount there or remove it", .0.display()
    )]
    Elsewhere(PathBuf),
    #[error(
        "mount {VOLUMES_DIRECTORY}/{0}: the machine's spec has no volume {0} that is made of a \
         mount; add the volume or remove the mount"
    )]
    NotReferred(String),
    #[error(
        "mount {STATE_DIRECTORY}: the machine keeps nothing there; set efi.persistent or \
         tpm.persistent in its spec, or remove the mount"
    )]
    NothingToKeep,
    #[error(
        "mount {ACCESS_CREDENTIALS_DIRECTORY}/{0}: the machine's spec has no access credentials of a \
         Secret {0}; add them to accessCredentials or remove the mount"
    )]
    CredentialNotReferred(String),
    #[error(
        "mount {}: the pod has a user namespace of its own, and the node's container runtime does \
         not map the owners of the mount's files to it; remove hostUsers: false from the pod",
        .0.display()
    )]
    NotMapped(PathBuf),
    #[error(
        "device {}: a machine takes block devices at {VOLUMES_DIRECTORY}/<name of the volume in \
         its spec>, and no others; remove the device, or privileged, from the container",
        .0.display()
    )]
    Device(PathBuf),
    #[error(
        "volume {0:?} is not in the pod: mount it, or list its device, at {VOLUMES_DIRECTORY}/{0} \
         of the machine container"
    )]
    Missing(String),
}

impl PodMounts {
    /// Sorts the mounts and devices of `bundle`.
    pub fn of(bundle: &Bundle) -> Result<Self, MountError> {
        let mut sorted = Self::default();
        let termination_log = termination_path(bundle);
        let in_user_namespace = UserNamespace::of(bundle.linux()).is_some();
        for mount in bundle.mounts().iter().filter(|mount| is_bind(mount)) {
            let destination = mount.destination();
            let ids = ids(mount);
            let source = mount.source().clone().unwrap_or_default();
            let is_resolv_conf = destination == Path::new("/etc/resolv.conf");
            if !is_resolv_conf && RUNTIMES_OWN.iter().any(|own| destination == Path::new(own))
                || is_of_image(&source, bundle.id())
            {
                continue;
            }
            // Its files would be opened as if their owners were the pod's users.
            if in_user_namespace && ids.is_none() {
                return Err(MountError::NotMapped(destination.clone()));
            }
            if is_resolv_conf {
                sorted.resolv_conf = Some(source);
            } else if destination == Path::new(termination_log) {
                // What the container may only read is nowhere to write to.
                sorted.termination_log = Some(source).filter(|_| !is_read_only(mount));
            } else {
                let volume = Volume::Mount {
                    source,
                    read_only: is_read_only(mount),
                    options: mount.options().clone().unwrap_or_default(),
                    ids,
                };
                if destination == Path::new(STATE_DIRECTORY) {
                    sorted.state = Some(volume);
                    continue;
                }
                if let Some(name) = name_in(ACCESS_CREDENTIALS_DIRECTORY, destination) {
                    sorted.credentials.insert(name, volume);
                    continue;
                }
                let name = name_in(VOLUMES_DIRECTORY, destination)
                    .ok_or_else(|| MountError::Elsewhere(destination.clone()))?;
                sorted.volumes.insert(name, volume);
            }
        }
        let devices = bundle.linux().devices().iter().flatten();
        for device in devices.filter(|device| !is_vfio(device)) {
            let (name, volume) = block_volume(device, bundle)
                .ok_or_else(|| MountError::Device(device.path().clone()))?;
            sorted.volumes.insert(name, volume);
        }
        Ok(sorted)
    }

    /// The volume `name`.
    pub fn volume(&self, name: &str) -> Result<&Volume, MountError> {
        self.volumes
            .get(name)
            .ok_or_else(|| MountError::Missing(name.to_owned()))
    }

    /// Refuses volumes of the pod that are not among those `referred` to.
    pub fn check_referred<'a>(
        &self,
        referred: impl Iterator<Item = &'a str>,
    ) -> Result<(), MountError> {
        let referred: Vec<_> = referred.collect();
        match self
            .volumes
            .keys()
            .find(|name| !referred.contains(&name.as_str()))
        {
            Some(name) => Err(MountError::NotReferred(name.clone())),
            None => Ok(()),
        }
    }

    /// The Secret `name` with access credentials.
    pub fn credential(&self, name: &str) -> Option<&Volume> {
        self.credentials.get(name)
    }

    /// Refuses Secrets with access credentials that are not among those `referred` to.
    pub fn check_credentials(&self, referred: &[MachineCredential<'_>]) -> Result<(), MountError> {
        let is_referred = |name: &String| referred.iter().any(|it| it.secret == name);
        match self.credentials.keys().find(|name| !is_referred(name)) {
            Some(name) => Err(MountError::CredentialNotReferred(name.clone())),
            None => Ok(()),
        }
    }

    /// The claim for what the machine keeps beside its disks.
    pub fn state(&self) -> Option<&Volume> {
        self.state.as_ref()
    }

    /// Refuses such a claim where the machine `keeps` nothing.
    pub fn check_state(&self, keeps: bool) -> Result<(), MountError> {
        if self.state.is_some() && !keeps {
            return Err(MountError::NothingToKeep);
        }
        Ok(())
    }

    /// The pod's resolver settings, as a file of the node.
    pub fn resolv_conf(&self) -> Option<&Path> {
        self.resolv_conf.as_deref()
    }

    /// The file of the node that kubelet reads the termination message from, if the container may
    /// write there.
    pub fn termination_log(&self) -> Option<&Path> {
        self.termination_log.as_deref()
    }
}

/// What the pod mounts into the container of `bundle` beside what every container gets.
pub(crate) fn of_pod(bundle: &Bundle) -> impl Iterator<Item = &Mount> {
    let of_runtime = |mount: &Mount| {
        let destination = mount.destination();
        let own = RUNTIMES_OWN.iter().any(|own| destination == Path::new(own));
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        own || destination == Path::new(termination_path(bundle))
            || is_of_image(source, bundle.id())
    };
    let mounts = bundle.mounts().iter().filter(|mount| is_bind(mount));
    mounts.filter(move |mount| !of_runtime(mount))
}

/// Where kubelet mounts the file for the termination message.
fn termination_path(bundle: &Bundle) -> &str {
    let path = bundle.annotation(TERMINATION_PATH_ANNOTATION);
    path.unwrap_or(TERMINATION_LOG)
}

/// Kubelet and the CRI plugin bind everything that is a pod's; other types (`proc`, `tmpfs`, …)
/// are the runtime's.
fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || has_option(mount, "bind")
        || has_option(mount, "rbind")
}

fn has_option(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|one| one == option)
}

fn is_read_only(mount: &Mount) -> bool {
    has_option(mount, "ro") || has_option(mount, "rro")
}

/// How a user namespace sees the owners of what is mounted.
fn ids(mount: &Mount) -> Option<UserNamespace> {
    Some(UserNamespace {
        uids: mount.uid_mappings().clone()?,
        gids: mount.gid_mappings().clone()?,
    })
}

/// Whether `source` is a volume that the image declares: the CRI plugin makes an empty directory
/// `…/containers/<id>/volumes/<random>` for it.
fn is_of_image(source: &Path, id: &str) -> bool {
    let mut above = source.ancestors().skip(1).map(|path| path.file_name());
    above.next().flatten() == Some(OsStr::new("volumes"))
        && above.next().flatten() == Some(OsStr::new(id))
}

/// The name of what is mounted directly in `directory`.
fn name_in(directory: &str, destination: &Path) -> Option<String> {
    let mut parts = destination.strip_prefix(directory).ok()?.components();
    let Component::Normal(name) = parts.next()? else {
        return None;
    };
    let name = name.to_str()?;
    parts.next().is_none().then(|| name.to_owned())
}

fn block_volume(device: &LinuxDevice, bundle: &Bundle) -> Option<(String, Volume)> {
    let name = name_in(VOLUMES_DIRECTORY, device.path())?;
    let (major, minor) = (device.major(), device.minor());
    if device.typ() != LinuxDeviceType::B {
        return None;
    }
    let resources = bundle.linux().resources().as_ref();
    let rules = resources
        .and_then(|all| all.devices().as_deref())
        .unwrap_or_default();
    let writable = rules.iter().any(|rule| {
        rule.allow()
            && rule.major() == Some(major)
            && rule.minor() == Some(minor)
            && rule
                .access()
                .as_deref()
                .is_none_or(|access| access.contains('w'))
    });
    let (major, minor) = (major.try_into().ok()?, minor.try_into().ok()?);
    Some((
        name,
        Volume::Device {
            major,
            minor,
            read_only: !writable,
        },
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn with_mounts(mounts: &[(&str, &str, &str)]) -> Value {
        let mut spec = spec();
        for (destination, source, access) in mounts {
            spec["mounts"].as_array_mut().unwrap().push(json!({
                "destination": destination, "type": "bind", "source": source,
                "options": ["rbind", "rprivate", access]
            }));
        }
        spec
    }

    #[test]
    fn mounts_are_sorted() {
        let spec = with_mounts(&[
            ("/etc/hosts", "/pods/x/etc-hosts", "rw"),
            ("/etc/resolv.conf", "/sandboxes/s1/resolv.conf", "rw"),
            ("/dev/termination-log", "/pods/x/containers/vm/0a", "rw"),
            ("/dev/shm", "/sandboxes/s1/shm", "rw"),
            (
                "/var/run/secrets/kubernetes.io/serviceaccount",
                "/pods/x/token",
                "ro",
            ),
            ("/data", "/var/lib/cri/containers/c1/volumes/8a", "rw"),
            ("/volumes/seed", "/pods/x/secret", "ro"),
        ]);
        let mounts = PodMounts::of(&bundle(spec)).unwrap();
        assert_eq!(
            mounts.resolv_conf().unwrap(),
            Path::new("/sandboxes/s1/resolv.conf")
        );
        assert_eq!(
            mounts.termination_log().unwrap(),
            Path::new("/pods/x/containers/vm/0a")
        );
        let source = "/pods/x/secret".into();
        assert_eq!(
            mounts.volume("seed").unwrap(),
            &Volume::Mount {
                source,
                read_only: true,
                options: ["rbind", "rprivate", "ro"].map(str::to_owned).into(),
                ids: None,
            }
        );
        mounts.check_referred(["seed", "root"].into_iter()).unwrap();
        let error = mounts
            .check_referred(["root"].into_iter())
            .unwrap_err()
            .to_string();
        assert!(error.contains("/volumes/seed"), "{error}");
        assert!(
            mounts
                .volume("root")
                .unwrap_err()
                .to_string()
                .contains("/volumes/root")
        );
    }

    #[test]
    fn a_claim_for_state_is_the_machines_own() {
        let spec = with_mounts(&[("/state", "/pods/x/claim", "rw")]);
        let mounts = PodMounts::of(&bundle(spec)).unwrap();
        assert!(matches!(
            mounts.state(),
            Some(Volume::Mount {
                read_only: false,
                ..
            })
        ));
        mounts.check_state(true).unwrap();
        assert_eq!(mounts.check_state(false), Err(MountError::NothingToKeep));
        let without = PodMounts::of(&bundle(with_mounts(&[]))).unwrap();
        without.check_state(false).unwrap();
    }

    #[test]
    fn mounts_elsewhere_are_refused() {
        for place in [
            "/data",
            "/volumes",
            "/volumes/a/b",
            "/volumes/..",
            "/etc/hostsx",
        ] {
            let error = PodMounts::of(&bundle(with_mounts(&[(place, "/x", "rw")]))).unwrap_err();
            assert_eq!(error, MountError::Elsewhere(place.into()));
        }
    }

    #[test]
    fn another_place_for_the_termination_message() {
        let mut spec = with_mounts(&[("/tmp/message", "/pods/x/containers/vm/0a", "rw")]);
        spec["annotations"][TERMINATION_PATH_ANNOTATION] = "/tmp/message".into();
        assert!(
            PodMounts::of(&bundle(spec))
                .unwrap()
                .termination_log()
                .is_some()
        );
    }

    #[test]
    fn block_devices_are_volumes() {
        let mut spec = spec();
        spec["linux"]["devices"] = json!([
            {"path": "/volumes/a", "type": "b", "major": 7, "minor": 1},
            {"path": "/volumes/b", "type": "b", "major": 7, "minor": 2}
        ]);
        spec["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 7, "minor": 1, "access": "mrw"},
            {"allow": true, "type": "b", "major": 7, "minor": 2, "access": "r"}
        ]);
        let mounts = PodMounts::of(&bundle(spec.clone())).unwrap();
        let device = |minor, read_only| Volume::Device {
            major: 7,
            minor,
            read_only,
        };
        assert_eq!(mounts.volume("a").unwrap(), &device(1, false));
        assert_eq!(mounts.volume("b").unwrap(), &device(2, true));
        for (path, kind) in [("/dev/sda", "b"), ("/volumes/a", "c")] {
            spec["linux"]["devices"] =
                json!([{"path": path, "type": kind, "major": 7, "minor": 1}]);
            assert_eq!(
                PodMounts::of(&bundle(spec.clone())),
                Err(MountError::Device(path.into()))
            );
        }
    }
}
