//! The machines of the rounds, and what there is to know of them.

use anyhow::Result;
use serde_json::{Value, json};

use super::NAMESPACE;
use super::plan::{Plan, Workload};
use crate::cluster::{self, ClusterName, Node, apply, kubectl};
use crate::command;

/// What the boot sector prints once it runs.
const READY: &str = "boot-sector guest ready";
const IMAGE: &str = "kubevirt.local/guest/boot-sector:raw";

/// Prints pid and start time of each QEMU of the pod with the UID `$1`, the number of the pod's processes,
/// and that of QEMUs that have the disk of the node's claim open for writing.
const LOOK: &str = r#"
disk=$(stat -c %d:%i /var/lib/kubevirt-faults/disk.img 2>/dev/null)
writers=0
for pid in $(pidof qemu-system-x86_64); do
  grep -q "$1" /proc/$pid/cgroup 2>/dev/null &&
    echo "machine $pid-$(sed 's/.*) //' /proc/$pid/stat | cut -d' ' -f20)"
  for fd in /proc/$pid/fd/*; do
    [ "$(stat -Lc %d:%i $fd 2>/dev/null)" = "$disk" ] || continue
    grep -qE '^flags:.*[12]$' /proc/$pid/fdinfo/${fd##*/} 2>/dev/null && writers=$((writers + 1)) && break
  done
done
echo writers $writers
echo processes $(grep -l "$1" /proc/[0-9]*/cgroup 2>/dev/null | wc -l)
"#;

/// A pod of the rounds.
pub(super) struct Machine<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) node: Node,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) workload: Workload,
}

/// What a node shows of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// The QEMUs that it is.
    pub(super) qemus: Vec<String>,
    /// The processes of its pod, all of them.
    pub(super) processes: usize,
    /// QEMUs that write to the node's disk.
    pub(super) writers: usize,
}

impl<'a> Machine<'a> {
    /// Asks for the machine of a round.
    pub(super) fn of_round(cluster: &'a ClusterName, plan: &Plan) -> Result<Self> {
        let name = format!("round-{}", plan.number);
        Self::apply(cluster, plan.node, name, plan.workload)
    }

    /// Asks for the machine that looks on.
    pub(super) fn neighbour(cluster: &'a ClusterName, node: Node) -> Result<Self> {
        let name = format!("neighbour-{}", node.name());
        Self::apply(cluster, node, name, Workload::Plain)
    }

    /// Asks for the machine `name`.
    pub(super) fn apply(
        cluster: &'a ClusterName,
        node: Node,
        name: String,
        workload: Workload,
    ) -> Result<Self> {
        apply(cluster, &manifest(&name, node, workload).to_string())?;
        let path = "jsonpath={.metadata.uid}";
        let mut get = kubectl(cluster);
        get.args(["get", "pod", &name, NAMESPACE, "--output", path]);
        let uid = command::output(&mut get)?;
        Ok(Self {
            cluster,
            node,
            name,
            uid,
            workload,
        })
    }

    /// Asks for its end.
    pub(super) fn delete(&self) -> Result<()> {
        let mut delete = kubectl(self.cluster);
        delete.args(["delete", "pod", &self.name, NAMESPACE, "--wait=false"]);
        command::run(&mut delete)
    }

    /// The pod, unless it is gone.
    pub(super) fn pod(&self) -> Result<Option<Value>> {
        let mut get = kubectl(self.cluster);
        get.args(["get", "pod", &self.name, NAMESPACE]);
        let text = command::output(get.args(["--ignore-not-found", "--output=json"]))?;
        Ok(match text.trim() {
            "" => None,
            text => Some(serde_json::from_str(text)?),
        })
    }

    /// Whether its pod is ready and its guest has said so itself since it booted last.
    pub(super) fn is_ready(&self) -> Result<bool> {
        let pod = self.pod()?.unwrap_or_default();
        if pod["status"]["containerStatuses"][0]["ready"] != true {
            return Ok(false);
        }
        let mut logs = kubectl(self.cluster);
        let logs = logs.args(["logs", &self.name, NAMESPACE, "--tail=5"]);
        // Kubelet may be one of those that were killed.
        Ok(command::output(logs).is_ok_and(|log| log.contains(READY)))
    }

    /// What its node shows of it.
    pub(super) fn look(&self) -> Result<Sight> {
        let mut node = cluster::on_node(self.cluster, self.node)?;
        let text = command::output(node.args(["sh", "-c", LOOK, "sh", &self.uid]))?;
        let mut sight = Sight::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("machine", qemu)) => sight.qemus.push(qemu.to_owned()),
                Some(("processes", number)) => sight.processes = number.parse()?,
                Some(("writers", number)) => sight.writers = number.parse()?,
                _ => {}
            }
        }
        Ok(sight)
    }
}

/// The volume and the claim of a node's disk, which all its rounds share.
pub(super) fn claim(node: Node) -> Value {
    let name = node.name();
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": { "name": format!("faults-{name}") },
                "spec": {
                    "capacity": { "storage": "16Mi" },
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "faults",
                    "local": { "path": DIRECTORY },
                    "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                        { "key": "kubernetes.io/hostname", "operator": "In", "values": [name] },
                    ] }] } },
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": { "name": name, "namespace": "faults" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "faults",
                    "volumeName": format!("faults-{name}"),
                    "resources": { "requests": { "storage": "16Mi" } },
                },
            },
        ],
    })
}

/// Where a node's disk lies.
pub(super) const DIRECTORY: &str = "/var/lib/kubevirt-faults";

fn manifest(name: &str, node: Node, workload: Workload) -> Value {
    let mut annotations = json!({});
    let (mut volumes, mut mounts) = (json!([]), json!([]));
    match workload {
        Workload::Plain => {}
        Workload::Disk => {
            let spec = json!({
                "domain": { "devices": { "disks": [
                    { "name": "root", "disk": { "bus": "virtio" } },
                    { "name": "data", "disk": { "bus": "virtio" } },
                ] } },
                "volumes": [
                    { "name": "root", "containerDisk": { "image": IMAGE } },
                    { "name": "data", "persistentVolumeClaim": { "claimName": node.name() } },
                ],
            });
            annotations = json!({
                "kubevirt.io/vmi-spec": spec.to_string(),
                "kubevirt.io/volume-sizes": json!({ "data": "16Mi" }).to_string(),
            });
            volumes = json!([
                { "name": "data", "persistentVolumeClaim": { "claimName": node.name() } },
            ]);
            mounts = json!([{ "name": "data", "mountPath": "/volumes/data" }]);
        }
        Workload::Directory => {
            let spec = json!({ "domain": { "devices": { "filesystems": [
                { "name": "shared", "virtiofs": {} },
            ] } } });
            annotations = json!({ "kubevirt.io/vmi-spec": spec.to_string() });
            volumes = json!([{ "name": "shared", "emptyDir": {} }]);
            mounts = json!([{ "name": "shared", "mountPath": "/volumes/shared" }]);
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "faults", "annotations": annotations },
        "spec": {
            "runtimeClassName": "kubevirt",
            "nodeName": node.name(),
            "terminationGracePeriodSeconds": 1,
            // A node that was without power is not ready for a while.
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{
                "name": "machine",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["vm"],
                "resources": {
                    "requests": { "cpu": "10m" },
                    "limits": { "cpu": "1", "memory": "32Mi" },
                },
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}
