//! Amounts and texts that KubeVirt's admission lets pass but no machine can be made from.

use crate::field::FieldError;
use crate::machine::{
    VolumeSource, guest_memory_bytes, max_guest_memory_bytes, max_sockets, source, topology,
};
use crate::v1::{VirtualMachineInstanceSpec, Volume};

/// Bytes of memory with which QEMU's firmware starts at least.
pub const MINIMUM_MEMORY: u64 = 4 << 20;

/// Bytes of memory that a machine has at most.
pub const MAXIMUM_MEMORY: u64 = 1 << 40;

/// Virtual processors that a machine has at most: those that QEMU is asked for at most.
pub const MAXIMUM_VCPUS: u32 = 255;

pub(super) fn refused(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(memory(spec));
    errors.extend(processors(spec));
    errors.extend(room(spec));
    errors.extend(firmware(spec));
    for (index, volume) in spec.volumes.iter().enumerate() {
        errors.extend(empty_name(volume, index));
        errors.extend(capacity(volume, index));
    }
    errors
}

fn memory(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    // Without any amount, it comes from elsewhere: that is the validation's concern.
    let bytes = match guest_memory_bytes(spec, Some(MINIMUM_MEMORY)) {
        Ok(bytes) => bytes,
        Err(error) => return Some(error),
    };
    let message = if bytes < MINIMUM_MEMORY {
        format!("{bytes} bytes of memory are too few to start a machine: give it at least 4Mi")
    } else if bytes > MAXIMUM_MEMORY {
        format!("{bytes} bytes of memory are more than a machine can have: give it at most 1Ti")
    } else {
        return None;
    };
    let guest = spec
        .domain
        .memory
        .as_ref()
        .is_some_and(|memory| memory.guest.is_some());
    let amount = spec
        .domain
        .resources
        .as_ref()
        .and_then(|resources| resources.amount("memory"));
    let path = match amount {
        Some((path, _)) if !guest => path,
        _ => "domain.memory.guest".to_owned(),
    };
    Some(FieldError::new(path, message))
}

fn processors(spec: &VirtualMachineInstanceSpec) -> Option<FieldError> {
    let vcpus = topology(spec, None).ok()?.vcpus();
    (vcpus > MAXIMUM_VCPUS).then(|| {
        let message =
            format!("{vcpus} virtual processors in all: a machine has at most {MAXIMUM_VCPUS}");
        FieldError::new("domain.cpu", message)
    })
}

/// A machine cannot grow to less than it starts with.
fn room(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Ok(topology) = topology(spec, None)
        && max_sockets(spec, topology) < topology.sockets
    {
        let message = format!(
            "the machine starts with {} sockets: allow that many, or leave it out",
            topology.sockets
        );
        errors.push(FieldError::new("domain.cpu.maxSockets", message));
    }
    let hugepages = spec
        .domain
        .memory
        .as_ref()
        .and_then(|memory| memory.hugepages.as_ref());
    match (max_guest_memory_bytes(spec), guest_memory_bytes(spec, None)) {
        (Ok(Some(most)), Ok(bytes)) if most > bytes && hugepages.is_some() => {
            let message = "memory in huge pages does not grow while the machine runs: leave it out";
            errors.push(FieldError::new("domain.memory.maxGuest", message));
        }
        (Err(error), _) => errors.push(error),
        (Ok(Some(most)), Ok(bytes)) if most < bytes => {
            let message = format!(
                "the guest starts with {bytes} bytes of memory: allow that much, or leave it out"
            );
            errors.push(FieldError::new("domain.memory.maxGuest", message));
        }
        _ => {}
    }
    errors
}

