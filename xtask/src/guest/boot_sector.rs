//! Guests of one sector: assembled, padded to a disk. They start in well under a second, so that
//! tests of density and of fast exits need not wait for a kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe;
use crate::cache::{self, Key};
use crate::command;

/// What the firmware loads and runs, bytes, with the two of the signature.
const SECTOR: usize = 512;

/// Size of the disk, bytes: what every tool takes for a disk.
const DISK: u64 = 1 << 20;

/// Assembles `tests/guests/<name>/boot.s` into the directory it returns.
pub(super) fn build(name: &str) -> Result<PathBuf> {
    let source = recipe(name).join("boot.s");
    let content = std::fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    let key = Key::default()
        .add(content)
        .add(include_str!("boot_sector.rs"));
    cache::entry("guests", name, key, |dir| assemble(&source, dir))
}

fn assemble(source: &Path, dir: &Path) -> Result<()> {
    let (object, disk) = (dir.join("boot.o"), dir.join("disk.img"));
    command::run(
        Command::new("as")
            .arg("--32")
            .arg("-o")
            .args([&object, source]),
    )?;
    // The firmware loads the sector to 0x7c00 and jumps there.
    command::run(
        Command::new("ld")
            .args([
                "-m",
                "elf_i386",
                "--oformat",
                "binary",
                "-Ttext",
                "0x7c00",
                "-e",
                "0x7c00",
            ])
            .arg("-o")
            .args([&disk, &object]),
    )?;
    let sector = std::fs::read(&disk)?;
    ensure!(
        sector.len() == SECTOR && sector.ends_with(&[0x55, 0xaa]),
        "{} has to make {SECTOR} bytes with a signature, not {}",
        source.display(),
        sector.len()
    );
    std::fs::File::options()
        .write(true)
        .open(&disk)?
        .set_len(DISK)?;
    std::fs::set_permissions(&disk, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    std::fs::remove_file(object)?;
    Ok(())
}
