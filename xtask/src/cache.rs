//! Where builds are kept between runs, outside the tree: a second run is quick, and nothing relies
//! on it being there.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `${XDG_CACHE_HOME:-$HOME/.cache}/kubevirt-shim/<name>`, created.
pub(crate) fn dir(name: &str) -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let dir = base.join("kubevirt-shim").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}
