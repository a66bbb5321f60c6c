//! kubelet's flags and configuration on a machine that shares its kernel with its neighbours.

use serde_json::{Value, json};

use super::containerd;
use super::names::{DNS_SERVICE, Node};

/// The authority whose clients kubelet admits.
pub(crate) const CLIENT_CA: &str = "/etc/kubernetes/ca.crt";
/// kubelet's serving certificate.
pub(crate) const SERVING_CERT: &str = "/etc/kubernetes/kubelet.crt";
/// Its key.
pub(crate) const SERVING_KEY: &str = "/etc/kubernetes/kubelet.key";

/// Command line of the node's kubelet.
pub(crate) fn flags(node: Node) -> Vec<String> {
    vec![
        "--config=/etc/kubernetes/kubelet.json".to_owned(),
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig".to_owned(),
        format!("--hostname-override={}", node.name()),
        format!("--node-ip={}", node.addresses()),
    ]
}

/// The KubeletConfiguration; `cgroup` is the node's own group, which holds all its pods.
pub(crate) fn config(cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": CLIENT_CA },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": SERVING_CERT,
        "tlsPrivateKeyFile": SERVING_KEY,
        "failSwapOn": false,
        // cAdvisor does not find the root file system's device on every machine; kubelet would not
        // start.
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        // Lower scores need CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        // Images are loaded once and cannot be pulled again: never collect them, and do not evict
        // because the host's disk is full of other things.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
    })
}
