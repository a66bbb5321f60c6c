//! Why a description is not a machine.

use std::fs::FileType;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::{FirmwareText, MAX_VCPUS, MacAddress, Memory, Name, Vendor};

/// Why a description is not a machine.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum MachineError {
    #[error(
        "{of} name {name:?}: use 1 to 63 letters, digits, '.', '_' or '-', \
         beginning with a letter or digit"
    )]
    Name { of: &'static str, name: String },

    #[error("machine type {0:?}: use q35 or a versioned type of it, such as pc-q35-7.2")]
    MachineType(String),

    #[error(
        "{sockets} sockets of {cores} cores of {threads} threads, growing to {max_sockets} \
         sockets: each is at least 1, and a machine has at most {MAX_VCPUS} vCPUs in all"
    )]
    Cpu {
        sockets: u32,
        cores: u32,
        threads: u32,
        max_sockets: u32,
    },

    #[error("the name of the hypervisor {0:?}: use 1 to {most} letters, digits, '.', '_', '-' or spaces", most = Vendor::MAX)]
    Vendor(String),

    #[error("{of} {text:?}: use 1 to {most} printable characters of ASCII", most = FirmwareText::MAX)]
    FirmwareText { of: &'static str, text: String },

    #[error("input {name}: a machine has at most {most} inputs on that bus")]
    TooManyInputs { name: Name, most: usize },

    #[error(
        "interface {name}: an ACPI index is between 1 and {}",
        super::MAX_ACPI_INDEX
    )]
    AcpiIndex { name: Name },

    #[error("CPU model or feature {0:?}: use 1 to 63 letters, digits, '.', '_' or '-'")]
    CpuWord(String),

    #[error(
        "guest memory of {bytes} bytes: a machine has between {} MiB and {} MiB",
        Memory::MIN >> 20, Memory::MAX >> 20
    )]
    Memory { bytes: u64 },

    #[error(
        "guest memory of {} MiB is no multiple of huge pages of {} MiB", bytes >> 20, page >> 20
    )]
    NotWholePages { bytes: u64, page: u64 },

    #[error("firmware {0:?}: use an absolute UTF-8 path without '..', as QEMU sees it")]
    FirmwarePath(PathBuf),

    #[error("the firmware's variables must be opened read-write: make a copy for the machine")]
    FirmwareVarsReadOnly,

    #[error("disk {name}: {why}")]
    Disk { name: Name, why: &'static str },

    #[error(
        "disk {name}: serial number {serial:?}: use 1 to {most} letters, digits, \
         '.', '_', '+' or '-'"
    )]
    Serial {
        name: Name,
        serial: String,
        most: usize,
    },

    #[error(
        "block sizes of {logical} and {physical} bytes: use powers of two from 512 bytes to 2 MiB, the \
         logical one not above the physical one, and discard multiples of it"
    )]
    BlockSizes { logical: u32, physical: u32 },

    #[error("the kernel's command line has control characters: leave them out")]
    KernelArguments,

    #[error("disk {name}: the machine has {most} disks on that bus already; use another bus")]
    TooManyDisks { name: Name, most: usize },

    #[error("the disk's descriptor cannot be used: {source}")]
    DiskFile { source: std::io::Error },

    #[error("a disk is a regular file or a block device, not {0:?}")]
    DiskFileKind(FileType),

    #[error("the disk was opened {0}: open it read-only or read-write")]
    DiskFileAccess(&'static str),

    #[error("MAC address {0:?}: use six hexadecimal bytes such as 52:54:00:12:34:56, no group's")]
    Mac(String),

    #[error("interface {name}: {why}")]
    Nic { name: Name, why: &'static str },

    #[error("interface {name}: {queues} queues: its model takes 1 to {most}")]
    NicQueues {
        name: Name,
        queues: usize,
        most: usize,
    },

    #[error("interface {name}: a machine has at most {most} interfaces")]
    TooManyNics { name: Name, most: usize },

    #[error("PCI address {0:?}: write it as 0000:3b:00.0")]
    PciAddress(String),

    #[error("device {name}: a machine has at most {most} devices of its node")]
    TooManyHostDevices { name: Name, most: usize },

    #[error("interface {name}: its MAC address {mac} is another interface's already")]
    DuplicateMac { name: Name, mac: MacAddress },

    #[error("shared directory {tag}: a tag has at most {most} bytes")]
    LongTag { tag: Name, most: usize },

    #[error("shared directory {tag}: a machine has at most {most} shared directories")]
    TooManyFilesystems { tag: Name, most: usize },

    #[error("{of} {name}: the machine has one of that name already")]
    Duplicate { of: &'static str, name: Name },

    #[error("{name}: boot order {index} is {other}'s already; each place is taken once")]
    BootIndex {
        index: NonZeroU32,
        name: Name,
        other: Name,
    },
}
