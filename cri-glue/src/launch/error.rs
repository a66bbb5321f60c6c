//! Why a machine was not launched.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use qemu_driver::machine::{MachineError, Name};
use qemu_driver::qmp::QmpError;
use vm_api::contract::{DISK_DIRECTORY, VMI_SPEC_ANNOTATION, VOLUME_SIZES_ANNOTATION};
use vm_api::field::FieldError;

use super::processors::ProcessorsError;
use crate::config::AcceleratorChoice;
use crate::credentials::CredentialError;
use crate::disks::DiskError;
use crate::helper::{HelperError, ShareError};
use crate::host_devices::HostDeviceError;
use crate::images::ImagesError;
use crate::jail::JailError;
use crate::kernel::KernelError;
use crate::machine::BuildError;
use crate::mounts::MountError;
use crate::nic::NicError;
use crate::overhead::DoesNotFit;
use crate::pinning::PinningError;
use crate::runtime::RuntimeError;
use crate::state::StateError;
use crate::uid::UidError;
use crate::user_namespace::NotMapped;
use crate::vsock::VsockError;
use crate::wish::WishError;

/// Why a machine was not launched.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum LaunchError {
    #[error(
        "QEMU is not on this node: {} in {} ({source}); install it, or set qemu.root and qemu.path \
         in the node's configuration", path.display(), root.display()
    )]
    NoQemu {
        root: PathBuf,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "no disk in the image and none in the spec: put one under {DISK_DIRECTORY}, name a volume in \
         the annotation {VMI_SPEC_ANNOTATION}, or give an interface a bootOrder to boot from the \
         network"
    )]
    NoDisk,
    #[error(
        "UEFI firmware is not on this node: {} in {} ({source}); install it, or set {key} in the \
         node's configuration", path.display(), root.display()
    )]
    NoFirmware {
        root: PathBuf,
        path: PathBuf,
        key: &'static str,
        source: io::Error,
    },
    #[error("the node's configuration asks for {choice:?}, but {reason}")]
    Accelerator {
        choice: AcceleratorChoice,
        reason: String,
    },
    #[error("cannot find out whether the node has KVM: {0}")]
    Detect(io::Error),
    #[error("annotation {VOLUME_SIZES_ANNOTATION}: {0}")]
    VolumeSizes(String),
    #[error("QEMU did not get ready to start its guest: {error}{}{}", if said.is_empty() { "" } else { "; it said: " }, said.join("; "))]
    Qemu { error: QmpError, said: Vec<String> },
    #[error(
        "QEMU did not get ready within {} seconds: before that it {work}, {} MiB; use a node that is \
         less busy, or give the machine less memory",
        bound.as_secs(), bytes >> 20
    )]
    Slow {
        work: &'static str,
        bytes: u64,
        bound: Duration,
    },
    #[error("cannot take the link of interface {name} down: {error}")]
    Link { name: Name, error: QmpError },
    #[error("{name} does not serve the machine: {}", said.join("; "))]
    Helper { name: String, said: Vec<String> },
    #[error("QEMU did not open the tray of a drive: {0}")]
    Tray(QmpError),
    #[error("cannot write the record {}: {source}", path.display())]
    Record { path: PathBuf, source: io::Error },
    #[error("cannot look into the container's root {}: {source}", rootfs.display())]
    Rootfs { rootfs: PathBuf, source: io::Error },
    #[error("cannot make a pipe for QEMU's messages: {0}")]
    Pipe(io::Error),
    #[error("cannot make QEMU's sockets: {0}")]
    Sockets(io::Error),
    #[error(
        "the machine's volumes and network were not ready within {} seconds: is a claim's server \
         not answering?", .0.as_secs()
    )]
    Stuck(Duration),
    #[error(
        "an earlier try to make this pod's machine still waits for a volume: if the server of its \
         claim does not answer again, delete the pod"
    )]
    StillStuck,
    #[error("cannot start a thread for the launch: {0}")]
    Thread(io::Error),
    #[error("the launch was cut off")]
    CutOff,
    #[error("the launch was cut off: {0}")]
    Panic(#[from] tokio::task::JoinError),
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Fits(#[from] DoesNotFit),
    #[error(transparent)]
    Uid(#[from] UidError),
    #[error(transparent)]
    User(#[from] NotMapped),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    NoHelper(#[from] HelperError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Nic(#[from] NicError),
    #[error(transparent)]
    Vsock(#[from] VsockError),
    #[error(transparent)]
    HostDevice(#[from] HostDeviceError),
    #[error(transparent)]
    Processors(#[from] ProcessorsError),
    #[error(transparent)]
    Pinning(#[from] PinningError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl From<Vec<FieldError>> for LaunchError {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Wish(errors.into())
    }
}

impl From<FieldError> for LaunchError {
    fn from(error: FieldError) -> Self {
        Self::Wish(error.into())
    }
}
