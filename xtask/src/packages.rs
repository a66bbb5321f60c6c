//! Debian packages as building material: finds the newest versions and all they depend on, and
//! unpacks them into a directory without installing anything. Relies on this machine's own apt
//! sources and apt's verification; what was downloaded is kept for the next build.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, command};

/// Packages with everything they depend on.
pub(crate) struct Packages {
    names: Vec<String>,
    closure: Vec<Package>,
}

/// A package file as apt names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: String,
    /// Its version, with the epoch.
    pub(crate) version: String,
    file: String,
}

impl Package {
    /// `name_version_architecture.deb`, the colon of an epoch written `%3a`.
    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".deb")?.split('_');
        let (name, version) = (parts.next()?, parts.next()?);
        Some(Self {
            name: name.to_owned(),
            version: version.replace("%3a", ":"),
            file: file.to_owned(),
        })
    }
}

impl Packages {
    /// Finds the newest versions of `names` and of what they depend on, as if nothing at all were
    /// installed here.
    ///
    /// # Errors
    /// When apt knows no such package, in its own words.
    pub(crate) fn resolve(names: &[&str]) -> Result<Self> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        // What was downloaded before is left out of the answer, so ask about an empty directory.
        let uris = || {
            let empty = cache::dir("packages")?.join("none");
            command::output(apt(&names, &empty).arg("--print-uris"))
        };
        // A fresh machine has no package lists yet.
        let uris = uris().or_else(|_| {
            update()?;
            uris()
        })?;
        Ok(Self {
            names,
            closure: closure(&uris)?,
        })
    }

    /// All packages, in the order of their names.
    pub(crate) fn all(&self) -> &[Package] {
        &self.closure
    }

    /// A text that changes with any version.
    pub(crate) fn fingerprint(&self) -> String {
        self.closure
            .iter()
            .map(|package| format!("{}\n", package.file))
            .collect()
    }

    /// The files in `package`, which was downloaded, relative to the root.
    pub(crate) fn files(&self, package: &Package) -> Result<Vec<String>> {
        let archive = cache::dir("packages")?.join(&package.file);
        let tar = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&archive)
            .output()
            .context("run dpkg-deb")?;
        let mut files = Vec::new();
        for entry in tar::Archive::new(tar.stdout.as_slice()).entries()? {
            let path = entry
                .with_context(|| format!("read {}", archive.display()))?
                .path()?
                .into_owned();
            files.push(
                path.strip_prefix("./")
                    .unwrap_or(&path)
                    .display()
                    .to_string(),
            );
        }
        Ok(files)
    }

    /// Downloads what is missing and unpacks all of it below `into`.
    pub(crate) fn unpack(&self, into: &Path) -> Result<()> {
        let archives = cache::dir("packages")?;
        if self
            .closure
            .iter()
            .any(|package| !archives.join(&package.file).exists())
        {
            std::fs::create_dir_all(archives.join("partial"))?;
            let download = || command::run(apt(&self.names, &archives).arg("--download-only"));
            if download().is_err() {
                // The lists may be older than what the mirror still holds.
                update()?;
                download()?;
            }
        }
        for package in &self.closure {
            let archive = archives.join(&package.file);
            command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(into))?;
        }
        Ok(())
    }
}

/// The file names in the output of `--print-uris`: lines of `'URI' FILE SIZE CHECKSUM`.
fn closure(uris: &str) -> Result<Vec<Package>> {
    let mut closure = Vec::new();
    for line in uris.lines().filter(|line| line.starts_with('\'')) {
        let file = line
            .split_whitespace()
            .nth(1)
            .context("apt printed a URI without a file")?;
        let package = Package::parse(file)
            .with_context(|| format!("apt named a file that is no package: {file}"))?;
        closure.push(package);
    }
    if closure.is_empty() {
        bail!("apt found no package to download");
    }
    closure.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(closure)
}

fn apt(names: &[String], archives: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends"])
        // Nothing counts as installed, so that dependencies come out whole.
        .args(["-o", "Dir::State::status=/dev/null"])
        .args(["-o", "APT::Sandbox::User=root"])
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        .args(names)
        .env("LC_ALL", "C");
    apt
}

fn update() -> Result<()> {
    command::run(Command::new("apt-get").args(["update", "-q"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_prints() {
        let uris = "Reading package lists...\n\
            'http://mirror/pool/q/qemu.deb' qemu-utils_1%3a7.2+dfsg-7_amd64.deb 1 MD5Sum:00\n\
            'http://mirror/pool/b/b.deb' base_2-1_all.deb 1 \n";
        let found = closure(uris).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&*found[0].name, &*found[0].version), ("base", "2-1"));
        assert_eq!(
            (&*found[1].name, &*found[1].version),
            ("qemu-utils", "1:7.2+dfsg-7")
        );
    }

    #[test]
    fn an_empty_answer_is_an_error() {
        assert!(closure("Reading package lists...\n").is_err());
    }
}
