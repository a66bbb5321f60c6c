//! What a node holds: processes, mounts, links, nft tables, sockets, cgroups and state files. After
//! the suite it must be what it was before.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use crate::cluster::{self, ClusterName, Node, kubectl};
use crate::command;

/// How long containerd and kubelet may take to tidy up after the last pod.
const SETTLE: Duration = Duration::from_secs(90);

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);

/// Prints one line per thing, with what differs from run to run (pids, times) left out. `$0` is the
/// name of the node's cgroup.
const LIST: &str = r#"
for p in /proc/[0-9]*; do
  tr '\0' ' ' < $p/cmdline 2>/dev/null | cut -c1-200 | grep -E 'qemu|kubevirt-v1|containerd-shim|holder|virtiofsd|swtpm|runc ' | sed 's/^/process /'
done
awk '{print "mount", $5, $9}' /proc/self/mountinfo
ip -o link | awk -F': ' '{sub(/@.*/, "", $2); print "link", $2}'
ls /run/netns 2>/dev/null | sed 's/^/netns /'
nft list tables 2>/dev/null | sed 's/^/nft /'
ls /run/containerd/s /run/containerd/io.containerd.runtime.v2.task/* 2>/dev/null | sed 's/^/state /'
find /opt/kubevirt /etc/kubevirt 2>/dev/null | sed 's/^/file /'
find /etc/containerd -type f -exec md5sum {} + 2>/dev/null | sed 's/^/file /'
find /run/kubevirt ! -type d ! -name '*.lock' 2>/dev/null | sed 's/^/file /'
grep -oE '/[^ ]*(kubevirt|containerd)[^ ]*' /proc/net/unix | sed 's/^/socket /'
find /sys/fs/cgroup -type d -path "*/$0/*kubepods*" 2>/dev/null | sed 's/^/cgroup /'
"#;

/// The cgroups of kubelet's classes of pods, which kubelet makes when the first pod comes after a
/// start.
const CLASSES: [&str; 3] = ["/kubepods", "/besteffort", "/burstable"];

/// Runs an ordinary pod on every node and waits until it is gone: the first one leaves a bridge and
/// the tables of its node's ports.
pub(crate) fn warm_up(cluster: &ClusterName) -> Result<()> {
    for node in Node::ALL {
        let overrides = json!({ "spec": {
            "nodeName": node.name(),
            "containers": [{
                "name": "warm-up",
                "ports": [{ "containerPort": 1, "hostPort": 28_079 }],
            }],
        } });
        run_once(cluster, &overrides.to_string())?;
    }
    Ok(())
}

/// Runs a pod with these overrides to its end, and waits until nothing of it is left but what the
/// first one leaves for all.
fn run_once(cluster: &ClusterName, overrides: &str) -> Result<()> {
    let before = of(cluster)?;
    let run = "run warm-up --image=kubevirt.local/bench/busybox:1 --restart=Never \
               --override-type=strategic --output=jsonpath={.metadata.uid}";
    let mut run = words(run, cluster);
    run.arg(format!("--overrides={overrides}"));
    let uid = command::output(run.args(["--", "true"]))?;
    let wait = "wait pod/warm-up --for=jsonpath={.status.phase}=Succeeded --timeout=120s";
    command::run(&mut words(wait, cluster))?;
    command::run(&mut words("delete pod warm-up", cluster))?;
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = of(cluster)?;
        let mut left = now.difference(&before);
        let Some(left) = left.find(|line| line.contains(&uid) || is_of_one_pod(line)) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!("the pod {uid} leaves something on its node: {left}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether a line is of a kind that no pod leaves behind. Containerd removes a sandbox's mounts some
/// time after kubelet has forgotten its pod.
fn is_of_one_pod(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    match (words.next(), words.next()) {
        (Some("process" | "mount" | "netns"), _) => true,
        // Not the name of a directory that is listed.
        (Some("state"), Some(name)) => !name.ends_with(':'),
        _ => false,
    }
}

/// `kubectl` with these words.
fn words(line: &str, cluster: &ClusterName) -> Command {
    let mut command = kubectl(cluster);
    command.args(line.split_whitespace());
    command
}

/// Everything on every node.
pub(crate) fn of(cluster: &ClusterName) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for node in Node::ALL {
        let lines = of_node(cluster, node)?;
        let name = node.name();
        all.extend(lines.into_iter().map(|line| format!("{name} {line}")));
    }
    Ok(all)
}

/// Everything on one node but what kubelet keeps for itself, things of one name as often as they are
/// there.
pub(crate) fn of_node(cluster: &ClusterName, node: Node) -> Result<Vec<String>> {
    let cgroup = format!("{cluster}-{}", node.name());
    let mut list = cluster::on_node(cluster, node)?;
    let list = command::output(list.args(["sh", "-c", LIST, &cgroup]))?;
    let is_pods = |line: &&str| !CLASSES.iter().any(|class| line.ends_with(class));
    Ok(list.lines().filter(is_pods).map(str::to_owned).collect())
}

/// Waits until the nodes hold what they held before, and says by name what they do not.
pub(crate) fn settle(cluster: &ClusterName, before: &BTreeSet<String>) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = of(cluster)?;
        if &now == before {
            eprintln!(
                "The nodes hold what they held before: {} things.",
                now.len()
            );
            return Ok(());
        }
        if Instant::now() > deadline {
            let list = |set: Vec<&String>| {
                set.into_iter()
                    .map(|line| format!("\n  {line}"))
                    .collect::<String>()
            };
            bail!(
                "the suite left on the nodes:{}\nand took from them:{}",
                list(now.difference(before).collect()),
                list(before.difference(&now).collect())
            );
        }
        std::thread::sleep(LOOK);
    }
}
