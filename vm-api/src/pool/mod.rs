//! `pool.kubevirt.io`: the VirtualMachinePool, so many machines of one template, field for field as
//! KubeVirt has it. The API is served in two versions of the same content.

#[cfg(feature = "schema")]
mod resource;
mod strategy;
mod virtual_machine_pool;

pub use strategy::*;
pub use virtual_machine_pool::*;

/// The API group.
pub const GROUP: &str = "pool.kubevirt.io";

/// Version of the API in which objects are stored.
pub const VERSION: &str = "v1beta1";

/// The older version, with the same content.
pub const OLD_VERSION: &str = "v1alpha1";

/// The value of `apiVersion`.
pub const API_VERSION: &str = "pool.kubevirt.io/v1beta1";
