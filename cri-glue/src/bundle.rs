//! The OCI bundle that containerd prepared for one container: its `config.json`, parsed once.
//!
//! What the CRI plugin tells about pod and container stands in annotations of the spec; a bundle
//! without them is not a pod's and is refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Mount, Process, Spec};
use rustix::thread::CapabilitySet;
use serde::Deserialize;
use vm_api::contract;

use crate::identity::Identity;
use crate::network::{Port, Protocol};
use crate::user_namespace::UserNamespace;

/// The most bytes that a `config.json` may have: annotations have at most 256 KiB in a pod, and
/// seccomp profiles some tens of KiB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Annotations of containerd's CRI plugin.
mod cri {
    pub(super) const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    pub(super) const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    pub(super) const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    pub(super) const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    pub(super) const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    pub(super) const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
}

/// A container as containerd wants it.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
    id: String,
    kind: ContainerKind,
    pod: Pod,
    container_name: Option<String>,
    spec: Spec,
    process: Process,
    linux: Linux,
}

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// The sandbox, which holds the pod's namespaces.
    Sandbox,
    /// Any other container.
    Container,
}

/// The pod that a container belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Id of the sandbox's container.
    pub sandbox_id: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID; older runtimes do not tell it.
    pub uid: Option<String>,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum BundleError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {MAX_CONFIG_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{} is not an OCI runtime spec: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} has no {missing}", path.display())]
    Incomplete {
        path: PathBuf,
        missing: &'static str,
    },
    #[error(
        "the container has no annotation {0}: this runtime only runs pods that the CRI plugin made"
    )]
    NotOfPod(&'static str),
    #[error("annotation {key} is {value:?}: only sandbox and container are known")]
    ContainerType { key: &'static str, value: String },
    #[error(
        "annotation {} is not a list of container ports: {source}",
        contract::CONTAINER_PORTS_ANNOTATION
    )]
    Ports { source: serde_json::Error },
}

impl Bundle {
    /// Reads the bundle in the directory `dir`, whose name is the container's id.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join("config.json");
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text))
            .map_err(|source| BundleError::Read {
                path: path.clone(),
                source,
            })?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(BundleError::TooLarge(path));
        }
        let spec =
            serde_json::from_slice(&text).map_err(|source| BundleError::Parse { path, source })?;
        Self::new(dir, spec)
    }

    /// The bundle in `dir` with this spec.
    pub fn new(dir: &Path, spec: Spec) -> Result<Self, BundleError> {
        let path = dir.join("config.json");
        let incomplete = |missing| BundleError::Incomplete {
            path: path.clone(),
            missing,
        };
        let id = dir
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let process = spec
            .process()
            .clone()
            .ok_or_else(|| incomplete("process"))?;
        let linux = spec
            .linux()
            .clone()
            .ok_or_else(|| incomplete("linux section"))?;
        let annotation = |key| {
            let annotations = spec.annotations().as_ref();
            annotations
                .and_then(|all| all.get(key))
                .ok_or(BundleError::NotOfPod(key))
                .cloned()
        };
        let kind = match annotation(cri::CONTAINER_TYPE)?.as_str() {
            "sandbox" => ContainerKind::Sandbox,
            "container" => ContainerKind::Container,
            value => {
                let (key, value) = (cri::CONTAINER_TYPE, value.to_owned());
                return Err(BundleError::ContainerType { key, value });
            }
        };
        let container_name = match kind {
            ContainerKind::Sandbox => None,
            ContainerKind::Container => Some(annotation(cri::CONTAINER_NAME)?),
        };
        let pod = Pod {
            sandbox_id: annotation(cri::SANDBOX_ID)?,
            name: annotation(cri::SANDBOX_NAME)?,
            namespace: annotation(cri::SANDBOX_NAMESPACE)?,
            uid: annotation(cri::SANDBOX_UID).ok(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            id,
            kind,
            pod,
            container_name,
            spec,
            process,
            linux,
        })
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the container is in its pod.
    pub fn kind(&self) -> ContainerKind {
        self.kind
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The container's name in the pod; the sandbox has none.
    pub fn container_name(&self) -> Option<&str> {
        self.container_name.as_deref()
    }

    /// Whether the container has a terminal (`tty: true`).
    pub fn terminal(&self) -> bool {
        self.process.terminal().unwrap_or(false)
    }

    /// Who the pod's security context makes the container. In a user namespace of the pod's, root's
    /// capabilities are none over the node's files.
    pub fn identity(&self) -> Identity {
        let mut identity = Identity::of(&self.process);
        if UserNamespace::of(&self.linux).is_some() {
            identity.capabilities = CapabilitySet::empty();
        }
        identity
    }

    /// An annotation of pod or container.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations()?.get(key).map(String::as_str)
    }

    /// All annotations.
    pub fn annotations(&self) -> Option<&HashMap<String, String>> {
        self.spec.annotations().as_ref()
    }

    /// Mounts, in order.
    pub fn mounts(&self) -> &[Mount] {
        self.spec.mounts().as_deref().unwrap_or_default()
    }

    /// The process that the container would have been.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The container's control group, in either driver's form.
    pub fn cgroups_path(&self) -> Option<&Path> {
        self.linux.cgroups_path().as_deref()
    }

    /// The spec's section for Linux.
    pub fn linux(&self) -> &Linux {
        &self.linux
    }

    /// The whole spec.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The ports that the container declares, as far as the runtime passes kubelet's annotation
    /// on. An entry whose protocol or number means nothing to Linux cannot be listened on, and is
    /// left out.
    pub fn declared_ports(&self) -> Result<Vec<Port>, BundleError> {
        let Some(list) = self.annotation(contract::CONTAINER_PORTS_ANNOTATION) else {
            return Ok(Vec::new());
        };
        let list: Vec<ContainerPort> =
            serde_json::from_str(list).map_err(|source| BundleError::Ports { source })?;
        Ok(list.into_iter().filter_map(ContainerPort::port).collect())
    }
}