fn firmware(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = spec.domain.firmware.as_ref();
    let uuid = given
        .and_then(|firmware| firmware.uuid.as_deref())
        .filter(|uuid| !uuid.is_empty());
    if let Some(uuid) = uuid.filter(|uuid| !is_uuid(uuid)) {
        let message = format!(
            "`{uuid}` is not a UUID: write it as 5d307ca9-b3ef-428c-8861-06e72d69f223, or leave it out"
        );
        errors.push(FieldError::new("domain.firmware.uuid", message));
    }
    errors
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(index, c)| match index {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}

fn empty_name(volume: &Volume, index: usize) -> Option<FieldError> {
    let (field, name, what) = match source(volume, index).ok()? {
        VolumeSource::ContainerDisk(disk) => ("image", &disk.image, "image"),
        VolumeSource::PersistentVolumeClaim(claim) => ("claimName", &claim.claim_name, "claim"),
        VolumeSource::DataVolume(volume) => ("name", &volume.name, "data volume"),
        _ => return None,
    };
    let name_of_source = source(volume, index).ok()?.name();
    name.is_empty().then(|| {
        FieldError::new(
            format!("volumes[{index}].{name_of_source}.{field}"),
            format!("name the {what}"),
        )
    })
}

fn capacity(volume: &Volume, index: usize) -> Option<FieldError> {
    let disk = volume.empty_disk.as_ref()?;
    let message = match disk.capacity.bytes() {
        Ok(0) => "an empty disk needs a size above zero, such as 1Gi".to_owned(),
        Ok(_) => return None,
        Err(error) => error.to_string(),
    };
    Some(FieldError::new(
        format!("volumes[{index}].emptyDisk.capacity"),
        message,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(spec: serde_json::Value) -> Vec<String> {
        let spec = serde_json::from_value(spec).unwrap();
        refused(&spec).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn memory_and_processors_have_limits() {
        let at = |guest: &str| messages(json!({ "domain": { "memory": { "guest": guest } } }));
        assert!(at("0")[0].starts_with("domain.memory.guest: 0 bytes of memory are too few"));
        assert!(at("2Ti")[0].contains("more than a machine can have"));
        assert!(at("-1")[0].contains("below zero"));
        assert_eq!(at("4Mi"), Vec::<String>::new());
        let limits =
            json!({ "domain": { "resources": { "limits": { "memory": "1M", "cpu": "400" } } } });
        let messages = messages(limits);
        assert!(
            messages[0].starts_with("domain.resources.limits[memory]: "),
            "{messages:?}"
        );
        assert!(
            messages[1].starts_with("domain.cpu: 400 virtual processors"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_machine_does_not_grow_to_less() {
        let at = |cpu: serde_json::Value, memory: serde_json::Value| {
            messages(json!({ "domain": { "cpu": cpu, "memory": memory } }))
        };
        let cpu = json!({ "sockets": 2, "maxSockets": 1 });
        let memory = json!({ "guest": "64Mi", "maxGuest": "32Mi" });
        let refused = at(cpu, memory);
        assert!(
            refused[0].starts_with("domain.cpu.maxSockets: the machine starts with 2 sockets"),
            "{refused:?}"
        );
        assert!(
            refused[1].starts_with("domain.memory.maxGuest: the guest starts with 67108864 bytes"),
            "{refused:?}"
        );
        let negative = at(json!({}), json!({ "guest": "64Mi", "maxGuest": "-1" }));
        assert!(negative[0].contains("maxGuest: "), "{negative:?}");
        let pages = json!({ "pageSize": "2Mi" });
        let pages = json!({ "guest": "64Mi", "maxGuest": "66Mi", "hugepages": pages });
        let refused = at(json!({}), pages);
        assert!(
            refused[0].starts_with("domain.memory.maxGuest: memory in huge pages"),
            "{refused:?}"
        );
        let fine = json!({ "guest": "64Mi", "maxGuest": "64Mi" });
        assert_eq!(
            at(json!({ "maxSockets": 100_000 }), fine),
            Vec::<String>::new()
        );
    }

    #[test]
    fn firmware_that_cannot_be_made_is_named() {
        let messages = messages(json!({ "domain": { "firmware": { "uuid": "no" } } }));
        assert!(
            messages[0].starts_with("domain.firmware.uuid: `no` is not a UUID"),
            "{messages:?}"
        );
    }

    #[test]
    fn volumes_need_names_and_sizes() {
        let messages = messages(json!({ "volumes": [
            { "name": "a", "containerDisk": { "image": "" } },
            { "name": "b", "persistentVolumeClaim": { "claimName": "" } },
            { "name": "c", "emptyDisk": { "capacity": 0 } },
        ] }));
        assert_eq!(
            messages,
            [
                "volumes[0].containerDisk.image: name the image",
                "volumes[1].persistentVolumeClaim.claimName: name the claim",
                "volumes[2].emptyDisk.capacity: an empty disk needs a size above zero, such as 1Gi",
            ]
        );
    }
}
