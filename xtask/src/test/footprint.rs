//! What a node holds: processes, mounts, links, nft tables, sockets, cgroups and state files. After
//! the suite it must be what it was before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cluster::{self, ClusterName, Node};

/// How long containerd and kubelet may take to tidy up after the last pod.
const SETTLE: Duration = Duration::from_secs(90);

/// Prints one line per thing, with what differs from run to run (pids, times) left out.
const LIST: &str = r#"
for p in /proc/[0-9]*; do
  tr '\0' ' ' < $p/cmdline 2>/dev/null | cut -c1-200 | grep -E 'qemu|kubevirt-v1|containerd-shim|holder|virtiofsd|swtpm' | sed 's/^/process /'
done
awk '{print "mount", $5, $9}' /proc/self/mountinfo
ip -o link | awk -F': ' '{sub(/@.*/, "", $2); print "link", $2}'
ls /run/netns 2>/dev/null | sed 's/^/netns /'
nft list tables 2>/dev/null | sed 's/^/nft /'
ls /run/containerd/s /run/containerd/io.containerd.runtime.v2.task/* 2>/dev/null | sed 's/^/state /'
find /opt/kubevirt /etc/kubevirt 2>/dev/null | sed 's/^/file /'
find /etc/containerd -type f -exec md5sum {} + 2>/dev/null | sed 's/^/file /'
find /run/kubevirt -mindepth 1 ! -name '*.lock' 2>/dev/null | sed 's/^/file /'
grep -oE '/[^ ]*(kubevirt|containerd)[^ ]*' /proc/net/unix | sed 's/^/socket /'
for c in memory pids cpu freezer; do
  root=$(awk -F: -v c=$c '$2 ~ "(^|,)"c"(,|$)" {print $3}' /proc/self/cgroup | head -1)
  find /sys/fs/cgroup/$c$root/.. -maxdepth 6 -type d 2>/dev/null | grep -i pod | sed "s/^/cgroup /"
done
"#;

/// Everything on every node.
pub(crate) fn of(cluster: &ClusterName) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for node in Node::ALL {
        let list =
            crate::command::output(cluster::on_node(cluster, node)?.args(["sh", "-c", LIST]))?;
        all.extend(list.lines().map(|line| format!("{} {line}", node.name())));
    }
    Ok(all)
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
        std::thread::sleep(Duration::from_secs(2));
    }
}