/// A `ContainerPort` of Kubernetes, as kubelet writes it into its annotation.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    container_port: u16,
    protocol: Option<String>,
}

impl ContainerPort {
    fn port(self) -> Option<Port> {
        let protocol = self
            .protocol
            .as_deref()
            .unwrap_or("TCP")
            .parse::<Protocol>()
            .ok()?;
        Some(Port {
            protocol,
            number: NonZeroU16::new(self.container_port)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use qemu_driver::machine::Accelerator;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::NodeConfig;
    use crate::host_devices::HostDevices;
    use crate::images::{ImageContainers, ImageRoots};
    use crate::machine::{self, Names};
    use crate::mounts::PodMounts;
    use crate::wish;

    /// A machine container's spec as containerd 1.6 writes it, in short.
    pub(crate) fn spec() -> Value {
        json!({
            "ociVersion": "1.0.2-dev",
            "process": {
                "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
                "args": ["vm"], "cwd": "/", "env": ["PATH=/bin"], "oomScoreAdj": 985,
                "noNewPrivileges": false, "apparmorProfile": "",
                "capabilities": {"bounding": ["CAP_CHOWN"]}
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "vm",
                "io.kubernetes.cri.sandbox-id": "s1",
                "io.kubernetes.cri.sandbox-name": "pod-a",
                "io.kubernetes.cri.sandbox-namespace": "default"
            },
            "linux": {
                "cgroupsPath": "/kubepods/burstable/podx/c1",
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}],
                    "memory": {"limit": 268435456},
                    "cpu": {"shares": 512, "quota": 150000, "period": 100000}
                },
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"},
                    {"type": "uts", "path": "/proc/1/ns/uts"}, {"type": "mount"},
                    {"type": "network", "path": "/var/run/netns/cni-1"}
                ]
            }
        })
    }

    /// The bundle of `spec` in a directory that need not exist.
    pub(crate) fn bundle(spec: Value) -> Bundle {
        let spec = serde_json::from_value(spec).unwrap();
        Bundle::new(Path::new("/run/bundles/c1"), spec).unwrap()
    }

    #[test]
    fn a_spec_is_read() {
        let bundle = bundle(spec());
        assert_eq!(bundle.id(), "c1");
        assert_eq!(bundle.kind(), ContainerKind::Container);
        assert_eq!(bundle.container_name(), Some("vm"));
        assert_eq!(bundle.pod().name, "pod-a");
        assert!(!bundle.terminal());
        assert_eq!(bundle.identity().groups, [0, 10]);
    }

    #[test]
    fn a_container_outside_of_pods_is_refused() {
        let mut spec = spec();
        spec.as_object_mut().unwrap().remove("annotations");
        let error = Bundle::new(Path::new("/b/c1"), serde_json::from_value(spec).unwrap());
        assert!(matches!(error, Err(BundleError::NotOfPod(_))));
    }

    #[test]
    fn a_huge_or_broken_config_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Bundle::read(dir.path()),
            Err(BundleError::Read { .. })
        ));
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(
            Bundle::read(dir.path()),
            Err(BundleError::Parse { .. })
        ));
        File::create(&path)
            .unwrap()
            .set_len(MAX_CONFIG_BYTES + 1)
            .unwrap();
        assert!(matches!(
            Bundle::read(dir.path()),
            Err(BundleError::TooLarge(_))
        ));
    }

    #[test]
    fn ports_come_from_kubelets_annotation() {
        let mut spec = spec();
        assert!(bundle(spec.clone()).declared_ports().unwrap().is_empty());
        spec["annotations"][contract::CONTAINER_PORTS_ANNOTATION] =
            r#"[{"name":"web","containerPort":8080,"protocol":"TCP"},{"containerPort":53,"protocol":"UDP"}]"#
                .into();
        let ports = bundle(spec.clone()).declared_ports().unwrap();
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[1].number.get(), 53);
        spec["annotations"][contract::CONTAINER_PORTS_ANNOTATION] = "x".into();
        assert!(bundle(spec).declared_ports().is_err());
    }

    /// All places in `value`, as JSON pointers.
    fn places(value: &Value, at: String, into: &mut Vec<String>) {
        let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    places(value, format!("{at}/{}", escaped(key)), into);
                }
            }
            Value::Array(list) => {
                for (index, value) in list.iter().enumerate() {
                    places(value, format!("{at}/{index}"), into);
                }
            }
            _ => {}
        }
        into.push(at);
    }

    /// A spec with volumes and devices too.
    fn full() -> Value {
        let mut spec = spec();
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for destination in ["/volumes/data", "/etc/resolv.conf", "/dev/termination-log"] {
            mounts.push(json!({
                "destination": destination, "type": "bind", "source": "/x", "options": ["rbind", "ro"],
            }));
        }
        spec["linux"]["devices"] = json!([
            {"path": "/volumes/block", "type": "b", "major": 8, "minor": 0},
            {"path": "/dev/vfio/12", "type": "c", "major": 240, "minor": 3},
        ]);
        spec["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4096}]);
        spec["linux"]["resources"]["cpu"]["cpus"] = "0-3".into();
        let annotations = &mut spec["annotations"];
        annotations[contract::CONTAINER_PORTS_ANNOTATION] =
            r#"[{"containerPort":80,"protocol":"TCP"}]"#.into();
        annotations[contract::VMI_SPEC_ANNOTATION] =
            r#"{"domain":{"memory":{"guest":"64Mi"}}}"#.into();
        annotations[contract::DOMAIN_ANNOTATION] = "vm".into();
        spec
    }

    fn hostile() -> impl Strategy<Value = Value> {
        const WORDS: &[&str] = &[
            "",
            "..",
            "/",
            "/volumes/..",
            "/volumes/../etc",
            "/volumes/a/b",
            "/volumes/.",
            "/volumes",
            "/volumes/a,b",
            "/dev/vfio/vfio",
            "/dev/vfio/noiommu-0",
            "sandbox",
            "container",
            "a\0b",
            "a\nb",
            "{",
            "[]",
            "[{\"containerPort\":0}]",
            "[{\"containerPort\":65536}]",
            "0-",
            "0-9999999999",
            "ä",
            "b",
            "c",
            "ro",
            "bind",
            "kubepods-pod.slice:cri-containerd:x",
            "::",
            "{\"hostname\":\"a\\nb\"}",
            "a=b",
        ];
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(json!({})),
            Just(json!([])),
            prop::sample::select(WORDS).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn a_bundle_with_something_else_in_it_is_used_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), hostile()), 1..4)
        ) {
            let mut spec = full();
            for (place, value) in changes {
                let mut all = Vec::new();
                places(&spec, String::new(), &mut all);
                *spec.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
            }
            let Ok(spec) = serde_json::from_value(spec) else {
                return Ok(());
            };
            let Ok(bundle) = Bundle::new(Path::new("/run/bundles/c1"), spec) else {
                return Ok(());
            };
            let kind = bundle.annotation("io.kubernetes.cri.container-type").unwrap();
            prop_assert_eq!(kind == "sandbox", bundle.kind() == ContainerKind::Sandbox);
            let _ = (bundle.identity(), ImageContainers::of(&bundle));
            for port in bundle.declared_ports().unwrap_or_default() {
                prop_assert!(port.number.get() > 0);
            }
            let mounts = PodMounts::of(&bundle);
            if let Ok(mounts) = &mounts {
                // A name is one part of a path that leads nowhere else.
                for name in ["", ".", "..", "../etc", "a/b", "/"] {
                    prop_assert!(mounts.volume(name).is_err(), "{}", name);
                }
            }
            let mounts = mounts.unwrap_or_default();
            if let Ok(wish) = wish::read(&bundle, &mounts, &ImageRoots::default(), true) {
                let names = Names::of(&bundle, &wish);
                let (node, tcg) = (NodeConfig::default(), Accelerator::Tcg);
                if let Ok(machine) = machine::build(&bundle, &wish, &names, &node, tcg) {
                    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                    prop_assert!(machine.name().as_str().chars().all(plain));
                    prop_assert!(names.hostname.chars().all(plain), "{:?}", names.hostname);
                }
                let _ = HostDevices::of(&wish, &bundle);
            }
        }

        #[test]
        fn no_bytes_of_a_config_make_it_panic(
            bytes: Vec<u8>, cut: prop::sample::Index, place: prop::sample::Index
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut text = full().to_string().into_bytes();
            let place = place.index(text.len());
            text.splice(place..place, bytes);
            text.truncate(cut.index(text.len()) + 1);
            std::fs::write(directory.path().join("config.json"), text).unwrap();
            if let Err(error) = Bundle::read(directory.path()) {
                prop_assert!(!error.to_string().contains(char::is_control), "{}", error);
            }
        }
    }

    #[test]
    fn depth_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        for begin in [
            "[",
            "{\"annotations\":",
            "{\"unknown\":",
            "{\"linux\":{\"x\":",
        ] {
            let deep = "[".repeat(100_000) + &"]".repeat(100_000);
            std::fs::write(
                directory.path().join("config.json"),
                begin.to_owned() + &deep,
            )
            .unwrap();
            assert!(Bundle::read(directory.path()).is_err());
        }
    }
}
