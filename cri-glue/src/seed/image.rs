//! A small read-only FAT file system in memory.

use std::fs::File;
use std::io::{self, Cursor, Write};
use std::os::fd::AsRawFd;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The label by which cloud-init finds its seed.
const LABEL: [u8; 11] = *b"cidata     ";

/// Room beside the files: tables and directory.
const SLACK_BYTES: usize = 256 << 10;

/// A whole number of these is the size of the image.
const GRAIN_BYTES: usize = 64 << 10;

/// Makes an image with `files` in its root. It cannot be changed any more, by nobody.
pub(super) fn make(files: &[(&str, Vec<u8>)]) -> io::Result<File> {
    let content: usize = files.iter().map(|(_, data)| data.len()).sum();
    let size = (content + SLACK_BYTES).next_multiple_of(GRAIN_BYTES);
    let mut image = Cursor::new(vec![0; size]);
    format_volume(&mut image, FormatVolumeOptions::new().volume_label(LABEL))?;
    let file_system = FileSystem::new(&mut image, FsOptions::new())?;
    for (name, data) in files {
        file_system.root_dir().create_file(name)?.write_all(data)?;
    }
    file_system.unmount()?;

    let memory = memfd_create("seed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    memory.write_all(image.get_ref())?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&memory, all)?;
    // Anew, because the access mode of the descriptor decides whether the guest may write.
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}
