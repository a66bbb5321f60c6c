//! Lists that are longer than any machine's.
//!
//! What refers to each other is looked up item by item: a spec of a megabyte would keep whoever reads
//! it busy for many seconds. So these lists are counted before anything else looks at them.

use super::MAXIMUM_VOLUMES;
use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// The lists of `spec` that are too long to be looked at.
pub(crate) fn crowded(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let devices = &spec.domain.devices;
    let lists = [
        ("accessCredentials", spec.access_credentials.len()),
        ("domain.devices.disks", devices.disks.len()),
        ("domain.devices.filesystems", devices.filesystems.len()),
        ("domain.devices.gpus", devices.gpus.len()),
        ("domain.devices.hostDevices", devices.host_devices.len()),
        ("domain.devices.inputs", devices.inputs.len()),
        ("domain.devices.interfaces", devices.interfaces.len()),
        ("networks", spec.networks.len()),
        ("volumes", spec.volumes.len()),
    ];
    let longer = lists.iter().filter(|(_, items)| *items > MAXIMUM_VOLUMES);
    let error = |path| FieldError::new(path, format!("there are more than {MAXIMUM_VOLUMES}"));
    longer.map(|(path, _)| error(*path)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{support, validate};

    /// Nearly as many as fit into an object of Kubernetes.
    fn many(item: impl Fn(usize) -> Value) -> Value {
        (0..20_000).map(item).collect()
    }

    #[test]
    fn lists_that_would_keep_others_waiting_are_refused() {
        let named = |number: usize| json!({ "name": format!("a{number}") });
        for (path, spec) in [
            (
                "domain.devices.disks",
                json!({ "domain": { "devices": { "disks": many(named) } } }),
            ),
            (
                "domain.devices.filesystems",
                json!({ "domain": { "devices": { "filesystems": many(|n| {
                    json!({ "name": format!("a{n}"), "virtiofs": {} })
                }) } } }),
            ),
            (
                "domain.devices.gpus",
                json!({ "domain": { "devices": { "gpus": many(|n| {
                    json!({ "name": format!("a{n}"), "deviceName": "x.com/y" })
                }) } } }),
            ),
            (
                "domain.devices.interfaces",
                json!({ "domain": { "devices": { "interfaces": many(named) } } }),
            ),
            ("networks", json!({ "networks": many(named) })),
            (
                "accessCredentials",
                json!({ "accessCredentials": many(|_| json!({})) }),
            ),
            (
                "volumes",
                json!({ "domain": { "devices": { "disks": many(named) } }, "volumes": many(named) }),
            ),
        ] {
            let spec = serde_json::from_value(spec).unwrap();
            let errors = validate::instance(&spec);
            assert!(
                errors
                    .iter()
                    .any(|error| error.path == path && error.message.contains("256")),
                "{path}: {errors:?}"
            );
            support::instance(&spec);
        }
    }
}
