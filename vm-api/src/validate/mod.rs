//! What a valid machine is, stated once for its three doors: admission, the controller and the shim.
//!
//! Verdicts and paths follow KubeVirt's admission. That a valid field also works is the concern of
//! [`crate::support`].

mod blocks;
mod claims;
mod console;
mod credentials;
mod crowded;
mod data_volumes;
mod dedicated;
mod devices;
mod firmware;
mod interfaces;
mod machine;
mod matchers;
mod names;
mod offered;
mod pci;
mod pod;
mod policies;
mod probes;
mod resources;
#[cfg(feature = "schema")]
mod sets;
mod spelling;
mod volumes;
mod words;

pub(crate) use crowded::crowded;
pub use machine::machine;
pub use names::is_object_name;
pub use offered::{MemLock, NOT_OFFERED};
pub use pod::{Architecture, DnsPolicy, EvictionStrategy, StartStrategy};
pub use policies::RebootPolicy;
pub use resources::CpuFeaturePolicy;
#[cfg(feature = "schema")]
pub use sets::{pool, replica_set};
pub use spelling::spelled;
pub use volumes::{MAXIMUM_SEED_BYTES, MAXIMUM_VOLUMES, PullPolicy};

use crate::field::{FieldError, sorted};
use crate::v1::VirtualMachineInstanceSpec;

/// What is wrong with an instance.
pub fn instance(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = template(spec);
    errors.extend(memory_missing(spec));
    sorted(errors)
}

/// What is wrong with an instance whose memory may come from elsewhere: a machine's template.
pub fn template(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = annotation(spec);
    if crowded(spec).is_empty() {
        errors.extend(offered::check(spec));
    }
    sorted(errors)
}

/// That neither the instance itself nor what its pod requests says how much memory it has.
pub fn memory_missing(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    resources::memory_missing(spec)
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
    errors.extend(blocks::check(spec));
    errors.extend(claims::check(spec));
    errors.extend(console::check(spec));
    errors.extend(credentials::check(spec));
    errors.extend(firmware::check(spec));
    errors.extend(interfaces::check(spec));
    errors.extend(policies::check(spec));
    errors.extend(probes::check(spec));
    sorted(errors)
}
