//! Disk images from descriptors, read with suspicion: whoever built an image may want QEMU to read
//! other files, to eat memory, or to crash.
//!
//! [`inspect`] decides on the format of an image **that came as a whole from its author** (a
//! containerDisk, read-only). An image that a guest has written to must never be inspected: the
//! guest could have written a qcow2 header into its raw disk. For those, [`raw_size`] says how
//! large they are, and they are [`Format::Raw`] whatever they contain.

mod error;
mod qcow2;
mod read;
mod tables;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

pub use crate::machine::Format;
pub use error::ImageError;
use read::Source;

/// The unit of a disk's size, in bytes.
pub const SECTOR: u64 = 512;

/// The largest disk: what a qcow2 overlay of our making holds with an L1 table of 1 MiB.
pub const MAX_VIRTUAL_SIZE: u64 = 64 << 40;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its format.
    pub format: Format,
    /// The size of the disk in it, in bytes: a multiple of [`SECTOR`], at most
    /// [`MAX_VIRTUAL_SIZE`].
    pub virtual_size: u64,
}

/// Decides what the image `file` (a regular file opened for reading) is: qcow2 if it begins with
/// that format's magic, raw otherwise, and refuses what QEMU must not be given: see [`ImageError`].
/// Only for images that no guest has written to.
pub fn inspect(file: impl AsFd) -> Result<ImageInfo, ImageError> {
    inspect_source(&Source::of(file.as_fd())?)
}

fn inspect_source(source: &Source<'_>) -> Result<ImageInfo, ImageError> {
    let mut magic = [0; 8];
    let known = source.size().min(8) as usize;
    source.read(0, &mut magic[..known], "its beginning")?;
    if magic.starts_with(&qcow2::MAGIC) {
        let virtual_size = qcow2::inspect(source)?;
        return Ok(ImageInfo {
            format: Format::Qcow2,
            virtual_size,
        });
    }
    if let Some((_, format)) = FOREIGN
        .iter()
        .find(|(foreign, _)| magic.starts_with(foreign))
    {
        return Err(ImageError::ForeignFormat(format));
    }
    Ok(ImageInfo {
        format: Format::Raw,
        virtual_size: checked_raw_size(source.size())?,
    })
}

/// Beginnings of files that would boot nothing if they were taken for raw disks.
const FOREIGN: [(&[u8], &str); 9] = [
    (b"KDMV", "a VMDK image"),
    (b"COWD", "a VMDK image"),
    (b"# Disk D", "a VMDK descriptor"),
    (b"vhdxfile", "a VHDX image"),
    (b"conectix", "a VHD image"),
    (b"<<< ", "a VDI image"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
];

/// The size of the raw disk in `file` (a regular file or block device), in bytes.
pub fn raw_size(file: impl AsFd) -> Result<u64, ImageError> {
    checked_raw_size(Source::of(file.as_fd())?.size())
}

fn checked_raw_size(size: u64) -> Result<u64, ImageError> {
    match size {
        0 => Err(ImageError::Empty),
        size if size > MAX_VIRTUAL_SIZE => Err(ImageError::TooLarge { size }),
        size if !size.is_multiple_of(SECTOR) => Err(ImageError::Unaligned { size }),
        size => Ok(size),
    }
}

/// Makes `file`, empty and opened read-write, an empty qcow2 image of `virtual_size` bytes (a
/// multiple of [`SECTOR`]). Its header names no backing file: give the base to QEMU
/// ([`DiskImage::Overlay`](crate::machine::DiskImage::Overlay)).
pub fn create_overlay(file: &File, virtual_size: u64) -> Result<(), ImageError> {
    let size = checked_raw_size(virtual_size)?;
    check_empty(file)?;
    let write = |source| ImageError::Write { source };
    let (metadata, length) = qcow2::empty(size);
    file.set_len(length).map_err(write)?;
    metadata
        .iter()
        .try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
        .map_err(write)
}

/// Makes `file`, empty and opened read-write, a raw disk of `size` bytes (a multiple of
/// [`SECTOR`]) that takes no space yet.
pub fn create_raw(file: &File, size: u64) -> Result<(), ImageError> {
    let size = checked_raw_size(size)?;
    check_empty(file)?;
    file.set_len(size)
        .map_err(|source| ImageError::Write { source })
}

fn check_empty(file: &File) -> Result<(), ImageError> {
    let metadata = file.metadata().map_err(|source| ImageError::Read {
        what: "its size",
        source,
    })?;
    if metadata.len() == 0 {
        Ok(())
    } else {
        Err(ImageError::NotEmpty {
            size: metadata.len(),
        })
    }
}

/// An error of input or output as [`Source`] reports it.
fn unreadable(what: &'static str) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Read { what, source }
}

#[cfg(test)]
mod tests;
