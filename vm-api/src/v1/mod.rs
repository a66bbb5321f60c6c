//! `kubevirt.io/v1`: VirtualMachine, VirtualMachineInstance and VirtualMachineInstanceReplicaSet,
//! field for field as KubeVirt has them.
//!
//! The types decode everything that the published schema admits: what a value may be is said by
//! [`crate::validate`], and what of it works by [`crate::support`]. What is large and few objects have is
//! boxed: the controller holds thousands of them.

mod access_credentials;
mod backup;
mod clock;
mod condition;
mod data_volume;
mod devices;
mod disk;
mod domain;
mod empty;
mod features;
mod firmware;
mod instance;
mod instance_status;
mod interface;
mod migration_configuration;
mod migration_state;
mod network;
mod probe;
mod replica_set;
#[cfg(feature = "schema")]
mod resource;
mod states;
mod virtual_machine;
mod virtual_machine_status;
mod volume;
mod volume_status;

pub use access_credentials::*;
pub use backup::*;
pub use clock::*;
pub use condition::*;
pub use data_volume::*;
pub use devices::*;
pub use disk::*;
pub use domain::*;
pub use empty::*;
pub use features::*;
pub use firmware::*;
pub use instance::*;
pub use instance_status::*;
pub use interface::*;
pub use migration_configuration::*;
pub use migration_state::*;
pub use network::*;
pub use probe::*;
pub use replica_set::*;
pub use states::*;
pub use virtual_machine::*;
pub use virtual_machine_status::*;
pub use volume::*;
pub use volume_status::*;

/// Version of the API, the part of `apiVersion` after the group.
pub const VERSION: &str = "v1";

/// The older version, with the same content; deprecated, as in KubeVirt.
pub const OLD_VERSION: &str = "v1alpha3";

/// The value of `apiVersion`.
pub const API_VERSION: &str = "kubevirt.io/v1";
