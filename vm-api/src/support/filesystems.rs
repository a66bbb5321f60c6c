//! Directories: which of them a guest can mount, and that none is a disk as well.

use crate::field::FieldError;
use crate::machine::{filesystems, source};
use crate::v1::VirtualMachineInstanceSpec;

pub(super) fn refused(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = filesystems(spec).err().unwrap_or_default();
    errors.extend(disks_of_directories(spec));
    errors.extend(service_accounts(spec));
    errors
}

/// A volume that is not shared is a disk; none is both.
fn disks_of_directories(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let devices = &spec.domain.devices;
    let mut errors = Vec::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let Ok(source) = source(volume, index) else {
            continue;
        };
        let shared = devices.filesystems.iter().any(|it| it.name == volume.name);
        let disk = devices.disks.iter().any(|it| it.name == volume.name);
        let path = format!("volumes[{index}].{}", source.name());
        if shared && disk {
            let message = format!(
                "`{}` is a disk and a file system: leave one of the two out",
                volume.name
            );
            errors.push(FieldError::new(path, message));
        }
    }
    errors
}

/// A pod has one service account.
fn service_accounts(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let volumes = spec.volumes.iter().enumerate();
    let names = volumes.filter_map(|(index, volume)| {
        let account = volume.service_account.as_ref()?;
        Some((
            index,
            account.service_account_name.as_deref().unwrap_or_default(),
        ))
    });
    let mut errors = Vec::new();
    let mut first = None;
    for (index, name) in names {
        let path = format!("volumes[{index}].serviceAccount.serviceAccountName");
        let message = match first {
            _ if name.is_empty() => "name the service account".to_owned(),
            None => {
                first = Some(name);
                continue;
            }
            Some(first) if first == name => continue,
            Some(first) => format!("a machine has one service account, and that is `{first}`"),
        };
        errors.push(FieldError::new(path, message));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(devices: Value, volumes: Value) -> Vec<String> {
        let spec = json!({ "domain": { "devices": devices }, "volumes": volumes });
        let errors = refused(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_volume_is_a_file_system_or_a_disk() {
        let volumes = json!([{ "name": "a", "configMap": { "name": "a" } }]);
        let share = json!({ "filesystems": [{ "name": "a", "virtiofs": {} }] });
        assert!(paths(share.clone(), volumes.clone()).is_empty());
        assert!(paths(json!({}), volumes.clone()).is_empty());
        let mut both = share;
        both["disks"] = json!([{ "name": "a", "disk": {} }]);
        assert_eq!(paths(both, volumes), ["volumes[0].configMap"]);
    }

    #[test]
    fn a_machine_has_one_service_account() {
        let volume = |name: &str, account: &str| json!({ "name": name, "serviceAccount": { "serviceAccountName": account } });
        let devices = json!({ "filesystems": [
            { "name": "a", "virtiofs": {} }, { "name": "b", "virtiofs": {} }, { "name": "c", "virtiofs": {} },
        ] });
        let volumes = json!([volume("a", "x"), volume("b", "y"), volume("c", "")]);
        let expected = [1, 2].map(|n| format!("volumes[{n}].serviceAccount.serviceAccountName"));
        assert_eq!(paths(devices, volumes), expected);
    }
}
