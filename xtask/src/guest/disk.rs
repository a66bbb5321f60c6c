//! Assembles a disk that boots under SeaBIOS and under OVMF alike: a GPT with an EFI system
//! partition, which syslinux and systemd-boot share, and an ext4 root. Made of files alone, by
//! tools that never mount; the same input gives the same bytes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::oci::MTIME;

const MIB: u64 = 1 << 20;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Where the first partition begins, and what the backup GPT gets at the end, MiB.
const MARGIN_MIB: u64 = 1;
/// Boot code in front of the partition table, bytes (UEFI specification 5.2.1).
const BOOT_CODE: usize = 440;
/// The boot code for GPT, of the package syslinux-common.
const GPT_BOOT_CODE: &str = "/usr/lib/syslinux/mbr/gptmbr.bin";

// Fixed, so that builds are reproducible. Nothing tells two test guests apart by these.
const DISK_ID: &str = "5c9f6f0e-2a51-4d9e-8b1c-6b75626576a0";
const ESP_ID: &str = "5c9f6f0e-2a51-4d9e-8b1c-6b75626576a1";
const ROOT_ID: &str = "5c9f6f0e-2a51-4d9e-8b1c-6b75626576a2";
const ROOT_FS_ID: &str = "5c9f6f0e-2a51-4d9e-8b1c-6b75626576a3";
const ESP_SERIAL: &str = "6b756265";

/// What goes onto a disk.
pub(super) struct Disk {
    /// The kernel, an EFI stub in it.
    pub(super) kernel: PathBuf,
    /// Its initramfs.
    pub(super) initramfs: PathBuf,
    /// Its command line.
    pub(super) command_line: String,
    /// systemd-boot for x86-64.
    pub(super) efi_loader: PathBuf,
    /// Size of the EFI system partition, MiB.
    pub(super) esp_mib: u64,
    /// The directory with the root file system's content; owners and modes count.
    pub(super) root: PathBuf,
    /// Label of the root file system.
    pub(super) root_label: &'static str,
    /// Size of the root file system, MiB.
    pub(super) root_mib: u64,
}

impl Disk {
    /// Writes the disk to `out`; `work` holds what is needed meanwhile.
    pub(super) fn write(&self, out: &Path, work: &Path) -> Result<()> {
        let (esp, root) = (work.join("esp.img"), work.join("root.img"));
        self.write_esp(&esp)
            .context("make the EFI system partition")?;
        self.write_root(&root)
            .context("make the root file system")?;

        let (esp_at, root_at) = (MARGIN_MIB, MARGIN_MIB + self.esp_mib);
        sized(out, root_at + self.root_mib + MARGIN_MIB)?;
        self.partition(out)?;
        for (image, at) in [(&esp, esp_at), (&root, root_at)] {
            command::run(
                Command::new("dd")
                    .arg(format!("if={}", image.display()))
                    .arg(format!("of={}", out.display()))
                    .args(["bs=1M", "conv=notrunc,sparse", "status=none"])
                    .arg(format!("seek={at}")),
            )?;
        }
        let code = std::fs::read(GPT_BOOT_CODE)
            .with_context(|| format!("read {GPT_BOOT_CODE} (of the package syslinux-common)"))?;
        ensure!(
            code.len() <= BOOT_CODE,
            "{GPT_BOOT_CODE} does not fit before the partitions"
        );
        let mut disk = File::options().write(true).open(out)?;
        disk.seek(SeekFrom::Start(0))?;
        disk.write_all(&code)?;
        Ok(())
    }

    fn partition(&self, out: &Path) -> Result<()> {
        let (esp_at, root_at) = (MARGIN_MIB, MARGIN_MIB + self.esp_mib);
        let script = out.with_extension("sfdisk");
        std::fs::write(
            &script,
            format!(
                "label: gpt\nlabel-id: {DISK_ID}\n\
                 start={esp_at}MiB, size={}MiB, type=U, uuid={ESP_ID}, attrs=LegacyBIOSBootable\n\
                 start={root_at}MiB, size={}MiB, type=L, uuid={ROOT_ID}\n",
                self.esp_mib, self.root_mib
            ),
        )?;
        command::run(
            Command::new("sh")
                .args([
                    "-c",
                    "exec sfdisk --quiet --no-reread --no-tell-kernel \"$1\" <\"$2\"",
                    "sh",
                ])
                .args([out, &script]),
        )?;
        Ok(std::fs::remove_file(script)?)
    }

