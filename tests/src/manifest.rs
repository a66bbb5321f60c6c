//! The manifests of the cases: as a user would write them, with what varies changed by its path.

use std::fmt;

use serde_json::{Value, json};

use crate::Node;

/// References of the images that the suite loads onto the nodes.
pub mod image {
    /// Linux with busybox and the guest agent; says [`TINY_READY`].
    pub const TINY: &str = "kubevirt.local/guest/tiny:qcow2";
    /// What the tiny guest prints on its console once it is up.
    pub const TINY_READY: &str = "tiny guest ready";
    /// A boot sector that prints and halts.
    pub const BOOT_SECTOR: &str = "kubevirt.local/guest/boot-sector:raw";
    /// A boot sector that prints much and powers off.
    pub const POWER_OFF: &str = "kubevirt.local/guest/power-off:raw";
    /// Debian with systemd, cloud-init, sshd and the guest agent.
    pub const DEBIAN: &str = "kubevirt.local/guest/debian:qcow2";
    /// busybox, for ordinary containers.
    pub const BUSYBOX: &str = "kubevirt.local/bench/busybox:1";
}

/// One Kubernetes object.
#[derive(Clone)]
pub struct Manifest(Value);

impl Manifest {
    /// From its JSON.
    pub fn new(object: Value) -> Self {
        Self(object)
    }

    /// A plain pod whose container `machine` boots `image`, on `node`.
    pub fn machine_pod(name: &str, image: &str, node: Node) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "runtimeClassName": "kubevirt",
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [{
                    "name": "machine",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["vm"],
                    // The bench's nodes have two processors each, and share them.
                    "resources": {
                        "requests": { "cpu": "50m" },
                        "limits": { "cpu": "1", "memory": "128Mi" },
                    },
                }],
            },
        }))
    }

    /// The pod with this readiness probe of its first container, which begins once the tiny guest is
    /// up: kubelet tells of 25 failures or so and then falls silent for minutes.
    pub fn with_readiness(self, probe: Value) -> Self {
        let up = json!({ "httpGet": { "port": 80 }, "periodSeconds": 4, "failureThreshold": 60 });
        self.with("/spec/containers/0/startupProbe", up)
            .with("/spec/containers/0/readinessProbe", probe)
    }

    /// A pod of the default runtime whose container `main` runs a shell script, on `node`.
    pub fn shell_pod(name: &str, script: &str, node: Node) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [Self::shell_container("main", script)],
            },
        }))
    }

    /// An ordinary container that runs a shell script.
    pub fn shell_container(name: &str, script: &str) -> Value {
        json!({
            "name": name,
            "image": image::BUSYBOX,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
        })
    }

    /// A VirtualMachine that runs `image` on `node` with a masqueraded network.
    pub fn virtual_machine(name: &str, image: &str, node: Node) -> Self {
        Self(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": { "name": name },
            "spec": {
                "runStrategy": "Always",
                "template": {
                    "metadata": { "labels": { "app": name } },
                    "spec": {
                        "nodeSelector": { "kubernetes.io/hostname": node.name() },
                        "terminationGracePeriodSeconds": 10,
                        "domain": {
                            "memory": { "guest": "128Mi" },
                            "devices": {
                                "disks": [{ "name": "root", "disk": { "bus": "virtio" } }],
                                "interfaces": [{ "name": "default", "masquerade": {} }],
                            },
                        },
                        "networks": [{ "name": "default", "pod": {} }],
                        "volumes": [{ "name": "root", "containerDisk": {
                            "image": image, "imagePullPolicy": "IfNotPresent",
                        } }],
                    },
                },
            },
        }))
    }

    /// The object with the value at `pointer` (RFC 6901) set; what leads there must exist, but its
    /// last member need not. `-` appends to a list.
    ///
    /// # Panics
    /// If nothing leads there: the case is wrong.
    #[track_caller]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, member) = pointer.rsplit_once('/').expect("a pointer begins with /");
        let member = member.replace("~1", "/").replace("~0", "~");
        match self.0.pointer_mut(parent) {
            Some(Value::Object(object)) => {
                object.insert(member, value);
            }
            Some(Value::Array(list)) if member == "-" => list.push(value),
            Some(Value::Array(list)) => list[member.parse::<usize>().expect("an index")] = value,
            other => panic!("nothing to set at {pointer}: {other:?}"),
        }
        self
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
