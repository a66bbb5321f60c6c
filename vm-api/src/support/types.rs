//! What does not work of instance types and preferences.
//!
//! What they say is written into the machines that name them, and refused there like anything else that
//! does not work. Whoever makes the type is told here already. Relies on the table of instances.

use serde::Serialize;
use serde_json::Value;

use super::hints::missing;
use super::table::INSTANCE;
use super::{join, to_json};
use crate::field::{FieldError, sorted};
use crate::instancetype::{InstancetypeSpec, PreferenceSpec};

/// A field of a type, and the field of an instance, or of a machine, that does not work with it.
pub(super) type Meant = (&'static str, &'static str);

/// Fields of instance types that do not work, or not with every value. All others do.
pub(super) const INSTANCETYPE: &[Meant] = &[
    ("cpu.numa", "domain.cpu.numa"),
    ("cpu.realtime", "domain.cpu.realtime"),
    ("gpus[].claimName", "domain.devices.gpus[].claimName"),
    ("gpus[].requestName", "domain.devices.gpus[].requestName"),
    ("gpus[].tag", "domain.devices.gpus[].tag"),
    (
        "gpus[].virtualGPUOptions",
        "domain.devices.gpus[].virtualGPUOptions",
    ),
    (
        "hostDevices[].claimName",
        "domain.devices.hostDevices[].claimName",
    ),
    (
        "hostDevices[].requestName",
        "domain.devices.hostDevices[].requestName",
    ),
    ("hostDevices[].tag", "domain.devices.hostDevices[].tag"),
    ("launchSecurity", "domain.launchSecurity"),
    (
        "memory.hugepages.pageSize",
        "domain.memory.hugepages.pageSize",
    ),
];

/// Fields of preferences that do not work, or not with every value. All others do.
pub(super) const PREFERENCE: &[Meant] = &[
    (
        "devices.preferredCdromBus",
        "domain.devices.disks[].cdrom.bus",
    ),
    (
        "devices.preferredDiskBus",
        "domain.devices.disks[].disk.bus",
    ),
    (
        "devices.preferredInterfaceModel",
        "domain.devices.interfaces[].model",
    ),
    ("devices.preferredLunBus", "domain.devices.disks[].lun.bus"),
    (
        "devices.preferredUseVirtioTransitional",
        "domain.devices.useVirtioTransitional",
    ),
    (
        "devices.preferredVirtualGPUOptions",
        "domain.devices.gpus[].virtualGPUOptions",
    ),
    ("preferredArchitecture", "architecture"),
    ("preferredLaunchSecurity", "domain.launchSecurity"),
    // It is that of the claims that are made with a machine, and none is.
    ("volumes.preferredStorageClassName", "dataVolumeTemplates"),
];

/// Set fields of an instance type that do not work, each with what to do instead.
pub fn instancetype(spec: &InstancetypeSpec) -> Vec<FieldError> {
    refused(spec, INSTANCETYPE)
}

/// Set fields of a preference that do not work, each with what to do instead.
pub fn preference(spec: &PreferenceSpec) -> Vec<FieldError> {
    refused(spec, PREFERENCE)
}

fn refused(spec: &impl Serialize, table: &[Meant]) -> Vec<FieldError> {
    let json = to_json(spec);
    let mut errors = Vec::new();
    for (path, meant) in table {
        let mut found = Vec::new();
        places(&json, path, String::new(), &mut found);
        for (path, value) in found {
            let message = match INSTANCE.iter().find(|field| field.covers(meant)) {
                Some(field) => field.refusal(value),
                None => Some(missing(meant)),
            };
            errors.extend(message.map(|message| FieldError::new(path, message)));
        }
    }
    sorted(errors)
}

/// Where in `value` a field is set: `rest` leads to it, `path` is what lies behind.
fn places<'a>(value: &'a Value, rest: &str, path: String, found: &mut Vec<(String, &'a Value)>) {
    if rest.is_empty() {
        found.push((path, value));
        return;
    }
    let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let (name, is_list) = name
        .strip_suffix("[]")
        .map_or((name, false), |name| (name, true));
    let path = join(&path, name);
    match value.get(name) {
        None | Some(Value::Null) => {}
        Some(Value::Array(items)) if is_list => {
            for (index, item) in items.iter().enumerate() {
                places(item, rest, format!("{path}[{index}]"), found);
            }
        }
        Some(value) => places(value, rest, path, found),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_is_refused_as_the_instances_that_are_made_with_it() {
        let size = json!({
            "cpu": { "guest": 1, "numa": { "guestMappingPassthrough": {} } },
            "memory": { "guest": "1Gi", "hugepages": { "pageSize": "4Ki" } },
            "gpus": [{ "name": "a", "deviceName": "x.com/gpu" }, { "name": "b", "deviceName": "y", "tag": "z" }],
        });
        let paths: Vec<_> = instancetype(&serde_json::from_value(size).unwrap())
            .into_iter()
            .map(|error| error.path)
            .collect();
        assert_eq!(
            paths,
            ["cpu.numa", "gpus[1].tag", "memory.hugepages.pageSize"]
        );
        let taste = json!({
            "devices": { "preferredDiskBus": "virtio", "preferredCdromBus": "ide" },
            "volumes": { "preferredStorageClassName": "fast" },
        });
        let errors = preference(&serde_json::from_value(taste).unwrap());
        let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "devices.preferredCdromBus: `ide` is not supported yet: use sata, scsi, usb, or leave it out",
                "volumes.preferredStorageClassName: is not supported yet: make the claim beforehand and use persistentVolumeClaim",
            ]
        );
    }
}