    fn write_esp(&self, esp: &Path) -> Result<()> {
        sized(esp, self.esp_mib)?;
        command::run(
            mtool("mformat", esp)
                .args(["-T", &(self.esp_mib * MIB / SECTOR).to_string()])
                .args(["-h", "64", "-s", "32"])
                .args(["-H", &(MARGIN_MIB * MIB / SECTOR).to_string()])
                .args(["-v", "ESP", "-N", ESP_SERIAL, "::"]),
        )?;
        command::run(mtool("mmd", esp).args([
            "::EFI",
            "::EFI/BOOT",
            "::loader",
            "::loader/entries",
        ]))?;
        let texts = [
            (
                "::syslinux.cfg",
                format!(
                    "DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX /vmlinuz\n  \
                     INITRD /initrd\n  APPEND {}\n",
                    self.command_line
                ),
            ),
            (
                "::loader/loader.conf",
                "default linux\ntimeout 0\n".to_owned(),
            ),
            (
                "::loader/entries/linux.conf",
                format!(
                    "title linux\nlinux /vmlinuz\ninitrd /initrd\noptions {}\n",
                    self.command_line
                ),
            ),
        ];
        let text = esp.with_extension("text");
        for (path, content) in &texts {
            std::fs::write(&text, content)?;
            command::run(mtool("mcopy", esp).arg(&text).arg(path))?;
        }
        let files = [
            ("::vmlinuz", &self.kernel),
            ("::initrd", &self.initramfs),
            ("::EFI/BOOT/BOOTX64.EFI", &self.efi_loader),
        ];
        for (path, source) in files {
            command::run(mtool("mcopy", esp).arg(source).arg(path))?;
        }
        command::run(reproducible("syslinux").arg("--install").arg(esp))
    }

    fn write_root(&self, image: &Path) -> Result<()> {
        sized(image, self.root_mib)?;
        command::run(
            Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"])
                .args(["-L", self.root_label, "-U", ROOT_FS_ID])
                .args([
                    "-E",
                    &format!("hash_seed={ROOT_FS_ID},root_owner=0:0,lazy_itable_init=0"),
                ])
                .arg("-d")
                .args([&self.root, image])
                .env("E2FSPROGS_FAKE_TIME", MTIME.to_string()),
        )?;
        self.pin_times(image)
    }

    /// mke2fs takes all times from the host's files, that of the last change too, which nobody can
    /// set there.
    fn pin_times(&self, image: &Path) -> Result<()> {
        // How much was ever written depends on how the host lays out its own files.
        let mut script = "set_super_value kbytes_written 0\n".to_owned();
        for entry in walkdir::WalkDir::new(&self.root) {
            let entry = entry?;
            let path = entry.path().strip_prefix(&self.root)?.display();
            for field in ["atime", "ctime", "mtime", "crtime"] {
                writeln!(script, "set_inode_field \"/{path}\" {field} @{MTIME}")?;
                writeln!(script, "set_inode_field \"/{path}\" {field}_extra 0")?;
            }
        }
        let file = image.with_extension("debugfs");
        std::fs::write(&file, script)?;
        command::run(
            Command::new("debugfs")
                .arg("-w")
                .arg("-f")
                .args([&file, image])
                .env("E2FSPROGS_FAKE_TIME", MTIME.to_string()),
        )
    }
}

/// A sparse file of this size.
fn sized(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    Ok(file.set_len(mib * MIB)?)
}

fn mtool(program: &str, image: &Path) -> Command {
    let mut command = reproducible(program);
    command.arg("-i").arg(image);
    command
}

fn reproducible(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("SOURCE_DATE_EPOCH", MTIME.to_string())
        // The partition ends where it ends; mtools wants whole tracks.
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("TZ", "UTC");
    command
}
