//! What a valid machine is, stated once for its three doors: admission, the controller and the shim.
//!
//! Verdicts and paths follow KubeVirt's admission. That a valid field also works is the concern of
//! [`crate::support`].

mod crowded;
mod dedicated;
mod devices;
mod machine;
mod names;
mod pod;
mod resources;
mod volumes;

pub(crate) use crowded::crowded;
pub use machine::machine;
pub use pod::{Architecture, DnsPolicy, EvictionStrategy, StartStrategy};
pub use resources::CpuFeaturePolicy;
pub use volumes::{MAXIMUM_SEED_BYTES, MAXIMUM_VOLUMES, PullPolicy};

use crate::field::{FieldError, sorted};
use crate::v1::VirtualMachineInstanceSpec;

/// What is wrong with an instance.
pub fn instance(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = annotation(spec);
    errors.extend(resources::memory_missing(spec));
    sorted(errors)
}

/// What is wrong with the part of an instance that a pod's annotation carries: what it leaves out,
/// such as memory, comes from the pod.
pub fn annotation(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = crowded(spec);
    if !errors.is_empty() {
        return errors;
    }
    errors.extend(resources::check(spec));
    errors.extend(dedicated::check(spec));
    errors.extend(devices::check(spec));
    errors.extend(volumes::check(spec));
    errors.extend(pod::check(spec));
    sorted(errors)
}
