//! Whether a machine has a TPM.

use crate::v1::VirtualMachineInstanceSpec;

/// Whether the spec asks for a TPM.
pub fn tpm(spec: &VirtualMachineInstanceSpec) -> bool {
    let tpm = spec.domain.devices.tpm.as_ref();
    tpm.is_some_and(|tpm| tpm.enabled != Some(false))
}
