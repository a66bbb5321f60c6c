//! What the guest starts from before its disk: SeaBIOS or UEFI.

use std::path::{Component, Path, PathBuf};

use super::{DiskFile, MachineError};

/// What the guest starts from before its disk.
#[derive(Debug)]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings along. It prints nothing on the serial console.
    Bios,
    /// UEFI from two flash chips.
    Uefi(Uefi),
}

/// UEFI firmware: code that all machines share, variables of the machine's own.
#[derive(Debug)]
pub struct Uefi {
    code: PathBuf,
    vars: DiskFile,
    secure_boot: bool,
}

impl Uefi {
    /// `code`: absolute path of the raw code image **as QEMU sees it** (within its jail's root),
    /// the one thing that QEMU opens by path. `vars`: the machine's own writable copy of the
    /// variables' template that belongs to `code`.
    pub fn new(code: impl Into<PathBuf>, vars: DiskFile) -> Result<Self, MachineError> {
        let code = code.into();
        if !is_plain_absolute(&code) {
            return Err(MachineError::FirmwarePath(code));
        }
        if !vars.is_writable() {
            return Err(MachineError::FirmwareVarsReadOnly);
        }
        Ok(Self {
            code,
            vars,
            secure_boot: false,
        })
    }

    /// The code was built for secure boot: it guards its variables by System Management Mode,
    /// which the machine then must have.
    pub fn with_secure_boot(mut self) -> Self {
        self.secure_boot = true;
        self
    }

    /// Path of the code image as QEMU sees it.
    pub fn code(&self) -> &Path {
        &self.code
    }

    /// Whether the code needs System Management Mode.
    pub fn secure_boot(&self) -> bool {
        self.secure_boot
    }

    pub(crate) fn into_parts(self) -> (PathBuf, DiskFile) {
        (self.code, self.vars)
    }
}

/// Absolute, UTF-8 (it goes into JSON), and without `..`.
fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path.to_str().is_some()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}
