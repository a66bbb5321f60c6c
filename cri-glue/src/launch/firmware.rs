//! The firmware that boots the machine, with variables of the machine's own.

use std::io;
use std::path::{Path, PathBuf};

use qemu_driver::machine::{DiskFile, Firmware, Uefi};
use vm_api::machine::{self, Bootloader};
use vm_api::v1::VirtualMachineInstanceSpec;

use super::{LaunchError, Request};
use crate::beneath::Directory;
use crate::disks::Scratch;
use crate::identity::Identity;
use crate::record::Record;
use crate::state::StateClaim;

/// The most bytes of a template of UEFI variables.
const MAX_UEFI_VARS_BYTES: u64 = 16 << 20;

/// The firmware that `spec` asks for. Its variables are a copy of the node's template: in the
/// container's writable layer, or in `state` where they outlive the pod.
pub(super) fn firmware(
    spec: &VirtualMachineInstanceSpec,
    request: &Request,
    owner: &Identity,
    state: Option<&StateClaim<'_>>,
    record: &mut Record,
) -> Result<Firmware, LaunchError> {
    let Bootloader::Uefi {
        secure_boot,
        persistent,
    } = machine::bootloader(spec)?
    else {
        return Ok(Firmware::Bios);
    };
    let qemu = &request.node.qemu;
    let (code, vars, keys) = if secure_boot {
        let keys = ("qemu.uefi-secure-code", "qemu.uefi-secure-vars");
        (&qemu.uefi_secure_code, &qemu.uefi_secure_vars, keys)
    } else {
        let keys = ("qemu.uefi-code", "qemu.uefi-vars");
        (&qemu.uefi_code, &qemu.uefi_vars, keys)
    };
    let missing = |path: &PathBuf, key| {
        let (root, path) = (qemu.root.clone(), path.clone());
        move |source| LaunchError::NoFirmware {
            root,
            path,
            key,
            source,
        }
    };
    let root = Directory::open(&qemu.root).map_err(missing(code, "qemu.root"))?;
    root.read_in_root(code).map_err(missing(code, keys.0))?;
    let template = root.read_in_root(vars).map_err(missing(vars, keys.1))?;
    let mut template = io::Read::take(template, MAX_UEFI_VARS_BYTES);
    let file = match state.filter(|_| persistent) {
        Some(state) => state.uefi_vars(secure_boot, &mut template)?,
        None => {
            let scratch = Scratch {
                rootfs: &request.rootfs,
                container: request.bundle.id(),
                owner,
            };
            let made = scratch.make("uefi", "vars", record);
            let mut file = made.map_err(|source| no_room(&request.rootfs, source))?;
            io::copy(&mut template, &mut file).map_err(missing(vars, keys.1))?;
            file
        }
    };
    let uefi = Uefi::new(code, DiskFile::new(file)?)?;
    Ok(Firmware::Uefi(if secure_boot {
        uefi.with_secure_boot()
    } else {
        uefi
    }))
}

fn no_room(rootfs: &Path, source: io::Error) -> LaunchError {
    LaunchError::Rootfs {
        rootfs: rootfs.to_owned(),
        source,
    }
}
