//! Builds the product's programs for release. They carry their C library with them, so the shim
//! runs on any distribution and the images need no libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use goblin::elf::Elf;

use crate::command;
use crate::progress::Step;

/// Named even though it is this machine's own: only then do the flags below spare build scripts
/// and procedural macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Links the C library statically.
const STATIC: &str = "-C target-feature=+crt-static";

const SHIM: &str = "containerd-shim-kubevirt";

/// The other two: one of each on a node or in a cluster, and they mostly wait.
const OTHERS: [&str; 2] = ["kubevirt-node", "vm-crd-controller"];

/// The profile that keeps the shim small, and that of the others.
const PROFILES: (&str, &str) = ("shim", "release");

/// Where the programs are.
pub(crate) struct Programs {
    /// The shim.
    pub(crate) shim: PathBuf,
    /// The node installer.
    pub(crate) installer: PathBuf,
    /// The controller.
    pub(crate) controller: PathBuf,
}

impl Programs {
    /// Builds them from the tree as it is; cargo knows what is up to date.
    pub(crate) fn build() -> Result<Self> {
        let step = Step::begin("Building the shim, the installer and the controller");
        build(&[SHIM], PROFILES.0)?;
        build(&OTHERS, PROFILES.1)?;
        step.done();
        let target = target_dir()?.join(TARGET);
        let programs = Self {
            shim: program(&target.join(PROFILES.0), "containerd-shim-kubevirt-v1")?,
            installer: program(&target.join(PROFILES.1), "kubevirt-node")?,
            controller: program(&target.join(PROFILES.1), "vm-crd-controller")?,
        };
        Ok(programs)
    }
}

/// Builds the controller alone, as its image has it.
pub(crate) fn controller() -> Result<PathBuf> {
    let step = Step::begin("Building the controller");
    build(&["vm-crd-controller"], PROFILES.1)?;
    step.done();
    program(
        &target_dir()?.join(TARGET).join(PROFILES.1),
        "vm-crd-controller",
    )
}

/// Builds packages of one profile.
fn build(packages: &[&str], profile: &str) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--target", TARGET]);
    build.args(["--profile", profile]);
    for package in packages {
        build.args(["--package", package]);
    }
    let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
    command::run(build.env("RUSTFLAGS", format!("{inherited} {STATIC}")))
}

/// A program that was built; it must need nothing that a node may lack.
fn program(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let elf = Elf::parse(&content).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        elf.interpreter.is_none() && elf.libraries.is_empty(),
        "{} is not static: it needs {:?}",
        path.display(),
        elf.libraries
    );
    Ok(path)
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo
}

fn target_dir() -> Result<PathBuf> {
    let metadata =
        command::output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo tells no target directory")?;
    Ok(dir.into())
}
