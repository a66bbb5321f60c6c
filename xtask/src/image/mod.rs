//! `cargo xtask image`.

use anyhow::Result;

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> Result<()> {
    anyhow::bail!("not built yet")
}
