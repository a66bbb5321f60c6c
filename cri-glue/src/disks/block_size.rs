//! Block sizes of what a volume lies on, for a guest that shall write as the medium does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use qemu_driver::machine::{BlockSizes, DiskFile, DiskImage};
use rustix::fs::{major, minor};
use vm_api::machine::BLOCK_BYTES;

use super::DiskError;

/// The sizes of the file or block device below `image`.
pub(super) fn of_image(name: &str, image: &DiskImage) -> Result<BlockSizes, DiskError> {
    let failed = |source| DiskError::BlockSize {
        name: name.to_owned(),
        source,
    };
    let file = match image {
        DiskImage::File { file, .. } | DiskImage::BlockDevice(file) => file,
        DiskImage::Overlay { base, .. } => base,
        DiskImage::Empty => return Err(failed(io::Error::other("there is no medium"))),
    };
    let (logical, physical) = sizes(file).map_err(failed)?;
    Ok(BlockSizes::new(logical, physical, None)?)
}

/// Logical and physical size, in bytes.
fn sizes(file: &DiskFile) -> io::Result<(u32, u32)> {
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    let (logical, physical) = if file.is_block_device() {
        let device = metadata.rdev();
        let read = |what| queue(major(device), minor(device), what);
        (read("logical_block_size")?, read("physical_block_size")?)
    } else {
        // What its file system calls the size for efficient input and output.
        (metadata.blksize(), metadata.blksize())
    };
    let fit = |size: u64| {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let size = size.clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end());
        // The next smaller power of two.
        1 << size.ilog2()
    };
    let (logical, physical) = (fit(logical), fit(physical));
    Ok((logical, physical.max(logical)))
}

/// A number that the kernel tells of the queue of a block device; a partition has its disk's.
fn queue(major: u32, minor: u32, what: &str) -> io::Result<u64> {
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let text = std::fs::read_to_string(device.join("queue").join(what))
        .or_else(|_| std::fs::read_to_string(device.join("../queue").join(what)))?;
    text.trim().parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use qemu_driver::machine::Format;

    use super::*;

    #[test]
    fn a_file_has_the_size_of_its_file_system() {
        let file = tempfile::tempfile().unwrap();
        let expected = file.metadata().unwrap().blksize();
        let image = DiskImage::File {
            file: DiskFile::new(file).unwrap(),
            format: Format::Raw,
        };
        let sizes = of_image("a", &image).unwrap();
        assert_eq!(u64::from(sizes.logical()), expected);
        assert_eq!(u64::from(sizes.physical()), expected);
        let error = of_image("a", &DiskImage::Empty).unwrap_err().to_string();
        assert!(error.contains("no medium"), "{error}");
    }
}
