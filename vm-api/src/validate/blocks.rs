//! Block sizes, error policies and places of disks.

use super::pci;
use super::words::strict;
use crate::field::FieldError;
use crate::machine::{BLOCK_BYTES, ErrorPolicy};
use crate::v1::{BlockSize, CustomBlockSize, VirtualMachineInstanceSpec};

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let path = format!("domain.devices.disks[{index}]");
        let policy = || format!("{path}.errorPolicy");
        errors.extend(strict::<ErrorPolicy>(policy, disk.error_policy.as_deref()));
        if let Some(size) = &disk.block_size {
            errors.extend(sizes(size, &format!("{path}.blockSize")));
        }
        if let Some(target) = &disk.disk {
            let at = format!("{path}.disk.pciAddress");
            errors.extend(pci::address(at, target.pci_address.as_deref()));
        }
    }
    errors
}

fn sizes(size: &BlockSize, path: &str) -> Vec<FieldError> {
    match (&size.custom, &size.match_volume) {
        (Some(_), Some(volume)) if volume.enabled != Some(false) => {
            vec![FieldError::new(path, "choose either custom or matchVolume")]
        }
        (Some(custom), _) => custom_sizes(custom, &format!("{path}.custom")),
        _ => Vec::new(),
    }
}

fn custom_sizes(custom: &CustomBlockSize, path: &str) -> Vec<FieldError> {
    let [logical, physical] = [custom.logical, custom.physical].map(Option::unwrap_or_default);
    if logical > physical {
        let message = format!(
            "a logical block of {logical} bytes is larger than a physical one of {physical}"
        );
        return vec![FieldError::new(format!("{path}.logical"), message)];
    }
    let wrong = [("logical", logical), ("physical", physical)]
        .into_iter()
        .filter(|(_, bytes)| !bytes.is_power_of_two() || !BLOCK_BYTES.contains(bytes));
    let error = |(name, bytes)| {
        let message = format!(
            "{bytes} bytes are no block: use a power of two from {} to {}, for logical and physical",
            BLOCK_BYTES.start(),
            BLOCK_BYTES.end()
        );
        FieldError::new(format!("{path}.{name}"), message)
    };
    wrong.map(error).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(disk: Value) -> Vec<String> {
        let spec = json!({ "domain": { "devices": { "disks": [disk] } } });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors
            .into_iter()
            .map(|error| error.path.replace("domain.devices.disks[0].", ""))
            .collect()
    }

    #[test]
    fn blocks_are_powers_of_two_and_logical_ones_no_larger() {
        let custom = |custom: Value| {
            paths(json!({ "name": "a", "blockSize": { "custom": custom } }))
                .iter()
                .map(|path| path.replace("blockSize.custom.", ""))
                .collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(custom(json!({ "logical": 512, "physical": 4096 })), none);
        assert_eq!(custom(json!({ "logical": 4096 })), ["logical"]);
        assert_eq!(custom(json!({})), ["logical", "physical"]);
        assert_eq!(
            custom(json!({ "logical": 512, "physical": 4_194_304 })),
            ["physical"]
        );
        let both = json!({ "custom": {}, "matchVolume": {} });
        assert_eq!(
            paths(json!({ "name": "a", "blockSize": both })),
            ["blockSize"]
        );
    }

    #[test]
    fn words_and_addresses_are_known() {
        let policy = |word: &str| paths(json!({ "name": "a", "errorPolicy": word }));
        for word in ErrorPolicy::ALL {
            assert_eq!(policy(word.as_str()), Vec::<String>::new());
        }
        assert_eq!(policy(""), ["errorPolicy"]);
        let placed = json!({ "name": "a", "disk": { "pciAddress": "1:2" } });
        assert_eq!(paths(placed), ["disk.pciAddress"]);
    }
}
