//! A worker node: what lies on it before it first starts, and its services. Afterwards its files
//! are its own; an installer changes them as it would on any node, and `up` leaves them alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::builds::Programs;
use super::control_plane::api_url;
use super::mounts::NodeRoot;
use super::names::{ClusterName, DNS_SERVICE, Node, POD_CIDRS, Place};
use super::pki::Pki;
use super::supervisor::{Endpoint, Service, Spec};
use super::{containerd, kubelet};

/// Writes the node's files if it is new, and says what its supervisor has to do.
pub(crate) fn spec(
    cluster: &ClusterName,
    node: Node,
    programs: &Programs,
    pki: &Pki,
) -> Result<Spec> {
    let place = Place::Node(node);
    let dir = cluster.place_dir(place);
    let root = root(cluster, node);
    // Written last: without it, an earlier attempt broke off.
    let complete = dir.join("complete");
    if !complete.exists() {
        provision(cluster, node, &root, programs, pki)
            .with_context(|| format!("provision {}", node.name()))?;
        fs::write(complete, "")?;
    }
    Ok(Spec {
        hostname: node.name().to_owned(),
        netns: cluster.netns_path(place),
        cgroup: cluster.cgroup(place),
        pid_file: dir.join("pid"),
        root: Some(root),
        logs: PathBuf::from("/var/log"),
        forward: None,
        services: vec![
            containerd_service(node),
            service(
                "kubelet",
                "/usr/local/bin/kubelet",
                Some(containerd::SOCKET),
                &kubelet::flags(node),
            ),
            service(
                "kube-proxy",
                "/usr/local/bin/kube-proxy",
                None,
                &["--config=/etc/kubernetes/kube-proxy.json".to_owned()],
            ),
        ],
    })
}

/// The node's own directories.
pub(crate) fn root(cluster: &ClusterName, node: Node) -> NodeRoot {
    NodeRoot::new(cluster.place_dir(Place::Node(node)).join("root"))
}

/// Where on the host the node's logs lie.
pub(crate) fn logs(cluster: &ClusterName, node: Node) -> PathBuf {
    root(cluster, node).on_host("/var/log")
}

fn service(name: &str, program: &str, needs: Option<&str>, flags: &[String]) -> Service {
    let argv = std::iter::once(program.to_owned()).chain(flags.iter().cloned());
    Service {
        name: name.to_owned(),
        argv: argv.collect(),
        needs: needs.map(|socket| Endpoint::Unix(socket.into())),
    }
}

fn containerd_service(node: Node) -> Service {
    service("containerd", containerd::program(node), None, &[])
}

fn provision(
    cluster: &ClusterName,
    node: Node,
    root: &NodeRoot,
    programs: &Programs,
    pki: &Pki,
) -> Result<()> {
    root.create()?;
    let write = |path: &str, content: &[u8]| write(&root.on_host(path), content);
    let name = node.name();
    let addresses = node.addresses();
    write("/etc/hostname", format!("{name}\n").as_bytes())?;
    write(
        "/etc/hosts",
        format!(
            "127.0.0.1 localhost\n::1 localhost\n{} {name}\n{} {name}\n",
            addresses.v4, addresses.v6
        )
        .as_bytes(),
    )?;
    write(
        "/etc/resolv.conf",
        format!("nameserver {DNS_SERVICE}\n").as_bytes(),
    )?;
    write(containerd::CONFIG, containerd::config(node).as_bytes())?;
    write(
        "/etc/cni/net.d/10-bench.conflist",
        cni(node).to_string().as_bytes(),
    )?;
    write(
        "/etc/cni/bench-ipv6.conflist",
        ipv6_cni(node).to_string().as_bytes(),
    )?;

    let kubernetes = "/etc/kubernetes";
    write(
        &format!("{kubernetes}/kubelet.json"),
        kubelet::config(&cluster.cgroup(Place::Node(node)))
            .to_string()
            .as_bytes(),
    )?;
    write(
        &format!("{kubernetes}/kubelet.kubeconfig"),
        pki.kubeconfig(name, &api_url())?.as_bytes(),
    )?;
    write(
        &format!("{kubernetes}/kube-proxy.kubeconfig"),
        pki.kubeconfig("proxy", &api_url())?.as_bytes(),
    )?;
    write(
        &format!("{kubernetes}/kube-proxy.json"),
        proxy(node).to_string().as_bytes(),
    )?;
    let serving = pki.pair(&format!("{name}-serving"));
    for (source, target) in [
        (&pki.ca().cert, kubelet::CLIENT_CA),
        (&serving.cert, kubelet::SERVING_CERT),
        (&serving.key, kubelet::SERVING_KEY),
    ] {
        copy(source, &root.on_host(target))?;
    }

    let mut own = vec![
        (&programs.kubernetes, "kubelet"),
        (&programs.kubernetes, "kube-proxy"),
    ];
    if containerd::is_newest(node) {
        own.extend(
            ["containerd", "containerd-shim-runc-v2", "ctr"].map(|p| (&programs.containerd, p)),
        );
        own.push((&programs.runc, "runc"));
    }
    for (source, program) in own {
        let target = root.on_host(&format!("/usr/local/bin/{program}"));
        copy(&source.join(program), &target)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// Copies, mode included. Never a hard link: a node may write to its file, and the cache must not
/// see it.
fn copy(source: &Path, target: &Path) -> Result<()> {
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(source, target)
        .with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    Ok(())
}

/// The pod network: a bridge on each node; pods of other nodes are reached by routes.
fn cni(node: Node) -> serde_json::Value {
    // A list of lists: each pod has an address of every one of them.
    let ranges = node
        .pod_subnets()
        .both()
        .map(|subnet| json!([{ "subnet": subnet }]));
    bridge("bench", json!(ranges))
}

/// The same network for pods that have IPv6 alone, with addresses that the others never come to; a
/// test puts it in the other's place for a while.
fn ipv6_cni(node: Node) -> serde_json::Value {
    let subnet = node.pod_subnets().v6;
    let first = subnet.trim_end_matches("/64");
    let range = json!({
        "subnet": subnet,
        "rangeStart": format!("{first}f000"),
        "rangeEnd": format!("{first}ffff"),
    });
    bridge("bench-ipv6", json!([[range]]))
}

fn bridge(network: &str, ranges: serde_json::Value) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": network,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipam": { "type": "host-local", "ranges": ranges },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn proxy(node: Node) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": POD_CIDRS.to_string(),
        "hostnameOverride": node.name(),
        "clientConnection": { "kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig" },
        // The connection table's size belongs to the whole machine.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "oomScoreAdj": 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_hands_out_addresses_of_its_own() {
        let ranges = |node| cni(node)["plugins"][0]["ipam"]["ranges"].clone();
        assert_eq!(
            ranges(Node::One),
            json!([
                [{ "subnet": "10.244.1.0/24" }],
                [{ "subnet": "fd00:10:244:1::/64" }],
            ])
        );
        assert_ne!(ranges(Node::One), ranges(Node::Two));
        let ipv6 = &ipv6_cni(Node::One)["plugins"][0]["ipam"]["ranges"];
        let range = json!({
            "subnet": "fd00:10:244:1::/64",
            "rangeStart": "fd00:10:244:1::f000", "rangeEnd": "fd00:10:244:1::ffff",
        });
        assert_eq!(ipv6, &json!([[range]]));
    }
}
