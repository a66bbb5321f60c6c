//! The tiny guest: Debian's cloud kernel, busybox, the guest agent and ssh on a disk of some tens
//! of MiB. What it does is in `tests/guests/tiny/`; this only puts the parts together.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use walkdir::WalkDir;

use super::disk::Disk;
use super::{list, recipe};
use crate::cache::{self, Key};
use crate::oci::MTIME;
use crate::packages::Packages;
use crate::progress::Step;
use crate::{command, elf};

const PACKAGES: &str = include_str!("../../../tests/guests/tiny/packages");
const MODULES: &str = include_str!("../../../tests/guests/tiny/modules");

/// What is taken out of the packages with its libraries, besides busybox.
const PROGRAMS: [&str; 5] = [
    "usr/bin/script",
    "usr/sbin/dhcp6c",
    "usr/sbin/qemu-ga",
    "usr/sbin/dropbear",
    "bin/nc.traditional",
];

/// `quiet` keeps the console for the guest's own words; hot-plugged memory is used at once.
///
/// `no_timer_check`: an emulated timer on busy cores may come too late for the kernel's test of it, which
/// then panics. Under KVM it does not test.
const COMMAND_LINE: &str =
    "console=tty0 console=ttyS0,115200 quiet memhp_default_state=online no_timer_check";

/// Room for the kernel (14 MiB) and the initramfs (3 MiB), and for newer ones of both.
const ESP_MIB: u64 = 24;
/// The content (12 MiB), the journal, and some room to write.
const ROOT_MIB: u64 = 40;

/// Builds the disk, or finds it built.
pub(super) fn build() -> Result<PathBuf> {
    let packages = Packages::resolve(&list(PACKAGES))?;
    let key = Key::default()
        .add(packages.fingerprint())
        .add_tree(&recipe("tiny"))?
        .add(include_str!("tiny.rs"))
        .add(include_str!("disk.rs"));
    cache::entry("guests", "tiny", key, |dir| {
        let step = Step::begin("Building the guest tiny");
        let work = tempfile::tempdir_in(dir)?;
        assemble(&packages, dir, work.path())?;
        step.done();
        Ok(())
    })
}

fn assemble(packages: &Packages, dir: &Path, work: &Path) -> Result<()> {
    let (unpacked, initramfs, root) = (
        work.join("packages"),
        work.join("initramfs"),
        work.join("root"),
    );
    packages.unpack(&unpacked)?;
    let kernel = Kernel::find(&unpacked)?;
    fill_initramfs(&unpacked, &kernel, &initramfs).context("fill the initramfs")?;
    fill_root(&unpacked, &kernel, &root).context("fill the root file system")?;
    let archive = work.join("initrd");
    write_cpio(&initramfs, &archive).context("pack the initramfs")?;
    Disk {
        kernel: unpacked.join(format!("boot/vmlinuz-{}", kernel.version)),
        initramfs: archive,
        command_line: COMMAND_LINE.to_owned(),
        efi_loader: unpacked.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
        esp_mib: ESP_MIB,
        root,
        root_label: "tiny-root",
        root_mib: ROOT_MIB,
    }
    .write(&dir.join("disk.img"), work)
}

fn fill_initramfs(unpacked: &Path, kernel: &Kernel, target: &Path) -> Result<()> {
    directories(target, &["bin", "dev", "proc", "root", "sys"])?;
    copy_tree(&recipe("tiny").join("initramfs"), target)?;
    std::fs::copy(unpacked.join("bin/busybox"), target.join("bin/busybox"))?;
    // The list's first group, up to the first blank line after it.
    let first = MODULES.split("\n\n").nth(1).unwrap_or_default();
    kernel.copy_modules(&list(first), target)
}

fn fill_root(unpacked: &Path, kernel: &Kernel, target: &Path) -> Result<()> {
    let empty = [
        "dev", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var",
    ];
    directories(target, &empty)?;
    std::fs::set_permissions(target.join("root"), PermissionsExt::from_mode(0o700))?;
    symlink("/run", target.join("var/run"))?;
    copy_tree(&recipe("tiny").join("root"), target)?;
    elf::copy(&elf::closure(unpacked, &PROGRAMS)?, target)?;

    let busybox = target.join("bin/busybox");
    std::fs::copy(unpacked.join("bin/busybox"), &busybox)?;
    let applets = command::output(Command::new(&busybox).arg("--list-full"))?;
    for applet in applets.lines() {
        // A program of its own goes before the applet of the same name.
        let path = target.join(applet);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        if !path.exists() {
            symlink("/bin/busybox", path)?;
        }
    }
    let modules = list(MODULES);
    std::fs::write(target.join("etc/modules"), modules.join("\n") + "\n")?;
    kernel.copy_modules(&modules, target)
}

