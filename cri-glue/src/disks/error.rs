//! Why a volume cannot be a disk.

use std::io;
use std::path::PathBuf;

use qemu_driver::image::ImageError;
use qemu_driver::machine::MachineError;
use vm_api::contract::{DISK_DIRECTORY, DISK_IMAGE_FILE, VOLUME_SIZES_ANNOTATION};
use vm_api::field::FieldError;

use super::raw_file::Place;
use crate::mounts::MountError;
use crate::seed::SeedError;

/// Why a volume cannot be a disk.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum DiskError {
    #[error(
        "no disk in the image: {DISK_DIRECTORY} must hold exactly one file, the disk of volume \
         {name}"
    )]
    NoDisk { name: String },
    #[error(
        "the image has more than one file in {DISK_DIRECTORY}, {first:?} and {second:?}: leave one, \
         or name it as path of volume {name}"
    )]
    TwoDisks {
        name: String,
        first: String,
        second: String,
    },
    #[error("volume {name}: {path:?} in the image is {kind}, not a regular file")]
    NotAFile {
        name: String,
        path: PathBuf,
        kind: &'static str,
    },
    #[error("volume {name}: cannot open {path:?} in the image: {source}")]
    OpenImage {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("disk {name}: {source}")]
    Image { name: String, source: ImageError },
    #[error("volume {name}: its {place} cannot be opened by user {uid} of the pod: {source}")]
    OpenDirectory {
        name: String,
        place: Place,
        uid: u32,
        source: io::Error,
    },
    #[error("volume {name}: {file:?} in its {place} is {kind}, not a regular file")]
    NotARegularFile {
        name: String,
        place: Place,
        file: String,
        kind: &'static str,
    },
    #[error(
        "volume {name}: there is no {file:?} in its {place}: put the disk there, or have it made \
         (type DiskOrCreate)"
    )]
    NoFile {
        name: String,
        place: Place,
        file: String,
    },
    #[error("volume {name}: what the pod mounts there is not a directory with {DISK_IMAGE_FILE}")]
    NotADirectory { name: String },
    #[error(
        "volume {name}: its claim holds {found:?} but no {DISK_IMAGE_FILE}: name the disk so, or \
         empty the claim to have one made"
    )]
    ClaimNotEmpty { name: String, found: String },
    #[error("volume {name}: there is no {file:?} in its {place}, which is mounted read-only")]
    EmptyReadOnly {
        name: String,
        place: Place,
        file: String,
    },
    #[error(
        "volume {name}: its claim is empty and shares its file system, so that its size is not \
         known: give it in the annotation {VOLUME_SIZES_ANNOTATION}, such as \
         {{\"{name}\": \"10Gi\"}}"
    )]
    UnknownSize { name: String },
    #[error("volume {name}: {size} bytes are too few for a disk")]
    TooSmall { name: String, size: u64 },
    #[error(
        "volume {name}: its disk is in use by another machine of this node: stop that one, or \
         make the disk shareable in both"
    )]
    InUse { name: String },
    #[error("volume {name}: cannot open its block device {major}:{minor}: {source}")]
    OpenDevice {
        name: String,
        major: u32,
        minor: u32,
        source: io::Error,
    },
    #[error("volume {name}: cannot make {}: {source}", path.display())]
    Make {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("volume {name}: {source_name} is not supported")]
    Unsupported {
        name: String,
        source_name: &'static str,
    },
    #[error("volume {name}: capacity: {message}")]
    Capacity { name: String, message: String },
    #[error("volume {name}: cannot make its disk in memory: {source}")]
    Memory { name: String, source: io::Error },
    #[error("volume {name}: what the pod has there is no directory of files")]
    NoSettings { name: String },
    #[error("volume {name}: cannot read {path:?} in it: {source}")]
    Settings {
        name: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "volume {name}: what the pod mounts there is too much for a disk of settings: at most {file} \
         MiB in each file and {all} MiB in all, {entries} files, {depth} directories deep"
    )]
    TooMuch {
        name: String,
        file: u64,
        all: u64,
        entries: usize,
        depth: usize,
    },
    #[error(
        "volume {name}: with it, the machine's disks of seeds and settings have more than {most} MiB in \
         all, of which a file takes 2 KiB at least"
    )]
    TooMuchGenerated { name: String, most: usize },
    #[error(
        "volume {name}: it has no key autounattend.xml or unattend.xml: under these names the set-up of \
         Windows looks for its answers"
    )]
    NoAnswers { name: String },
    #[error(
        "volume {name}: the pod mounts it writable, but an image is only read: mount it as an image \
         volume, or read-only"
    )]
    WritableImage { name: String },
    #[error(
        "volume {name}: its device {major}:{minor} is no SCSI device, which a LUN passes commands to: \
         make it a disk"
    )]
    NotScsi {
        name: String,
        major: u32,
        minor: u32,
    },
    #[error("volume {name}: cannot find out its block size: {source}")]
    BlockSize { name: String, source: io::Error },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("disk {name}: io io_uring is not supported: use native or threads")]
    IoUring { name: String },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl DiskError {
    /// What the image of the disk `name` is refused for.
    pub(super) fn image(name: &str) -> impl FnOnce(ImageError) -> Self {
        let name = name.to_owned();
        |source| Self::Image { name, source }
    }
}
