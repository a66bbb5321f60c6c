//! A self-contained QEMU: the program of the distribution with its libraries and firmware, as a
//! directory that works as a root of its own, on any distribution and in the jail. Relies on the
//! packages alone, nothing of this machine gets in; it holds nothing that a q35 machine with virtio
//! devices has no use for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::virtiofsd;
use crate::cache::{self, Key};
use crate::command;
use crate::elf::{self, Files};
use crate::packages::Packages;
use crate::progress::Step;

const PACKAGES: [&str; 8] = [
    "ipxe-qemu",
    "libcap-ng0",
    "libseccomp2",
    "ovmf",
    "qemu-system-x86",
    "seabios",
    "libgcc-s1",
    "swtpm",
];

/// The program, as a path of the tree.
const QEMU: &str = "usr/bin/qemu-system-x86_64";

/// Where the programs beside it are in the tree.
const VIRTIOFSD: &str = "usr/libexec/virtiofsd";
const SWTPM: &str = "usr/bin/swtpm";

/// What needs libraries besides the program. Modules are named, never taken by pattern: most of
/// them serve screens and sound of a desktop. The last is opened by glibc when a thread ends early.
const OBJECTS: [&str; 9] = [
    QEMU,
    VIRTIOFSD,
    SWTPM,
    "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
    "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-i386.so",
    "usr/lib/x86_64-linux-gnu/qemu/hw-display-virtio-gpu.so",
    "usr/lib/x86_64-linux-gnu/qemu/hw-display-virtio-gpu-pci.so",
    "usr/lib/x86_64-linux-gnu/qemu/hw-display-virtio-vga.so",
    "lib/x86_64-linux-gnu/libgcc_s.so.1",
];

/// Firmware and data, files or whole directories, where the program looks for them.
const DATA: [&str; 20] = [
    "usr/lib/ipxe/qemu/efi-virtio.rom",
    "usr/lib/ipxe/qemu/pxe-virtio.rom",
    "usr/share/OVMF/OVMF_CODE_4M.fd",
    "usr/share/OVMF/OVMF_CODE_4M.ms.fd",
    "usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    "usr/share/OVMF/OVMF_VARS_4M.fd",
    "usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    // VNC reads a keyboard layout even where nobody types.
    "usr/share/qemu/keymaps",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/multiboot.bin",
    "usr/share/qemu/multiboot_dma.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/vgabios-bochs-display.bin",
    "usr/share/seabios/vgabios-cirrus.bin",
    "usr/share/seabios/vgabios-ramfb.bin",
    "usr/share/seabios/vgabios-stdvga.bin",
    "usr/share/seabios/vgabios-virtio.bin",
];

/// Where a runtime mounts something: the tree is read-only by then.
const MOUNT_POINTS: [&str; 6] = ["dev", "etc", "proc", "run", "sys", "tmp"];

/// The directory with the tree, built unless it is there.
pub(crate) fn tree() -> Result<PathBuf> {
    let packages = Packages::resolve(&PACKAGES)?;
    let virtiofsd = virtiofsd::build()?;
    let key = Key::default()
        .add(packages.fingerprint())
        .add(virtiofsd.as_os_str().as_encoded_bytes())
        .add(include_str!("qemu.rs"))
        .add(include_str!("../elf.rs"));
    let dir = cache::entry("qemu", "tree", key, |dir| {
        let step = Step::begin("Building the self-contained QEMU");
        let unpacked = tempfile::tempdir_in(dir)?;
        assemble(&packages, &virtiofsd, unpacked.path(), &dir.join("root"))?;
        step.done();
        Ok(())
    })?;
    Ok(dir.join("root"))
}

/// The tree's QEMU as a program of this machine, to try a guest: run by the tree's own loader, it
/// takes neither libraries nor modules nor firmware from here.
#[cfg(test)]
pub(crate) fn on_this_machine() -> Result<Command> {
    let tree = tree()?;
    let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
        .map(|dir| tree.join(dir).display().to_string());
    let mut qemu = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"));
    qemu.args(["--library-path", &libraries.join(":")])
        .arg(tree.join(QEMU))
        .env(
            "QEMU_MODULE_DIR",
            tree.join("usr/lib/x86_64-linux-gnu/qemu"),
        );
    for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        qemu.arg("-L").arg(tree.join(firmware));
    }
    Ok(qemu)
}

fn assemble(packages: &Packages, virtiofsd: &Path, unpacked: &Path, tree: &Path) -> Result<()> {
    packages.unpack(unpacked)?;
    let program = unpacked.join(VIRTIOFSD);
    std::fs::create_dir_all(program.parent().context("it has a directory")?)?;
    std::fs::copy(virtiofsd.join("bin/virtiofsd"), &program)?;
    let mut files = elf::closure(unpacked, &OBJECTS)?;
    for path in DATA {
        add_data(unpacked, path, &mut files)?;
    }
    let used = owners(packages, &files)?;
    for package in &used {
        let path = format!("usr/share/doc/{package}/copyright");
        let source = elf::resolve(unpacked, &path)
            .with_context(|| format!("the package {package} tells no licence"))?;
        files.insert(path, source);
    }
    for entry in std::fs::read_dir(virtiofsd)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            files.insert(format!("usr/share/doc/virtiofsd/{name}"), entry.path());
        }
    }
    elf::copy(&files, tree)?;
    for dir in MOUNT_POINTS {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    let version = version(tree)?;
    std::fs::write(
        tree.join("VERSION"),
        manifest(tree, &version, packages, &used)?,
    )?;
    Ok(())
}

