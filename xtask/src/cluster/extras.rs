//! `cluster extras`: what only the end-to-end tests need of a cluster. Not part of `up`, which a
//! newcomer waits for.

use std::fs;

use anyhow::{Context, Result};

use super::names::ClusterName;
use super::{builds, images, load};

/// Loads the tests' own images onto the nodes, and puts their programs beside `kubectl`.
pub(crate) fn extras(cluster: &ClusterName) -> Result<()> {
    let extras = builds::ensure_extras()?;
    load::load(cluster, &images::ensure_extras(&extras)?)?;
    let program = "grpc-health";
    let (source, target) = (
        extras.grpc_health.join(program),
        cluster.bin().join(program),
    );
    fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
    Ok(())
}
