//! The pods that are measured.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{NAMESPACE, NODE};
use crate::cluster::{ClusterName, apply, kubectl};
use crate::command;
use crate::progress;

/// Memory that each asks for, beside what the RuntimeClass adds.
const REQUEST_MIB: u64 = 16;

const MIB: u64 = 1024 * 1024;

/// What kind of pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A machine that prints a line and halts.
    Machine,
    /// A machine with Linux, the guest agent and a second disk.
    Tiny,
    /// A container of the node's default runtime that prints a line and sleeps.
    Container,
}

impl Kind {
    /// What it prints once it runs.
    pub(super) const fn ready(self) -> &'static str {
        match self {
            Self::Machine => "boot-sector guest ready",
            Self::Tiny => "tiny guest ready",
            Self::Container => "container ready",
        }
    }

    fn container(self) -> Value {
        let (image, command, memory) = match self {
            Self::Machine => (
                "kubevirt.local/guest/boot-sector:raw",
                json!(["vm"]),
                "32Mi",
            ),
            Self::Tiny => ("kubevirt.local/guest/tiny:qcow2", json!(["vm"]), "128Mi"),
            // Like the guest, it does not end by a polite signal.
            Self::Container => (
                "kubevirt.local/bench/busybox:1",
                json!(["sh", "-c", "trap '' TERM; echo container ready; sleep 3600"]),
                "32Mi",
            ),
        };
        json!({
            "name": "main",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            // A hundred of them fit on a small node.
            "resources": { "requests": { "cpu": "1m", "memory": format!("{REQUEST_MIB}Mi") }, "limits": { "cpu": "1", "memory": memory } },
        })
    }

    /// The pod `name` of this kind.
    pub(super) fn pod(self, name: &str) -> Value {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "bench" },
            "spec": {
                "nodeName": NODE.name(),
                "terminationGracePeriodSeconds": 1,
                "containers": [self.container()],
            },
        });
        if self != Self::Container {
            pod["spec"]["runtimeClassName"] = "kubevirt".into();
        }
        if self == Self::Tiny {
            let spec = json!({
                "domain": { "devices": { "disks": [{ "name": "scratch", "disk": { "bus": "virtio" } }] } },
                "volumes": [{ "name": "scratch", "emptyDisk": { "capacity": "64Mi" } }],
            });
            pod["metadata"]["annotations"] = json!({ "kubevirt.io/vmi-spec": spec.to_string() });
            // No quota holds it up where QEMU alone has none, and it has as much weight beside the node's
            // own processes.
            let resources = &mut pod["spec"]["containers"][0]["resources"];
            resources["limits"]["cpu"] = "2".into();
            resources["requests"]["cpu"] = "1".into();
        }
        pod
    }
}

/// An error if the node has not the memory for so many machines: kubelet would reject the last of them.
fn ensure_room(cluster: &ClusterName, number: usize) -> Result<()> {
    let bytes = |of: &str, path: &str| -> Result<u64> {
        let mut get = kubectl(cluster);
        let get = get.args(["get", of, "--output", &format!("jsonpath={{{path}}}")]);
        let text = command::output(get)?;
        Ok(vm_api::Quantity::from(text.trim()).bytes()?)
    };
    let node = bytes(
        &format!("node/{}", NODE.name()),
        ".status.allocatable.memory",
    )?;
    let overhead = bytes("runtimeclass/kubevirt", ".overhead.podFixed.memory")?;
    let each = overhead + REQUEST_MIB * MIB;
    let most = usize::try_from(node / each)?;
    ensure!(
        number <= most,
        "{number} machines at once need {} MiB of the node's {}: ask for fewer than {most} by --many",
        number as u64 * each / MIB,
        node / MIB
    );
    Ok(())
}

/// Pods that run.
pub(super) struct Pods<'a> {
    cluster: &'a ClusterName,
    pub(super) kind: Kind,
    pub(super) names: Vec<String>,
}

impl<'a> Pods<'a> {
    /// Asks for so many, and waits until each has printed its line.
    pub(super) fn run(cluster: &'a ClusterName, kind: Kind, number: usize) -> Result<Self> {
        if kind != Kind::Container {
            ensure_room(cluster, number)?;
        }
        let names: Vec<_> = (0..number)
            .map(|index| format!("{kind:?}-{index}").to_lowercase())
            .collect();
        let items: Vec<_> = names.iter().map(|name| kind.pod(name)).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        apply(cluster, &list.to_string())?;
        let pods = Self {
            cluster,
            kind,
            names,
        };
        pods.wait()?;
        Ok(pods)
    }

    fn wait(&self) -> Result<()> {
        // One process that is told, while all of them start: whoever asks takes their processors.
        let patience = format!("--timeout={}s", super::many::PATIENCE.as_secs());
        let mut ready = kubectl(self.cluster);
        ready.args(["wait", "pod", NAMESPACE, "--for=condition=Ready", &patience]);
        command::run(ready.args(&self.names))?;
        for name in &self.names {
            let ready = progress::wait(super::many::PATIENCE, || {
                let mut logs = kubectl(self.cluster);
                let logs = command::output(logs.args(["logs", name, NAMESPACE]));
                logs.is_ok_and(|text| text.contains(self.kind.ready()))
            });
            if !ready {
                bail!("{name} did not start");
            }
        }
        Ok(())
    }

    /// Each one's UID.
    pub(super) fn uids(&self) -> Result<Vec<String>> {
        let path = "jsonpath={.metadata.uid}";
        let get = |name: &String| {
            let mut get = kubectl(self.cluster);
            command::output(get.args(["get", "pod", name, NAMESPACE, "--output", path]))
        };
        self.names.iter().map(get).collect()
    }

    /// Deletes them and waits until they are gone.
    pub(super) fn delete(self) -> Result<()> {
        let mut delete = kubectl(self.cluster);
        command::run(delete.args(["delete", "pod", NAMESPACE]).args(&self.names))
    }
}
