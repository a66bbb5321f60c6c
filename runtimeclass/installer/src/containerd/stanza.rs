//! The stanza that makes containerd know the runtime: what an administrator would write by hand.

use std::path::Path;

use toml_edit::{Array, Table, value};

/// Name of the runtime in containerd, in the RuntimeClass and in the node's label.
pub(crate) const HANDLER: &str = vm_api::contract::RUNTIME_CLASS;

/// Runtime type: containerd derives the shim's name from it, and the path says where it is.
const RUNTIME_TYPE: &str = "io.containerd.kubevirt.v1";

/// Kubelet's annotations of a container: its ports among them.
const KUBELET: &str = "io.kubernetes.container.*";

/// The key of the CRI plugin that lists runtimes, by the version of the configuration file.
///
/// # Errors
/// The version, if it is not one of a containerd from 1.6 on.
pub(crate) fn plugin(version: i64) -> Result<&'static str, i64> {
    match version {
        2 => Ok("io.containerd.grpc.v1.cri"),
        3 | 4 => Ok("io.containerd.cri.v1.runtime"),
        other => Err(other),
    }
}

/// Name and type of the runtime for ordinary containers, as containerd itself has them.
pub(crate) const ORDINARY: (&str, &str) = ("runc", "io.containerd.runc.v2");

/// The runtime's table for a containerd of that major version. It has no options: containerd, up to 2.4,
/// starts no container in a user namespace whose runtime has options of another kind than runc's.
pub(crate) fn runtime(major: u32, shim: &Path) -> Table {
    let ours = format!("{}/*", vm_api::contract::GROUP);
    let list = |patterns: &[&str]| value(Array::from_iter(patterns.iter().copied()));
    let mut table = Table::new();
    let shim = shim.to_string_lossy();
    if major < 2 {
        // 1.6 reads `runtime_path` and forgets it, but takes a path for the type.
        table["runtime_type"] = value(shim.as_ref());
    } else {
        table["runtime_type"] = value(RUNTIME_TYPE);
        table["runtime_path"] = value(shim.as_ref());
    }
    table["pod_annotations"] = list(&[&ours]);
    // Kubelet's own annotations say which ports the pod's other containers declare.
    table["container_annotations"] = list(&[&ours, KUBELET]);
    // A privileged sidecar must not turn the node's devices into the machine's.
    table["privileged_without_host_devices"] = value(true);
    table
}
