//! What a command needs from the distribution, installed by apt when it is missing.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::progress::Step;

/// Installs those of `packages` that are missing, and says so first.
///
/// # Errors
/// When apt fails: its own words.
pub(crate) fn ensure(packages: &[&'static str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let step = Step::begin(format!(
        "Installing from the distribution: {}",
        missing.join(" ")
    ));
    command::run(command::words("apt-get update -q").env("DEBIAN_FRONTEND", "noninteractive"))?;
    command::run(
        command::words("apt-get install -y -q --no-install-recommends")
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    step.done();
    Ok(())
}

fn missing(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    // dpkg-query ends with 1 when it does not know a package; that is an answer, not a failure.
    let known = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("run dpkg-query (this needs a Debian)")?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    Ok(packages
        .iter()
        .copied()
        .filter(|package| {
            !known
                .lines()
                .any(|line| line == format!("{package} installed"))
        })
        .collect())
}
