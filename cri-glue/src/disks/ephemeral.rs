//! A claim that is only read: what the guest writes is in an overlay of the machine's own.

use qemu_driver::image;
use qemu_driver::machine::{DiskFile, DiskImage, Format};
use vm_api::machine::{DiskKind, MachineDisk};

use super::{DiskError, Opened, Sources, of_claim};

/// Opens the claim for reading, and makes the overlay unless the guest cannot write anyway.
///
/// Several machines may read one claim. While they do, none of this node writes to its `disk.img`; a
/// block device is nobody's alone.
pub(super) fn open(disk: &MachineDisk<'_>, sources: &mut Sources<'_>) -> Result<Opened, DiskError> {
    let base = MachineDisk {
        read_only: true,
        shareable: true,
        ..disk.clone()
    };
    let opened = of_claim(&base, sources)?;
    if disk.read_only || disk.kind == DiskKind::Cdrom {
        return Ok(opened);
    }
    let (base, base_format) = match opened.image {
        DiskImage::File { file, format } => (file, format),
        DiskImage::BlockDevice(device) => (device, Format::Raw),
        other => return Ok(Opened::cached(other)),
    };
    let size = image::raw_size(&base).map_err(DiskError::image(disk.name))?;
    let overlay = sources.scratch(disk.name, "qcow2")?;
    image::create_overlay(&overlay, size).map_err(DiskError::image(disk.name))?;
    Ok(Opened::cached(DiskImage::Overlay {
        base,
        base_format,
        overlay: DiskFile::new(overlay)?,
    }))
}
