//! Devices of the node that a machine gets, by the resources that device plugins offer.

use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice<'a> {
    /// Where the spec names it, such as `domain.devices.gpus[0]`.
    pub path: String,
    /// Its name in the machine.
    pub name: &'a str,
    /// The resource of which it is one, such as `nvidia.com/GP102GL`.
    pub resource: &'a str,
}

/// The spec's graphics processors and other devices of the node, in this order.
pub fn host_devices(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<HostDevice<'_>>, Vec<FieldError>> {
    let devices = &spec.domain.devices;
    let gpus = devices.gpus.iter().enumerate();
    let gpus = gpus.map(|(index, gpu)| ("gpus", index, &gpu.name, &gpu.device_name));
    let others = devices.host_devices.iter().enumerate();
    let others = others.map(|(index, it)| ("hostDevices", index, &it.name, &it.device_name));
    let (mut found, mut errors) = (Vec::<HostDevice<'_>>::new(), Vec::new());
    for (list, index, name, resource) in gpus.chain(others) {
        let list = format!("domain.devices.{list}");
        let Some(resource) = resource.as_deref().filter(|text| !text.is_empty()) else {
            let message = format!("`{name}` has no deviceName: name the resource of its plugin");
            errors.push(FieldError::new(list, message));
            continue;
        };
        if name.is_empty() || found.iter().any(|other| other.name == name) {
            let message = format!("`{name}` is no name, or another device's: give each its own");
            errors.push(FieldError::new(list, message));
            continue;
        }
        found.push(HostDevice {
            path: format!("{list}[{index}]"),
            name,
            resource,
        });
    }
    if errors.is_empty() {
        Ok(found)
    } else {
        Err(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(devices: Value) -> Result<Vec<(String, String)>, Vec<String>> {
        let spec = json!({ "domain": { "devices": devices } });
        let spec = serde_json::from_value(spec).unwrap();
        match host_devices(&spec) {
            Ok(found) => Ok(found
                .into_iter()
                .map(|it| (it.path, it.resource.to_owned()))
                .collect()),
            Err(errors) => Err(errors.into_iter().map(|error| error.path).collect()),
        }
    }

    #[test]
    fn each_names_its_resource() {
        let device = |name: &str, resource: &str| json!({ "name": name, "deviceName": resource });
        let found = read(json!({
            "hostDevices": [device("b", "x.com/nic")], "gpus": [device("a", "x.com/gpu")],
        }));
        let expected = [
            ("domain.devices.gpus[0]", "x.com/gpu"),
            ("domain.devices.hostDevices[0]", "x.com/nic"),
        ];
        let expected = expected.map(|(path, resource)| (path.into(), resource.into()));
        assert_eq!(found.unwrap(), expected);
        let gpus = ["domain.devices.gpus".to_owned()];
        assert_eq!(
            read(json!({ "gpus": [{ "name": "a" }] })).unwrap_err(),
            gpus
        );
        let unnamed = json!({ "gpus": [device("", "x.com/gpu")] });
        assert_eq!(read(unnamed).unwrap_err(), gpus);
        let twice = json!({
            "hostDevices": [device("a", "x.com/nic")], "gpus": [device("a", "x.com/gpu")],
        });
        assert_eq!(read(twice).unwrap_err(), ["domain.devices.hostDevices"]);
    }
}
