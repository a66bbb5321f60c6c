//! A kernel that the firmware starts instead of what is on a disk.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::MachineError;

/// A kernel, and what it is started with.
#[derive(Debug)]
pub struct Kernel {
    kernel: File,
    initrd: Option<File>,
    arguments: String,
}

impl Kernel {
    /// `kernel` and `initrd` are regular files opened for reading. **QEMU opens them anew** by
    /// `/proc/self/fd`, so that its user must be able to read them. `arguments` is the command line,
    /// without control characters.
    pub fn new(
        kernel: File,
        initrd: Option<File>,
        arguments: impl Into<String>,
    ) -> Result<Self, MachineError> {
        let arguments = arguments.into();
        if arguments.contains(char::is_control) {
            return Err(MachineError::KernelArguments);
        }
        for file in [Some(&kernel), initrd.as_ref()].into_iter().flatten() {
            let kind = file.metadata();
            let kind = kind.map_err(|source| MachineError::DiskFile { source })?;
            if !kind.is_file() {
                return Err(MachineError::DiskFileKind(kind.file_type()));
            }
        }
        Ok(Self {
            kernel,
            initrd,
            arguments,
        })
    }

    pub(crate) fn into_parts(self) -> (OwnedFd, Option<OwnedFd>, String) {
        (
            self.kernel.into(),
            self.initrd.map(OwnedFd::from),
            self.arguments,
        )
    }
}