fn directories(target: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        std::fs::create_dir_all(target.join(name))?;
    }
    Ok(())
}

/// Copies files with their modes; git keeps no others than these two.
fn copy_tree(source: &Path, target: &Path) -> Result<()> {
    for entry in WalkDir::new(source).min_depth(1) {
        let entry = entry?;
        let to = target.join(entry.path().strip_prefix(source)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            std::fs::set_permissions(&to, PermissionsExt::from_mode(mode))?;
        }
    }
    Ok(())
}

/// The unpacked kernel package.
struct Kernel {
    version: String,
    modules: PathBuf,
}

impl Kernel {
    fn find(unpacked: &Path) -> Result<Self> {
        let base = ["lib/modules", "usr/lib/modules"]
            .map(|dir| unpacked.join(dir))
            .into_iter()
            .find(|dir| dir.exists())
            .context("the kernel package has no modules")?;
        let modules = std::fs::read_dir(base)?
            .next()
            .context("there is no kernel")??
            .path();
        let version = modules.file_name().and_then(|name| name.to_str());
        let version = version
            .context("the kernel's version is not UTF-8")?
            .to_owned();
        Ok(Self { version, modules })
    }

    /// Copies the modules `names` and those they depend on below `target`, with the index that
    /// modprobe reads.
    fn copy_modules(&self, names: &[&str], target: &Path) -> Result<()> {
        let to = target.join("lib/modules").join(&self.version);
        let mut chosen = BTreeSet::new();
        let mut todo: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = todo.pop() {
            let file = self
                .module(&name)
                .with_context(|| format!("there is no module {name}"))?;
            if chosen.insert(file.clone()) {
                let depends =
                    command::output(Command::new("modinfo").args(["-F", "depends"]).arg(&file))?;
                let depends = depends.trim().split(',').filter(|name| !name.is_empty());
                todo.extend(depends.map(str::to_owned));
            }
        }
        for file in &chosen {
            let inner = to.join(file.strip_prefix(&self.modules)?);
            if let Some(dir) = inner.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::copy(file, inner)?;
        }
        for index in [
            "modules.order",
            "modules.builtin",
            "modules.builtin.modinfo",
        ] {
            std::fs::copy(self.modules.join(index), to.join(index))?;
        }
        command::run(
            Command::new("depmod")
                .arg("-b")
                .arg(target)
                .arg(&self.version),
        )
    }

    /// Names and files differ in `-` and `_` at will.
    fn module(&self, name: &str) -> Option<PathBuf> {
        let same = |file: &str| file.replace('-', "_") == name.replace('-', "_");
        WalkDir::new(&self.modules)
            .into_iter()
            .flatten()
            .map(walkdir::DirEntry::into_path)
            .find(|path| {
                let file = path
                    .file_name()
                    .and_then(|file| file.to_str())
                    .unwrap_or_default();
                file.split_once(".ko").is_some_and(|(stem, _)| same(stem))
            })
    }
}

/// Packs `dir` in the format that the kernel unpacks. Not compressed: it is small, and unpacking
/// costs more than reading when the CPU is emulated.
fn write_cpio(dir: &Path, archive: &Path) -> Result<()> {
    let mut out = File::create(archive)?;
    for (inode, entry) in WalkDir::new(dir)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .enumerate()
    {
        let entry = entry?;
        let (name, meta) = (entry.path().strip_prefix(dir)?, entry.metadata()?);
        let name = name
            .to_str()
            .context("a name in the initramfs is not UTF-8")?;
        let content = if meta.is_file() {
            std::fs::read(entry.path())?
        } else {
            Vec::new()
        };
        let mut file = cpio::newc::Builder::new(name)
            .ino(u32::try_from(inode)? + 1)
            .mode(meta.permissions().mode())
            .mtime(u32::try_from(MTIME)?)
            .write(&mut out, u32::try_from(content.len())?);
        file.write_all(&content)?;
        file.finish()?;
    }
    cpio::newc::trailer(&mut out)?;
    Ok(())
}