fn add_data(unpacked: &Path, path: &str, files: &mut Files) -> Result<()> {
    let full = unpacked.join(path);
    if !full.is_dir() {
        let source = elf::resolve(unpacked, path).with_context(|| format!("there is no {path}"))?;
        files.insert(path.to_owned(), source);
        return Ok(());
    }
    for entry in std::fs::read_dir(full)? {
        let name = entry?.file_name();
        let name = name
            .to_str()
            .with_context(|| format!("{name:?} is not UTF-8"))?;
        add_data(unpacked, &format!("{path}/{name}"), files)?;
    }
    Ok(())
}

/// The packages that at least one of `files` comes from.
fn owners(packages: &Packages, files: &Files) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    for package in packages.all() {
        let listed = packages.files(package)?;
        if listed.iter().any(|path| files.contains_key(path)) {
            used.insert(package.name.clone());
        }
    }
    Ok(used)
}

/// What the program says it is, asked with the tree as its root: proof that nothing is missing
/// that it needs to start.
fn version(tree: &Path) -> Result<String> {
    let said = command::output(
        Command::new("chroot")
            .arg(tree)
            .arg(format!("/{QEMU}"))
            .arg("--version"),
    )?;
    let version = said
        .strip_prefix("QEMU emulator version ")
        .and_then(|v| v.split(' ').next());
    match version {
        Some(version) => Ok(version.to_owned()),
        None => bail!("QEMU in {} says: {said}", tree.display()),
    }
}

/// `VERSION`: a line for QEMU, one for the digest of the tree's content, one for each package.
fn manifest(
    tree: &Path,
    version: &str,
    packages: &Packages,
    used: &BTreeSet<String>,
) -> Result<String> {
    let mut hash = Sha256::new();
    for entry in WalkDir::new(tree).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            hash.update(
                entry
                    .path()
                    .strip_prefix(tree)?
                    .as_os_str()
                    .as_encoded_bytes(),
            );
            hash.update([0]);
            hash.update(Sha256::digest(std::fs::read(entry.path())?));
        }
    }
    let mut lines = format!(
        "qemu {version}\ndigest sha256:{}\ncrate {} {}\n",
        hex::encode(hash.finalize()),
        virtiofsd::CRATE.0,
        virtiofsd::CRATE.1
    );
    for package in packages
        .all()
        .iter()
        .filter(|package| used.contains(&package.name))
    {
        lines += &format!("package {} {}\n", package.name, package.version);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{self, Format, Guest};
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    /// Boots a guest with the tree as QEMU's root and reads its serial port up to `marker`.
    fn boot_until(marker: &str, guest: Guest, args: &str) {
        let tree = tree().unwrap();
        let disk = guest::build(guest, Format::Raw).unwrap().disk;
        let line = format!(
            "exec timeout 60 chroot {} /{QEMU} -M q35 -accel tcg -m 256 -nodefaults -display none \
             -serial stdio -add-fd fd=3,set=1 {args} \
             -blockdev driver=file,filename=/dev/fdset/1,node-name=file,read-only=on \
             -blockdev driver=raw,file=file,node-name=disk,read-only=on \
             -device virtio-blk-pci,drive=disk 3<{}",
            tree.display(),
            disk.display()
        );
        let mut qemu = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(qemu.stdout.take().unwrap()).split(b'\n');
        let seen = said.any(|line| String::from_utf8_lossy(&line.unwrap()).contains(marker));
        // timeout passes the signal on.
        command::run(Command::new("kill").arg(qemu.id().to_string())).ok();
        qemu.wait().unwrap();
        assert!(seen, "QEMU ended before it said {marker:?}: {line}");
    }

    #[test]
    #[ignore = "needs root and the distribution's packages"]
    fn a_machine_with_seabios_runs_with_the_tree_as_its_root() {
        boot_until(
            "power-off guest ends",
            Guest::PowerOff,
            "-device virtio-vga",
        );
    }

    #[test]
    #[ignore = "needs root and the distribution's packages"]
    fn a_machine_with_uefi_runs_with_the_tree_as_its_root() {
        let vars = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(
            tree().unwrap().join("usr/share/OVMF/OVMF_VARS_4M.fd"),
            &vars,
        )
        .unwrap();
        // QEMU opens what it writes a second time to look at it, so the set holds both ways.
        let uefi = format!(
            "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
             -add-fd fd=4,set=2 -add-fd fd=5,set=2 \
             -drive if=pflash,format=raw,file=/dev/fdset/2 4<>{vars} 5<{vars}",
            vars = vars.path().display()
        );
        boot_until("tiny guest", Guest::Tiny, &uefi);
    }

    #[test]
    #[ignore = "needs root and the distribution's packages"]
    fn the_tree_is_small() {
        let bytes: u64 = WalkDir::new(tree().unwrap())
            .into_iter()
            .map(|entry| entry.unwrap().metadata().unwrap())
            .filter(std::fs::Metadata::is_file)
            .map(|meta| meta.len())
            .sum();
        assert!(bytes < 80 << 20, "{} MiB", bytes >> 20);
    }
}
