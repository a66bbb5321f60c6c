//! What the firmware's tables tell a guest of its machine, in its owner's words.

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// Characters of such a text at most: what every reader of the tables takes.
const LONGEST: usize = 64;

/// A text of the firmware's tables: printable characters of ASCII, none if it is empty.
fn text<'a>(path: &str, text: Option<&'a str>) -> Result<Option<&'a str>, FieldError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if printable && text.len() <= LONGEST {
        return Ok(Some(text));
    }
    let message =
        format!("`{text}` cannot be told: use at most {LONGEST} printable characters of ASCII");
    Err(FieldError::new(path, message))
}

/// The machine's serial number, where the spec says so.
pub fn serial_number(spec: &VirtualMachineInstanceSpec) -> Result<Option<&str>, FieldError> {
    let firmware = spec.domain.firmware.as_ref();
    let serial = firmware.and_then(|firmware| firmware.serial.as_deref());
    text("domain.firmware.serial", serial)
}

/// The case that a machine is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineChassis<'a> {
    /// Who made it.
    pub manufacturer: Option<&'a str>,
    /// Its version.
    pub version: Option<&'a str>,
    /// Its serial number.
    pub serial: Option<&'a str>,
    /// Its tag as an asset.
    pub asset: Option<&'a str>,
    /// Its product number.
    pub sku: Option<&'a str>,
}

/// The case that the spec describes.
pub fn chassis<'a>(
    spec: &'a VirtualMachineInstanceSpec,
) -> Result<MachineChassis<'a>, Vec<FieldError>> {
    let Some(given) = &spec.domain.chassis else {
        return Ok(MachineChassis::default());
    };
    let mut errors = Vec::new();
    let mut read = |name: &str, given: &'a Option<String>| {
        let told = text(&format!("domain.chassis.{name}"), given.as_deref());
        told.map_err(|error| errors.push(error)).unwrap_or_default()
    };
    let chassis = MachineChassis {
        manufacturer: read("manufacturer", &given.manufacturer),
        version: read("version", &given.version),
        serial: read("serial", &given.serial),
        asset: read("asset", &given.asset),
        sku: read("sku", &given.sku),
    };
    if errors.is_empty() {
        Ok(chassis)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_printable() {
        let spec = |chassis, serial: &str| {
            let spec = json!({ "domain": {
                "chassis": chassis, "firmware": { "serial": serial },
            } });
            serde_json::from_value::<VirtualMachineInstanceSpec>(spec).unwrap()
        };
        let good = spec(json!({ "manufacturer": "Foo, Inc.", "sku": "" }), "A 1");
        let chassis = chassis(&good).unwrap();
        assert_eq!(
            (chassis.manufacturer, chassis.sku),
            (Some("Foo, Inc."), None)
        );
        assert_eq!(serial_number(&good), Ok(Some("A 1")));
        let bad = spec(json!({ "asset": "a\nb", "version": "ü" }), &"x".repeat(65));
        let errors = super::chassis(&bad).unwrap_err();
        let paths: Vec<_> = errors.into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["domain.chassis.version", "domain.chassis.asset"]);
        assert_eq!(
            serial_number(&bad).unwrap_err().path,
            "domain.firmware.serial"
        );
    }
}
