//! Reading an image by offset, through a descriptor whose position nobody relies on.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;

use nix::sys::uio::pread;

use super::{ImageError, unreadable};

/// An image to read from: its descriptor and its size.
pub(super) struct Source<'a> {
    fd: BorrowedFd<'a>,
    size: u64,
}

impl<'a> Source<'a> {
    /// `fd` is a regular file or a block device.
    pub(super) fn of(fd: BorrowedFd<'a>) -> Result<Self, ImageError> {
        let what = "its size";
        // A copy, since a `File` closes its descriptor.
        let mut file = File::from(fd.try_clone_to_owned().map_err(unreadable(what))?);
        let metadata = file.metadata().map_err(unreadable(what))?;
        let kind = metadata.file_type();
        let size = if kind.is_file() {
            metadata.len()
        } else if kind.is_block_device() {
            file.seek(SeekFrom::End(0)).map_err(unreadable(what))?
        } else if kind.is_dir() {
            return Err(ImageError::Kind(", but a directory"));
        } else {
            return Err(ImageError::Kind(", but a device, a socket or a pipe"));
        };
        Ok(Self { fd, size })
    }

    /// The size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` with `what`, which must lie within the image.
    pub(super) fn read(
        &self,
        offset: u64,
        buffer: &mut [u8],
        what: &'static str,
    ) -> Result<(), ImageError> {
        self.check(offset, buffer.len() as u64, what)?;
        let mut done = 0;
        while done < buffer.len() {
            // `check` bounds it by a file's size, which is an `off_t`.
            let at = (offset + done as u64) as i64;
            match pread(self.fd.as_fd(), &mut buffer[done..], at) {
                // It became shorter since its size was taken.
                Ok(0) => return Err(unreadable(what)(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => done += read,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(unreadable(what)(errno.into())),
            }
        }
        Ok(())
    }

    /// Refuses an image in which `length` bytes at `offset` do not fit.
    pub(super) fn check(
        &self,
        offset: u64,
        length: u64,
        what: &'static str,
    ) -> Result<(), ImageError> {
        let end = offset.saturating_add(length);
        if end > self.size {
            return Err(ImageError::Truncated {
                what,
                end,
                size: self.size,
            });
        }
        Ok(())
    }
}
