//! Why an image is refused.

use super::MAX_VIRTUAL_SIZE;

/// Why an image is refused, or could not be read or made. The messages go on after the name of the
/// disk.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum ImageError {
    #[error("the image is not a regular file{0}")]
    Kind(&'static str),

    #[error("the image is empty: it holds no disk")]
    Empty,

    #[error(
        "the disk would have {size} bytes, more than the {MAX_VIRTUAL_SIZE} that a machine's disk \
         can have"
    )]
    TooLarge { size: u64 },

    #[error(
        "the disk has {size} bytes, which is no multiple of 512: if it is whole, fill it up with \
         `truncate --size=%512`, else get it again"
    )]
    Unaligned { size: u64 },

    #[error(
        "the image is {0}: make it raw or qcow2 with `qemu-img convert`, not compressed as a whole"
    )]
    ForeignFormat(&'static str),

    #[error(
        "the qcow2 image is truncated: {what} ends at byte {end}, the file at {size}; get it again"
    )]
    Truncated {
        what: &'static str,
        end: u64,
        size: u64,
    },

    #[error(
        "the qcow2 image has a backing file, which would be a path on the node: flatten it with \
         `qemu-img convert -O qcow2`"
    )]
    BackingFile,

    #[error(
        "the qcow2 image keeps its data in another file, which would be a path on the node: \
         flatten it with `qemu-img convert -O qcow2`"
    )]
    DataFile,

    #[error("the qcow2 image is encrypted: decrypt it with `qemu-img convert -O qcow2`")]
    Encrypted,

    #[error("the qcow2 image is marked as corrupt: mend it with `qemu-img check -r all`")]
    Corrupt,

    #[error(
        "the qcow2 image needs features that are not known here (bits {bits:#x}): write it anew \
         with `qemu-img convert -O qcow2`"
    )]
    Features { bits: u64 },

    #[error(
        "the qcow2 image holds {what}, which a machine has no use for: drop them with `qemu-img \
         convert -O qcow2`"
    )]
    Burden { what: &'static str },

    #[error("the qcow2 image is damaged: {what} is {value}, which cannot be; get it again")]
    Header { what: &'static str, value: u64 },

    #[error("the file for a new disk is not empty: it has {size} bytes")]
    NotEmpty { size: u64 },

    #[error("reading the image ({what}): {source}")]
    Read {
        what: &'static str,
        source: std::io::Error,
    },

    #[error("writing the image: {source}")]
    Write { source: std::io::Error },
}
