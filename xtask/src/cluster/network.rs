//! The cluster's network: a namespace for each place, joined by a bridge in the control plane's.
//! No interface of it ever exists in the host's own namespace; addresses need not be free there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::names::{CONTROL_PLANE, CONTROL_PLANE6, ClusterName, NODE_PREFIXES, Node, Place};
use crate::command::{run, words};

/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

/// Makes the namespaces and joins them, unless they are there already.
pub(crate) fn ensure(cluster: &ClusterName) -> Result<()> {
    // Written last: without it, an earlier attempt broke off.
    let complete = cluster.dir().join("network.complete");
    if complete.exists() && Place::ALL.iter().all(|p| cluster.netns_path(*p).exists()) {
        return Ok(());
    }
    remove(cluster)?;
    if !Path::new(NETNS).exists() {
        fs::write(made_netns_dir(), "").context("note that /run/netns is new")?;
    }
    for place in Place::ALL {
        let netns = cluster.netns(place);
        run(&mut words(&format!("ip netns add {netns}")))?;
        run(&mut words(&format!("ip -n {netns} link set lo up")))?;
        run(&mut words(&format!(
            "ip netns exec {netns} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        )))?;
    }
    let control = cluster.netns(Place::ControlPlane);
    for arguments in [
        "link add br0 type bridge".to_owned(),
        format!("addr add {CONTROL_PLANE}/{} dev br0", NODE_PREFIXES.v4),
        // Nobody else can have it: without the check, it is of use at once.
        format!(
            "addr add {CONTROL_PLANE6}/{} dev br0 nodad",
            NODE_PREFIXES.v6
        ),
        "link set br0 up".to_owned(),
    ] {
        run(&mut words(&format!("ip -n {control} {arguments}")))?;
    }
    for node in Node::ALL {
        connect(cluster, node)?;
    }
    for node in Node::ALL {
        route_to_pods(cluster, node)?;
    }
    fs::write(&complete, "").with_context(|| format!("write {}", complete.display()))
}

/// Plugs a node into the bridge by a veth pair: `eth0` in the node, the node's name at the bridge.
fn connect(cluster: &ClusterName, node: Node) -> Result<()> {
    let control = cluster.netns(Place::ControlPlane);
    let netns = cluster.netns(Place::Node(node));
    let (name, addresses) = (node.name(), node.addresses());
    for line in [
        format!("ip -n {control} link add {name} type veth peer name eth0 netns {netns}"),
        format!("ip -n {control} link set {name} master br0 up"),
        format!(
            "ip -n {netns} addr add {}/{} dev eth0",
            addresses.v4, NODE_PREFIXES.v4
        ),
        format!(
            "ip -n {netns} addr add {}/{} dev eth0 nodad",
            addresses.v6, NODE_PREFIXES.v6
        ),
        format!("ip -n {netns} link set eth0 up"),
        // kubelet finds no address of its own on a node without a default route.
        format!("ip -n {netns} route add default via {CONTROL_PLANE}"),
        format!("ip -n {netns} route add default via {CONTROL_PLANE6}"),
    ] {
        run(&mut words(&line))?;
    }
    Ok(())
}

/// Everybody but the node itself reaches its pods through it.
fn route_to_pods(cluster: &ClusterName, node: Node) -> Result<()> {
    for place in Place::ALL {
        if place == Place::Node(node) {
            continue;
        }
        let ways = node
            .pod_subnets()
            .both()
            .into_iter()
            .zip(node.addresses().both());
        for (subnet, node) in ways {
            let netns = cluster.netns(place);
            run(&mut words(&format!(
                "ip -n {netns} route add {subnet} via {node}"
            )))?;
        }
    }
    Ok(())
}

/// Removes the namespaces, and with them every interface, route and rule.
pub(crate) fn remove(cluster: &ClusterName) -> Result<()> {
    for place in Place::ALL {
        if cluster.netns_path(place).exists() {
            run(&mut words(&format!(
                "ip netns del {}",
                cluster.netns(place)
            )))?;
        }
    }
    Ok(())
}

/// Tells that `ip netns add` made its directory, and a mount on it, for one of our clusters.
fn made_netns_dir() -> PathBuf {
    ClusterName::base().join("netns-dir.made")
}

/// Takes back the directory and its mount if they were made for us and nobody uses them by now.
pub(crate) fn remove_netns_dir() -> Result<()> {
    let (dir, made) = (Path::new(NETNS), made_netns_dir());
    if !made.exists() {
        return Ok(());
    }
    let empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    let mounted = || -> Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounts
            .lines()
            .any(|line| line.split(' ').nth(4) == Some(NETNS)))
    };
    while empty() && mounted()? {
        run(&mut words(&format!("umount {NETNS}")))?;
    }
    if empty() {
        fs::remove_dir(dir).with_context(|| format!("remove {NETNS}"))?;
    }
    fs::remove_file(made).context("forget that /run/netns is ours")
}
