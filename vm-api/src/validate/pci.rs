//! Addresses on the PCI bus, as libvirt and KubeVirt write them: `0000:81:01.0`.

use crate::field::FieldError;

/// What is wrong with the address at `path`; an empty one counts as absent.
pub(super) fn address(path: impl Into<String>, text: Option<&str>) -> Option<FieldError> {
    let text = text.filter(|text| !text.is_empty())?;
    (!is_address(text)).then(|| {
        let message = format!("`{text}` is not a PCI address: write it as 0000:81:01.0");
        FieldError::new(path, message)
    })
}

fn is_address(text: &str) -> bool {
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let parts: Vec<_> = text.split(':').collect();
    let [domain, bus, slot] = parts[..] else {
        return false;
    };
    let Some((slot, function)) = slot.split_once('.') else {
        return false;
    };
    let is_function = matches!(function.as_bytes(), [b'0'..=b'7']);
    hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && is_function
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_four_parts() {
        for good in ["0000:81:01.0", "abcd:EF:00.7"] {
            assert_eq!(address("a", Some(good)), None);
        }
        for bad in [
            "1:2",
            "0000:81:01",
            "0000:81:01.8",
            "0000:81:01.00",
            "0000:8x:01.0",
            "0000:81:01.0:0",
            "00000:81:01.0",
        ] {
            assert!(address("a", Some(bad)).is_some(), "{bad}");
        }
        assert_eq!(address("a", Some("")), None);
    }
}
