//! The Debian guest: a whole distribution with systemd, cloud-init, sshd and the guest agent, of
//! the release that this machine runs and from the mirror that it uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::disk::Disk;
use super::{list, recipe};
use crate::cache::{self, Key};
use crate::command;
use crate::oci::MTIME;
use crate::packages::Packages;
use crate::progress::Step;

const PACKAGES: &str = include_str!("../../../tests/guests/debian/packages");

/// The console is the machine's log: what systemd starts, without the kernel's talk of it.
const COMMAND_LINE: &str = "root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 \
                            loglevel=4 memhp_default_state=online";

/// Room for the kernel (14 MiB) and the initramfs (30 MiB), and for newer ones of both.
const ESP_MIB: u64 = 96;
/// What the packages fill, and as much again to work with.
const ROOT_MIB: u64 = 1900;

/// Documentation that nobody reads in a test guest; licences stay.
const LEFT_OUT: [&str; 5] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Builds the disk, or finds it built.
pub(super) fn build() -> Result<PathBuf> {
    let packages = Packages::resolve(&list(PACKAGES))?;
    let key = Key::default()
        .add(packages.fingerprint())
        .add_tree(&recipe("debian"))?
        .add(include_str!("debian.rs"))
        .add(include_str!("disk.rs"));
    cache::entry("guests", "debian", key, |dir| {
        let step = Step::begin("Building the guest debian (about two minutes)");
        let work = tempfile::tempdir_in(dir)?;
        assemble(dir, work.path())?;
        step.done();
        Ok(())
    })
}

fn assemble(dir: &Path, work: &Path) -> Result<()> {
    let root = work.join("root");
    bootstrap(&root)?;
    // mmdebstrap leaves none behind.
    std::fs::write(root.join("etc/hostname"), "debian\n")?;
    Disk {
        kernel: boot_file(&root, "vmlinuz-")?,
        initramfs: boot_file(&root, "initrd.img-")?,
        command_line: COMMAND_LINE.to_owned(),
        efi_loader: root.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
        esp_mib: ESP_MIB,
        root,
        root_label: "debian-root",
        root_mib: ROOT_MIB,
    }
    .write(&dir.join("disk.img"), work)
}

fn bootstrap(root: &Path) -> Result<()> {
    let (codename, sources) = sources()?;
    let (list_file, recipe) = (root.with_extension("list"), recipe("debian"));
    std::fs::write(&list_file, sources)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--variant=minbase"])
        // apt's own user cannot enter the cache directory of this one.
        .arg("--aptopt=APT::Sandbox::User \"root\"")
        .arg(format!("--include={}", list(PACKAGES).join(",")))
        .args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")))
        .arg(format!(
            "--customize-hook=cp -r --no-preserve=ownership -T '{}/root' \"$1\"",
            recipe.display()
        ))
        .arg(format!(
            "--customize-hook=chroot \"$1\" sh < '{}/setup'",
            recipe.display()
        ))
        .args([&codename, "--format=directory"])
        .args([root, &list_file])
        .env("SOURCE_DATE_EPOCH", MTIME.to_string());
    command::run(&mut mmdebstrap)
}

/// The release this machine runs, and its own apt sources for it, one a line.
fn sources() -> Result<(String, String)> {
    let os = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?
        .trim_matches('"')
        .to_owned();
    let targets = command::output(
        Command::new("apt-get")
            .args([
                "indextargets",
                "--format",
                "$(ORIGIN) $(CODENAME) $(REPO_URI) $(COMPONENT)",
            ])
            .args(["Identifier: Packages", "Origin: Debian"]),
    )?;
    let mut sources = String::new();
    for target in targets.lines() {
        if let [_, suite, uri, component] = target.split(' ').collect::<Vec<_>>()[..]
            && suite.split('-').next() == Some(codename.as_str())
            && !suite.ends_with("-backports")
        {
            sources += &format!("deb {uri} {suite} {component}\n");
        }
    }
    ensure!(
        !sources.is_empty(),
        "apt has no source for Debian {codename}; try apt-get update"
    );
    Ok((codename, sources))
}

/// The newest file of this kind in `/boot`.
fn boot_file(root: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join("boot")).context("the guest has no /boot")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    found
        .into_iter()
        .max()
        .with_context(|| format!("the guest has no /boot/{prefix}*"))
}
