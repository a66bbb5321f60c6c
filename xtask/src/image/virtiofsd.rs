//! virtiofsd, which shares directories with guests: built from its crate, since the distribution has
//! no package of it. It uses two libraries of the distribution.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::command;
use crate::packages::Packages;
use crate::progress::Step;

/// The crate's name and version.
pub(super) const CRATE: (&str, &str) = ("virtiofsd", "1.14.0");

/// The packages to build with.
const PACKAGES: [&str; 2] = ["libcap-ng-dev", "libseccomp-dev"];

/// Where they have their libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// The directory with the program, `bin/virtiofsd`, and its licences, built unless it is there.
pub(super) fn build() -> Result<PathBuf> {
    let packages = Packages::resolve(&PACKAGES)?;
    let key = Key::default()
        .add(packages.fingerprint())
        .add(include_str!("virtiofsd.rs"));
    cache::entry("qemu", "virtiofsd", key, |dir| {
        let step = Step::begin("Building virtiofsd");
        let work = tempfile::tempdir_in(dir)?;
        packages.unpack(&work.path().join("packages"))?;
        install(work.path(), dir)?;
        copy_licences(dir)?;
        step.done();
        Ok(())
    })
}

fn install(work: &Path, dir: &Path) -> Result<()> {
    let (name, version) = CRATE;
    let libraries = LIBRARIES.map(|path| work.join("packages").join(path));
    // The names without versions are links from the root, which is not this machine's.
    for library in ["libcap-ng.so", "libseccomp.so"] {
        let found = libraries.iter().find_map(|dir| versioned(dir, library));
        let found = found.with_context(|| format!("there is no {library}"))?;
        let link = work.join(library);
        std::os::unix::fs::symlink(found, link)?;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "--quiet", "--locked", "--no-track", name])
        .args(["--version", &format!("={version}")])
        .arg("--root")
        .arg(dir)
        .env("CARGO_TARGET_DIR", work.join("target"))
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("LIBSECCOMP_LIB_PATH", work)
        .env("RUSTFLAGS", format!("-L native={}", work.display()));
    command::run(&mut cargo)
}

/// The library itself, such as `libcap-ng.so.0.0.0`.
fn versioned(dir: &Path, library: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{library}.")) && path.is_file() && !path.is_symlink()
    })
}

fn copy_licences(dir: &Path) -> Result<()> {
    let (name, version) = CRATE;
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let crates = home.join("registry/src");
    for registry in std::fs::read_dir(&crates).with_context(|| crates.display().to_string())? {
        let source = registry?.path().join(format!("{name}-{version}"));
        for entry in std::fs::read_dir(source).into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("LICENSE") {
                std::fs::copy(entry.path(), dir.join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}
