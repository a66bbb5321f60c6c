//! Disks that only ever exist in memory: their content never lies on the node.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Who may change such a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nobody any more.
    ReadOnly,
    /// The guest, for as long as the machine lives; it stays as large as it is.
    ReadWrite,
}

/// Makes a disk with this content.
pub(super) fn make(content: &[u8], access: Access) -> io::Result<File> {
    let memory = memfd_create("disk", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    memory.write_all(content)?;
    let mut seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    if access == Access::ReadWrite {
        fcntl_add_seals(&memory, seals)?;
        return Ok(memory);
    }
    seals |= SealFlags::WRITE;
    fcntl_add_seals(&memory, seals)?;
    // Anew, because the access mode of the descriptor decides whether the guest may write.
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_disk_keeps_its_size_and_maybe_its_content() {
        let anew = |disk: &File| {
            let path = format!("/proc/self/fd/{}", disk.as_raw_fd());
            File::options().read(true).write(true).open(path)
        };
        let sealed = make(b"content", Access::ReadOnly).unwrap();
        assert!(sealed.write_at(b"x", 0).is_err());
        assert!(anew(&sealed).unwrap().write_at(b"x", 0).is_err());
        let open = make(b"content", Access::ReadWrite).unwrap();
        assert!(open.write_at(b"C", 0).is_ok());
        assert!(open.set_len(100).is_err() && open.set_len(1).is_err());
        let mut read = [0; 7];
        open.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"Content");
    }
}
