//! `cargo xtask guest`: builds guests for tests and examples from the distribution's packages,
//! each as a disk and as a containerDisk image. Relies on apt and on the tools of [`PACKAGES`];
//! needs no loop device and no mount, and builds the same recipe only once.

mod boot_sector;
mod debian;
mod disk;
mod tiny;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::command;
use crate::distribution;
use crate::oci::{self, Image, Tree};
use crate::progress::Step;

/// The Debian packages whose programs build guests.
const PACKAGES: [&str; 10] = [
    "binutils",
    "dpkg",
    "e2fsprogs",
    "fdisk",
    "kmod",
    "mmdebstrap",
    "mtools",
    "qemu-utils",
    "syslinux",
    "syslinux-common",
];

/// Begin of every guest's image reference: a registry that nobody can have, so a missing import
/// shows as such.
const REGISTRY: &str = "kubevirt.local/guest";

/// Owner of a containerDisk's files, as KubeVirt's documentation asks for: qemu there.
const DISK_OWNER: (u64, u64) = (107, 107);

/// Arguments of `cargo xtask guest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to build
    name: Guest,
    /// Format of the disk [default: qcow2 for tiny and debian, raw for the others]
    #[arg(long)]
    format: Option<Format>,
    /// Copy the disk and the image there too
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// A guest that can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guest {
    /// Linux with busybox, the guest agent and ssh; boots in seconds
    Tiny,
    /// A whole distribution: systemd, cloud-init, sshd, the guest agent
    Debian,
    /// Prints one line on the first serial port and halts
    BootSector,
    /// Prints 64 KiB of numbered lines and powers off at once
    PowerOff,
}

/// The format of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Sector by sector
    Raw,
    /// QEMU's own, compressed
    Qcow2,
}

/// Where a guest is after it was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// The reference of its image.
    pub(crate) image: String,
    /// The disk alone.
    pub(crate) disk: PathBuf,
    /// The image as an OCI archive.
    pub(crate) archive: PathBuf,
}

impl Guest {
    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Debian => "debian",
            Self::BootSector => "boot-sector",
            Self::PowerOff => "power-off",
        }
    }

    /// The format that people get who do not ask for one.
    pub(crate) fn default_format(self) -> Format {
        match self {
            Self::Tiny | Self::Debian => Format::Qcow2,
            Self::BootSector | Self::PowerOff => Format::Raw,
        }
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The disk's name below `/disk/`, as KubeVirt's own images have it.
    fn file(self) -> &'static str {
        match self {
            Self::Raw => "disk.img",
            Self::Qcow2 => "disk.qcow2",
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let format = args.format.unwrap_or(args.name.default_format());
    let mut built = build(args.name, format)?;
    if let Some(dir) = &args.output {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        for path in [&mut built.disk, &mut built.archive] {
            let extension = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            let copy = dir.join(format!(
                "{}-{}.{extension}",
                args.name.name(),
                format.name()
            ));
            command::run(
                Command::new("cp")
                    .arg("--sparse=always")
                    .arg(&path)
                    .arg(&copy),
            )?;
            *path = copy;
        }
    }
    println!("image={}", built.image);
    println!("disk={}", built.disk.display());
    println!("archive={}", built.archive.display());
    Ok(())
}

/// Builds a guest and its image, unless the same was built before.
pub(crate) fn build(guest: Guest, format: Format) -> Result<Built> {
    distribution::ensure(&PACKAGES)?;
    let name = guest.name();
    let dir = match guest {
        Guest::Tiny => tiny::build(),
        Guest::Debian => debian::build(),
        Guest::BootSector | Guest::PowerOff => boot_sector::build(name),
    }
    .with_context(|| format!("build the guest {name}"))?;

    let raw = dir.join(Format::Raw.file());
    let disk = dir.join(format.file());
    if format == Format::Qcow2 && !disk.exists() {
        convert(&raw, &disk)?;
    }
    let image = format!("{REGISTRY}/{name}:{}", format.name());
    let archive = dir.join(format!("image-{}.tar", format.name()));
    if !archive.exists() {
        let step = Step::begin(format!("Packing {image}"));
        let mut tree = Tree::default();
        tree.file_of(&format!("disk/{}", format.file()), &disk, 0o440, DISK_OWNER);
        oci::write_archive(
            &archive,
            &Image {
                name: image.clone(),
                tree,
                ..Image::default()
            },
        )?;
        step.done();
    }
    Ok(Built {
        image,
        disk,
        archive,
    })
}

fn convert(raw: &Path, qcow2: &Path) -> Result<()> {
    let half = qcow2.with_extension("half");
    command::run(
        Command::new("qemu-img")
            .args([
                "convert",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-c",
                "-o",
                "compression_type=zstd",
            ])
            .args([raw, &half]),
    )?;
    std::fs::rename(&half, qcow2).with_context(|| format!("create {}", qcow2.display()))
}

/// The directory of a guest's recipe in the tree.
fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/guests")
        .join(name)
}

/// The words of a recipe's list: a line each, without blanks and comments.
fn list(text: &str) -> Vec<&str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}
