//! Whether a machine has a TPM, and what of the machine outlives its instance.

use super::firmware::{Bootloader, bootloader};
use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// Whether the spec asks for a TPM.
pub fn tpm(spec: &VirtualMachineInstanceSpec) -> bool {
    let tpm = spec.domain.devices.tpm.as_ref();
    tpm.is_some_and(|tpm| tpm.enabled != Some(false))
}

/// Whether the TPM's state outlives the instance.
pub fn tpm_persists(spec: &VirtualMachineInstanceSpec) -> bool {
    let given = spec.domain.devices.tpm.as_ref();
    tpm(spec) && given.is_some_and(|tpm| tpm.persistent == Some(true))
}

/// Whether anything of the machine beside its disks outlives the instance, and so needs a claim of the
/// machine's own.
pub fn keeps_state(spec: &VirtualMachineInstanceSpec) -> Result<bool, FieldError> {
    let of_firmware = matches!(
        bootloader(spec)?,
        Bootloader::Uefi {
            persistent: true,
            ..
        }
    );
    Ok(of_firmware || tpm_persists(spec))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_persists_needs_a_claim() {
        for (domain, expected) in [
            (json!({}), false),
            (json!({ "devices": { "tpm": {} } }), false),
            (
                json!({ "devices": { "tpm": { "persistent": true } } }),
                true,
            ),
            (
                json!({ "devices": { "tpm": { "persistent": true, "enabled": false } } }),
                false,
            ),
            (
                json!({ "firmware": { "bootloader": { "efi": {} } } }),
                false,
            ),
            (
                json!({ "firmware": { "bootloader": { "efi": { "persistent": true } } } }),
                true,
            ),
        ] {
            let spec = json!({ "domain": domain });
            let spec = serde_json::from_value(spec).unwrap();
            assert_eq!(keeps_state(&spec), Ok(expected), "{domain}");
        }
    }
}
