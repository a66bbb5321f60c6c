//! Claims of a test: a local volume on one node, bound to a claim in the test's namespace.

use serde_json::{Value, json};

use crate::{Manifest, Node, TestNamespace, kubectl, kubectl_input};

/// A local volume and the claim that holds it; gone with the value.
///
/// Declare it before the namespace that uses it ends, that is: after the namespace, so that it is
/// dropped first only when its pods are gone; the directory outlives neither.
pub struct LocalClaim {
    node: Node,
    volume: String,
    directory: String,
    device: Option<String>,
}

impl LocalClaim {
    /// A claim of volume mode Filesystem: an empty directory on `node`.
    #[track_caller]
    pub fn filesystem(namespace: &TestNamespace, name: &str, node: Node) -> Self {
        let this = Self::new(namespace, name, node, None);
        node.shell(&format!("mkdir -p -m 777 {}", this.directory))
            .expect_success();
        this.create(namespace, name, "Filesystem", &this.directory);
        this
    }

    /// A claim of volume mode Block: a loop device of 64 MiB on `node`.
    #[track_caller]
    pub fn block(namespace: &TestNamespace, name: &str, node: Node) -> Self {
        let mut this = Self::new(namespace, name, node, None);
        let script = format!(
            "mkdir -p {0} && truncate -s 64M {0}/disk && losetup -f --show {0}/disk",
            this.directory
        );
        let device = node.shell(&script).expect_success().trim().to_owned();
        this.device = Some(device.clone());
        this.create(namespace, name, "Block", &device);
        this
    }

    fn new(namespace: &TestNamespace, name: &str, node: Node, device: Option<String>) -> Self {
        let volume = format!("{}-{name}", namespace.name());
        let directory = format!("/var/lib/kubevirt-tests/{volume}");
        Self {
            node,
            volume,
            directory,
            device,
        }
    }

    #[track_caller]
    fn create(&self, namespace: &TestNamespace, name: &str, mode: &str, path: &str) {
        let volume = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": self.volume },
            "spec": {
                "capacity": { "storage": "64Mi" },
                "accessModes": ["ReadWriteOnce"],
                "volumeMode": mode,
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "test",
                "local": { "path": path },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.name()] },
                ] }] } },
            },
        });
        apply(&volume);
        namespace.apply(&Manifest::new(json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "volumeMode": mode,
                "storageClassName": "test",
                "volumeName": self.volume,
                "resources": { "requests": { "storage": "64Mi" } },
            },
        })));
        // A pod that comes before its claim is bound can wait for minutes in the scheduler's queue.
        namespace.wait_for("pvc", name, "/status/phase", "Bound");
    }

    /// The volume's directory on the node.
    pub fn directory(&self) -> &str {
        &self.directory
    }
}

#[track_caller]
fn apply(object: &Value) {
    let arguments = ["apply", "--server-side", "-f", "-"];
    kubectl_input(&arguments, object.to_string().as_bytes()).expect_success();
}

impl Drop for LocalClaim {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(|| {
            kubectl(&["delete", "pv", &self.volume, "--wait=false"]);
            let detach = self
                .device
                .as_ref()
                .map(|device| format!("losetup -d {device};"));
            self.node.shell(&format!(
                "{} rm -rf {}",
                detach.unwrap_or_default(),
                self.directory
            ));
        });
    }
}
