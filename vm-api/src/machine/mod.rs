//! What a spec asks of a machine, read into types that cannot be wrong.
//!
//! The controller (which plans the pod) and the shim (which builds the machine) read a spec through
//! here alone, so that both mean the same. Errors carry paths relative to the spec.

mod beside;
mod block_size;
mod clock;
mod cpu_features;
mod credentials;
mod dhcp;
mod disks;
mod features;
mod filesystems;
mod firmware;
mod host_devices;
mod host_disk;
mod hugepages;
mod identity;
mod interfaces;
mod io_threads;
mod kernel;
mod mac;
mod memory;
mod peripherals;
mod probes;
mod processors;
mod start;
mod tpm;
mod volumes;
mod watchdog;

pub use beside::Beside;
pub use block_size::{BLOCK_BYTES, BlockSize};
pub use clock::{ClockBase, MachineClock, TickPolicy, Track, clock};
pub use cpu_features::{MachineCpuFeature, cpu_features};
pub use credentials::{CredentialKind, MachineCredential, credentials};
pub use dhcp::MachineDhcp;
pub(crate) use dhcp::PRIVATE_OPTIONS;
pub use disks::{Cache, DiskBus, DiskKind, ErrorPolicy, Io, MachineDisk, Tray, disks};
pub use features::{Enlightenment, Hyperv, MachineFeatures, features, of_kvm, with_needs};
pub use filesystems::{MAXIMUM_FILESYSTEMS, MAXIMUM_TAG_BYTES, MachineFilesystem, filesystems};
pub use firmware::{Bootloader, bootloader};
pub use host_devices::{HostDevice, host_devices};
pub use host_disk::{HostDiskFile, HostDiskType, host_disk};
pub use hugepages::{PageSize, hugepages};
pub use identity::{MachineChassis, chassis, serial_number};
pub use interfaces::{
    Binding, DEFAULT_NETWORK, Inbound, InterfaceModel, LinkState, MAX_ACPI_INDEX, MAX_INTERFACES,
    MachineInterface, MachinePort, Protocol, interfaces, pod_interfaces,
};
pub use io_threads::{IoThreads, IoThreadsPolicy, MAXIMUM_IO_THREADS, io_threads};
pub use kernel::{KernelBoot, kernel_boot};
pub use mac::{MacAddress, MacError};
pub use memory::{MIN_FOR_ROOM, guest_memory_bytes, max_guest_memory_bytes, room_for_memory};
pub use peripherals::{
    InputBus, InputType, MachineInput, PanicModel, SoundModel, Video, inputs, panic_devices, sound,
    video,
};
pub use probes::{Check, check, probes};
pub use processors::{Dedicated, GROWTH, Topology, dedicated, max_sockets, topology};
pub use start::starts_paused;
pub use tpm::{keeps_state, tpm, tpm_persists};
pub use volumes::{Datum, NETWORK_DATA_KEY, USER_DATA_KEY, VolumeSource, cloud_init, source};
pub use watchdog::{WatchdogAction, watchdog};
