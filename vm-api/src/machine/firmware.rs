//! Which firmware boots a machine.

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// The firmware that boots a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bootloader {
    /// SeaBIOS.
    Bios,
    /// UEFI.
    Uefi {
        /// Only signed code boots.
        secure_boot: bool,
        /// The variables outlive the instance.
        persistent: bool,
    },
}

/// The firmware that the spec asks for: SeaBIOS by default; UEFI with secure boot unless it is
/// switched off, as in KubeVirt.
pub fn bootloader(spec: &VirtualMachineInstanceSpec) -> Result<Bootloader, FieldError> {
    let bootloader = spec
        .domain
        .firmware
        .as_ref()
        .and_then(|firmware| firmware.bootloader.as_ref());
    let Some(bootloader) = bootloader else {
        return Ok(Bootloader::Bios);
    };
    match (&bootloader.bios, &bootloader.efi) {
        (Some(_), Some(_)) => Err(FieldError::new(
            "domain.firmware.bootloader",
            "choose either bios or efi",
        )),
        (_, None) => Ok(Bootloader::Bios),
        (None, Some(efi)) => Ok(Bootloader::Uefi {
            secure_boot: efi.secure_boot.unwrap_or(true),
            persistent: efi.persistent.unwrap_or(false),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uefi_has_secure_boot_unless_it_is_switched_off() {
        let read = |bootloader: serde_json::Value| {
            let spec =
                serde_json::json!({ "domain": { "firmware": { "bootloader": bootloader } } });
            super::bootloader(&serde_json::from_value(spec).unwrap())
        };
        let uefi = |secure_boot| {
            Ok(Bootloader::Uefi {
                secure_boot,
                persistent: false,
            })
        };
        assert_eq!(read(serde_json::json!({})), Ok(Bootloader::Bios));
        assert_eq!(
            read(serde_json::json!({ "bios": {} })),
            Ok(Bootloader::Bios)
        );
        assert_eq!(read(serde_json::json!({ "efi": {} })), uefi(true));
        assert_eq!(
            read(serde_json::json!({ "efi": { "secureBoot": false } })),
            uefi(false)
        );
        assert!(read(serde_json::json!({ "efi": {}, "bios": {} })).is_err());
    }
}
