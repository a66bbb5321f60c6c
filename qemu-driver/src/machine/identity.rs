//! What the firmware's tables (SMBIOS) tell the guest about its machine, in its owner's words.

use super::MachineError;

/// A text of the firmware's tables: 1 to 64 printable characters of ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirmwareText(String);

impl FirmwareText {
    /// The most characters: what every reader of the tables takes.
    pub const MAX: usize = 64;

    /// Checks `text`; `of` says what it tells, for the error.
    pub fn new(of: &'static str, text: impl Into<String>) -> Result<Self, MachineError> {
        let text = text.into();
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if printable && (1..=Self::MAX).contains(&text.len()) {
            Ok(Self(text))
        } else {
            Err(MachineError::FirmwareText { of, text })
        }
    }

    /// The text as the value of an option of QEMU, where a comma is written twice.
    pub(crate) fn escaped(&self) -> String {
        self.0.replace(',', ",,")
    }
}

/// The case that the machine is in (SMBIOS, type 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chassis {
    /// Who made it.
    pub manufacturer: Option<FirmwareText>,
    /// Its version.
    pub version: Option<FirmwareText>,
    /// Its serial number.
    pub serial: Option<FirmwareText>,
    /// Its tag as an asset.
    pub asset: Option<FirmwareText>,
    /// Its product number.
    pub sku: Option<FirmwareText>,
}
