//! What a spec asks of a machine, read into types that cannot be wrong.
//!
//! The controller (which plans the pod) and the shim (which builds the machine) read a spec through
//! here alone, so that both mean the same. Errors carry paths relative to the spec.

mod beside;
mod disks;
mod filesystems;
mod firmware;
mod host_devices;
mod hugepages;
mod interfaces;
mod mac;
mod memory;
mod processors;
mod tpm;
mod volumes;
mod watchdog;

pub use beside::Beside;
pub use disks::{Cache, DiskBus, DiskKind, Io, MachineDisk, disks};
pub use filesystems::{
    MAXIMUM_FILESYSTEMS, MAXIMUM_TAG_BYTES, MachineFilesystem, filesystems, is_directory,
};
pub use firmware::{Bootloader, bootloader};
pub use host_devices::{HostDevice, host_devices};
pub use hugepages::{PageSize, hugepages};
pub use interfaces::{
    Binding, DEFAULT_NETWORK, Inbound, InterfaceModel, MAX_INTERFACES, MachineInterface,
    MachinePort, Protocol, interfaces, pod_interfaces,
};
pub use mac::{MacAddress, MacError};
pub use memory::{guest_memory_bytes, max_guest_memory_bytes};
pub use processors::{Dedicated, GROWTH, Topology, dedicated, max_sockets, topology};
pub use tpm::tpm;
pub use volumes::{Datum, NETWORK_DATA_KEY, USER_DATA_KEY, VolumeSource, cloud_init, source};
pub use watchdog::{WatchdogAction, watchdog};
