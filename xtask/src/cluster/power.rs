//! The power of a node: gone and back.

use std::fs;

use anyhow::{Context, Result};

use super::names::{ClusterName, Node, Place};
use super::supervisor::Spec;
use super::{lock, place};

/// Cuts the power of `node` and gives it back: what ran there is gone and what lay in its `/run`, what
/// it wrote to its disk is there. Returns when it begins to start its services.
pub(crate) fn power_cycle(cluster: &ClusterName, node: Node) -> Result<()> {
    let _lock = lock::exclusive()?;
    let place = Place::Node(node);
    let spec = cluster.place_dir(place).join(place::SPEC);
    let spec = fs::read(&spec).with_context(|| format!("read {}", spec.display()))?;
    let spec: Spec = serde_json::from_slice(&spec)?;
    place::kill(cluster, place)?;
    place::start(cluster, place, &spec)
}
