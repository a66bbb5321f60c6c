//! The pod's sandbox: what the holder of its namespaces has to be, and which pods are refused.
//!
//! A machine never shares a namespace with the node: its network would be rerouted, its processes
//! seen and ended.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::user_namespace::UserNamespace;

/// What the pod's sandbox is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod's network namespace, which the runtime made.
    pub network_namespace: PathBuf,
    /// The pod's host name.
    pub hostname: Option<String>,
    /// Settings of the kernel, `net.ipv4.ip_forward` and the like, to be applied in the pod's
    /// namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Control group of the sandbox, in either driver's form.
    pub cgroups_path: Option<PathBuf>,
    /// Wish for `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// The pod's own user namespace (`hostUsers: false`).
    pub user_namespace: Option<UserNamespace>,
}

/// Why a pod cannot hold a machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// `hostNetwork`.
    #[error(
        "a machine's pod needs a network of its own, which the machine takes over: \
         remove hostNetwork from the pod"
    )]
    HostNetwork,
    /// `hostPID`.
    #[error("a machine's pod cannot share the node's processes: remove hostPID from the pod")]
    HostPid,
    /// `hostIPC`.
    #[error("a machine's pod cannot share the node's IPC: remove hostIPC from the pod")]
    HostIpc,
}

impl Sandbox {
    /// The sandbox that `bundle`, a sandbox's, describes.
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, SandboxError> {
        let linux = bundle.linux();
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let network_namespace = network_namespace(namespaces)?;
        if is_nodes(namespaces, Type::Pid, "/proc/self/ns/pid") {
            return Err(SandboxError::HostPid);
        }
        if is_nodes(namespaces, Type::Ipc, "/proc/self/ns/ipc") {
            return Err(SandboxError::HostIpc);
        }
        let hostname = bundle
            .spec()
            .hostname()
            .clone()
            .filter(|name| !name.is_empty());
        let sysctls = linux
            .sysctl()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        Ok(Self {
            network_namespace,
            hostname,
            sysctls,
            cgroups_path: linux.cgroups_path().clone(),
            oom_score_adj: bundle.process().oom_score_adj(),
            user_namespace: UserNamespace::of(linux),
        })
    }
}

fn network_namespace(namespaces: &[LinuxNamespace]) -> Result<PathBuf, SandboxError> {
    let path = find(namespaces, Type::Network).and_then(|namespace| namespace.path().clone());
    match path {
        Some(path) if !path.as_os_str().is_empty() && !same(&path, "/proc/self/ns/net") => Ok(path),
        _ => Err(SandboxError::HostNetwork),
    }
}

/// Whether the namespace of this type is missing or the one that the file `own` shows.
fn is_nodes(namespaces: &[LinuxNamespace], typ: Type, own: &str) -> bool {
    match find(namespaces, typ) {
        None => true,
        Some(namespace) => namespace
            .path()
            .as_ref()
            .is_some_and(|path| same(path, own)),
    }
}

fn find(namespaces: &[LinuxNamespace], typ: Type) -> Option<&LinuxNamespace> {
    namespaces.iter().find(|namespace| namespace.typ() == typ)
}

fn same(path: &Path, own: &str) -> bool {
    match (path.metadata(), Path::new(own).metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn sandbox(namespaces: Value) -> Result<Sandbox, SandboxError> {
        let mut spec = spec();
        spec["annotations"]["io.kubernetes.cri.container-type"] = "sandbox".into();
        spec["hostname"] = "pod-a".into();
        spec["linux"]["namespaces"] = namespaces;
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
        Sandbox::from_bundle(&bundle(spec))
    }

    #[test]
    fn namespaces_of_the_pods_own() {
        let net = json!({"type": "network", "path": "/var/run/netns/cni-1"});
        let sandbox = sandbox(json!([{"type": "pid"}, {"type": "ipc"}, net])).unwrap();
        assert_eq!(sandbox.network_namespace, Path::new("/var/run/netns/cni-1"));
        assert_eq!(sandbox.hostname.as_deref(), Some("pod-a"));
        assert_eq!(sandbox.sysctls.len(), 1);
    }

    #[test]
    fn the_nodes_namespaces_are_refused() {
        let (pid, ipc) = (json!({"type": "pid"}), json!({"type": "ipc"}));
        let net = json!({"type": "network", "path": "/var/run/netns/cni-1"});
        let own = json!({"type": "network", "path": "/proc/self/ns/net"});
        for (namespaces, expected) in [
            (json!([pid, ipc]), SandboxError::HostNetwork),
            (
                json!([pid, ipc, {"type": "network"}]),
                SandboxError::HostNetwork,
            ),
            (
                json!([pid, ipc, {"type": "network", "path": ""}]),
                SandboxError::HostNetwork,
            ),
            (json!([pid, ipc, own]), SandboxError::HostNetwork),
            (json!([ipc, net]), SandboxError::HostPid),
            (
                json!([{"type": "pid", "path": "/proc/self/ns/pid"}, ipc, net]),
                SandboxError::HostPid,
            ),
            (json!([pid, net]), SandboxError::HostIpc),
        ] {
            assert_eq!(sandbox(namespaces).unwrap_err(), expected);
        }
    }
}
