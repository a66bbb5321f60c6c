//! What a node holds, without the names that differ from one machine to the next: two nodes with as
//! many machines hold the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use regex::Regex;

use crate::cluster::{ClusterName, Node};
use crate::footprint;

/// How long containerd and kubelet may take to tidy up.
const SETTLE: Duration = Duration::from_secs(90);

/// How often to look.
const LOOK: Duration = Duration::from_millis(500);

/// How many differences are shown.
const SHOWN: usize = 20;

/// What differs from machine to machine, and what stands for it.
static NAMES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let names = [
        ("[0-9a-f]{64}", "ID"),
        ("[0-9a-f]{8}([-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}", "UID"),
        ("veth[0-9a-f]+", "veth"),
        (r"\d{6,}", "N"),
    ];
    names
        .into_iter()
        .filter_map(|(pattern, name)| Some((Regex::new(pattern).ok()?, name)))
        .collect()
});

/// Things and how many there are of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holdings(BTreeMap<String, usize>);

impl Holdings {
    pub(super) fn of(cluster: &ClusterName, node: Node) -> Result<Self> {
        let mut things = BTreeMap::new();
        for mut line in footprint::of_node(cluster, node)? {
            // The installer removes a former release once no machine runs from it.
            if line.starts_with("file /opt/kubevirt/") {
                continue;
            }
            for (pattern, name) in NAMES.iter() {
                line = pattern.replace_all(&line, *name).into_owned();
            }
            // As often as it has clients: kubelet, and those who look.
            let is_daemons = line.starts_with("socket /run/containerd/containerd.sock");
            let count = things.entry(line).or_insert(0);
            *count = if is_daemons { 1 } else { *count + 1 };
        }
        Ok(Self(things))
    }

    /// Waits until the node holds this again, and says by name what it has too much or too little.
    pub(super) fn settle(&self, cluster: &ClusterName, node: Node) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let now = Self::of(cluster, node)?;
            if &now == self {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} holds something else than before:{}",
                    node.name(),
                    self.difference(&now)
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    fn difference(&self, now: &Self) -> String {
        let count = |of: &Self, thing| of.0.get(thing).copied().unwrap_or(0);
        let things: std::collections::BTreeSet<_> = self.0.keys().chain(now.0.keys()).collect();
        let lines: Vec<_> = things
            .into_iter()
            .map(|thing| (count(self, thing), count(now, thing), thing))
            .filter(|(before, after, _)| before != after)
            .map(|(before, after, thing)| format!("\n  {before} -> {after}: {thing}"))
            .collect();
        let more = lines.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| format!("\n  and {more} more"));
        lines.into_iter().take(SHOWN).chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known() {
        assert_eq!(NAMES.len(), 4);
    }
}
