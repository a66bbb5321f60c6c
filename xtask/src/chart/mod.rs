//! `cargo xtask chart`: the Helm chart's templates, written from the plain manifests.
//!
//! The manifests of `runtimeclass/` are the source: whoever changes them edits nothing else. What the
//! chart lets a user choose is put in their place by [`choices`]; a manifest that no longer has what is
//! to be replaced is an error, so no choice gets lost. What only a chart has (values, their schema, hook,
//! monitoring) is written by hand beside.

mod choices;
mod document;
mod kustomization;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// Arguments of `cargo xtask chart`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the templates are not what the manifests make
    #[arg(long)]
    check: bool,
}

/// Directories of the chart that hold what is written from the manifests and nothing else.
const WRITTEN: [&str; 2] = ["templates/product", "files/product"];

/// The configuration of the nodes that the manifests install, below `runtimeclass/`.
const CONFIGURATION: &str = "node/config.toml";

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    let chart = directory();
    for written in WRITTEN.map(|written| chart.join(written)) {
        if written.exists() {
            fs::remove_dir_all(&written)
                .with_context(|| format!("remove {}", written.display()))?;
        }
    }
    for (name, text) in files()? {
        let path = chart.join(&name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("runtimeclass/chart/{name}");
    }
    Ok(())
}

/// The chart's directory.
pub(crate) fn directory() -> PathBuf {
    manifests().join("chart")
}

fn manifests() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimeclass")).to_owned()
}

/// Refuses what is committed if it is not what the manifests make.
pub(crate) fn check() -> Result<()> {
    let (committed, wanted) = (committed()?, files()?);
    let mut names = committed.keys().chain(wanted.keys());
    match names.find(|name| committed.get(*name) != wanted.get(*name)) {
        None => Ok(()),
        Some(name) => bail!(
            "runtimeclass/chart/{name} is not what the manifests make: run `cargo xtask chart`"
        ),
    }
}

/// What is written, by names below the chart.
fn files() -> Result<BTreeMap<String, String>> {
    let root = fs::canonicalize(manifests()).context("find runtimeclass/")?;
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let [templates, others] = WRITTEN;
    let configuration = read(&root.join(CONFIGURATION))?;
    let mut files = BTreeMap::from([(format!("{others}/config.toml"), configuration)]);
    for file in kustomization::files(&root)? {
        let name = file
            .strip_prefix(&root)
            .with_context(|| format!("{} is not below runtimeclass/", file.display()))?
            .display()
            .to_string();
        let template = document::template(&name, &read(&file)?)
            .with_context(|| format!("make a template of runtimeclass/{name}"))?;
        if let Some(template) = template {
            files.insert(format!("{templates}/{name}"), template);
        }
    }
    Ok(files)
}

/// What is there of that.
fn committed() -> Result<BTreeMap<String, String>> {
    let chart = directory();
    let mut found = BTreeMap::new();
    for entry in WRITTEN
        .iter()
        .flat_map(|written| WalkDir::new(chart.join(written)))
    {
        let entry = entry.context("look into the chart")?;
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(&chart)?.display().to_string();
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}
