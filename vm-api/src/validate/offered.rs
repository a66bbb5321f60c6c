//! What KubeVirt refuses in its objects unless a cluster's administrator switches it on, and what it
//! refuses although a machine could be made of it: a pod written by hand is free of it.

use super::words::strict;
use crate::field::FieldError;
use crate::v1::{Interface, VirtualMachineInstanceSpec};
use crate::words::words;

/// What is said about a field that is right by itself and not offered.
pub const NOT_OFFERED: &str = "is not offered: leave it out";

words! {
    /// Whether the guest's memory is locked in the node's.
    MemLock {
        /// It is.
        Required = "Required",
        /// It is not.
        NotRequired = "NotRequired",
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut refuse = |path: String| errors.push(FieldError::new(path, NOT_OFFERED));
    if spec.domain.launch_security.is_some() {
        refuse("domain.launchSecurity".to_owned());
    }
    if spec.domain.devices.downward_metrics.is_some() {
        refuse("domain.devices.downwardMetrics".to_owned());
    }
    if !spec.utility_volumes.is_empty() {
        refuse("utilityVolumes".to_owned());
    }
    if spec.networks.iter().any(|it| it.resource_claim.is_some()) {
        refuse("networks".to_owned());
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        if volume.downward_metrics.is_some() {
            refuse(format!("volumes[{index}]"));
        }
    }
    for (index, disk) in spec.domain.devices.disks.iter().enumerate() {
        let lun = disk.lun.as_ref();
        if lun.is_some_and(|lun| lun.reservation == Some(true)) {
            refuse(format!("domain.devices.disks[{index}].lun.reservation"));
        }
    }
    errors.extend(reserved_overhead(spec));
    errors.extend(masquerade_of_others(spec));
    errors
}

fn reserved_overhead(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let memory = spec.domain.memory.as_ref();
    let Some(overhead) = memory.and_then(|memory| memory.reserved_overhead.as_ref()) else {
        return Vec::new();
    };
    let path = "domain.memory.reservedOverhead";
    let mut errors = Vec::new();
    if overhead.added_overhead.is_some() {
        errors.push(FieldError::new(path, NOT_OFFERED));
    }
    let lock = || format!("{path}.memLock");
    errors.extend(strict::<MemLock>(lock, overhead.mem_lock.as_deref()));
    errors
}

/// A guest behind the address of a network that is not the pod's.
fn masquerade_of_others(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let behind = |interface: &Interface| interface.masquerade.is_some();
    let is_other = |interface: &Interface| {
        let network = spec.networks.iter().find(|it| it.name == interface.name);
        network.is_some_and(|network| network.pod.is_none() && network.multus.is_some())
    };
    let listed = spec.domain.devices.interfaces.iter().enumerate();
    let wrong = listed.filter(|(_, interface)| behind(interface) && is_other(interface));
    let error = |(index, interface): (usize, &Interface)| {
        let message = format!(
            "masquerade is for the pod network, and `{}` is another: use bridge",
            interface.name
        );
        FieldError::new(format!("domain.devices.interfaces[{index}].name"), message)
    };
    wrong.map(error).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(spec: Value) -> Vec<String> {
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn what_is_not_offered_is_named() {
        for (spec, expected) in [
            (
                json!({ "domain": { "launchSecurity": {} } }),
                "domain.launchSecurity",
            ),
            (
                json!({ "domain": { "devices": { "downwardMetrics": {} } } }),
                "domain.devices.downwardMetrics",
            ),
            (
                json!({ "utilityVolumes": [{ "name": "a", "claimName": "a" }] }),
                "utilityVolumes",
            ),
            (
                json!({ "networks": [{ "name": "a", "resourceClaim": {} }] }),
                "networks",
            ),
            (
                json!({ "volumes": [{ "name": "a", "downwardMetrics": {} }] }),
                "volumes[0]",
            ),
            (
                json!({ "domain": { "devices": { "disks": [{ "name": "a", "lun": { "reservation": true } }] } } }),
                "domain.devices.disks[0].lun.reservation",
            ),
            (
                json!({ "domain": { "memory": { "reservedOverhead": { "addedOverhead": "1Mi" } } } }),
                "domain.memory.reservedOverhead",
            ),
            (
                json!({ "domain": { "memory": { "reservedOverhead": { "memLock": "no" } } } }),
                "domain.memory.reservedOverhead.memLock",
            ),
        ] {
            assert_eq!(paths(spec.clone()), [expected], "{spec}");
        }
    }

    #[test]
    fn masquerade_is_for_the_pod_network() {
        let at = |binding: &str, network: Value| {
            paths(json!({
                "domain": { "devices": { "interfaces": [{ "name": "a", binding: {} }] } },
                "networks": [network],
            }))
        };
        let multus = json!({ "name": "a", "multus": { "networkName": "x" } });
        let named = ["domain.devices.interfaces[0].name"];
        assert_eq!(at("masquerade", multus.clone()), named);
        assert_eq!(at("bridge", multus), Vec::<String>::new());
        assert_eq!(
            at("masquerade", json!({ "name": "a", "pod": {} })),
            Vec::<String>::new()
        );
    }
}
