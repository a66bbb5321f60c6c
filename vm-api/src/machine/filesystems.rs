//! Which directories of the pod the guest mounts, each as a file system of its own (virtiofs).

use super::volumes::{VolumeSource, source};
use crate::field::FieldError;
use crate::v1::VirtualMachineInstanceSpec;

/// Bytes of a tag at most (Virtio 1.2, 5.11.4).
pub const MAXIMUM_TAG_BYTES: usize = 36;

/// Shared directories of a machine at most.
pub const MAXIMUM_FILESYSTEMS: usize = 16;

/// A directory that the guest mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineFilesystem<'a> {
    /// Name of the volume, and the tag that the guest mounts it by.
    pub name: &'a str,
    /// What the volume is made from; `None` if the spec has no such volume, as in a pod written by
    /// hand, whose own volume of that name is meant.
    pub source: Option<VolumeSource<'a>>,
    /// The guest cannot write.
    pub read_only: bool,
}

/// The shared directories of the spec, in its order.
pub fn filesystems(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<MachineFilesystem<'_>>, Vec<FieldError>> {
    let listed = &spec.domain.devices.filesystems;
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for (index, filesystem) in listed.iter().enumerate() {
        let path = format!("domain.devices.filesystems[{index}].name");
        let name = filesystem.name.as_str();
        if let Some(message) = wrong_name(name) {
            errors.push(FieldError::new(path, message));
        } else if listed.iter().take(index).any(|other| other.name == name) {
            let message = format!("another file system is called `{name}` too");
            errors.push(FieldError::new(path, message));
        } else {
            match volume(spec, name) {
                Ok(source) => found.push(MachineFilesystem {
                    name,
                    source,
                    read_only: source.is_some_and(is_read_only),
                }),
                Err(error) => errors.push(error),
            }
        }
    }
    if listed.len() > MAXIMUM_FILESYSTEMS {
        let message = format!("there are more than {MAXIMUM_FILESYSTEMS}");
        errors.push(FieldError::new("domain.devices.filesystems", message));
    }
    if errors.is_empty() {
        Ok(found)
    } else {
        Err(errors)
    }
}

fn wrong_name(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = !name.is_empty() && name.len() <= MAXIMUM_TAG_BYTES && name.bytes().all(plain);
    (!fits).then(|| {
        format!(
            "`{name}` cannot be the tag that a guest mounts by: use at most {MAXIMUM_TAG_BYTES} \
             lower-case letters, digits and hyphens"
        )
    })
}

fn volume<'a>(
    spec: &'a VirtualMachineInstanceSpec,
    name: &str,
) -> Result<Option<VolumeSource<'a>>, FieldError> {
    let mut volumes = spec.volumes.iter().enumerate();
    let Some((index, volume)) = volumes.find(|(_, volume)| volume.name == name) else {
        return Ok(None);
    };
    let source = source(volume, index)?;
    match source {
        VolumeSource::PersistentVolumeClaim(_)
        | VolumeSource::DataVolume(_)
        | VolumeSource::ConfigMap(_)
        | VolumeSource::Secret(_)
        | VolumeSource::ServiceAccount(_)
        | VolumeSource::DownwardApi(_) => Ok(Some(source)),
        other => Err(FieldError::new(
            format!("volumes[{index}].{}", other.name()),
            "is no directory that a guest can mount: use configMap, secret, serviceAccount, \
             downwardAPI, persistentVolumeClaim or dataVolume",
        )),
    }
}

fn is_read_only(source: VolumeSource<'_>) -> bool {
    match source {
        VolumeSource::PersistentVolumeClaim(claim) => claim.read_only == Some(true),
        VolumeSource::DataVolume(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(filesystems: &[&str], volumes: Value) -> VirtualMachineInstanceSpec {
        let filesystem = |name: &&str| json!({ "name": name, "virtiofs": {} });
        let filesystems: Vec<_> = filesystems.iter().map(filesystem).collect();
        serde_json::from_value(json!({
            "domain": { "devices": { "filesystems": filesystems } }, "volumes": volumes,
        }))
        .unwrap()
    }

    #[test]
    fn a_directory_has_the_rights_of_its_volume() {
        let spec = spec(
            &["settings", "data", "shared", "own"],
            json!([
                { "name": "settings", "configMap": { "name": "a" } },
                { "name": "data", "persistentVolumeClaim": { "claimName": "b" } },
                { "name": "shared", "persistentVolumeClaim": { "claimName": "c", "readOnly": true } },
            ]),
        );
        let found = filesystems(&spec).unwrap();
        let rights: Vec<_> = found.iter().map(|it| (it.name, it.read_only)).collect();
        let expected = [
            ("settings", true),
            ("data", false),
            ("shared", true),
            ("own", false),
        ];
        assert_eq!(rights, expected);
        assert!(found[3].source.is_none());
    }

    #[test]
    fn what_cannot_be_mounted_is_named() {
        let long = "a".repeat(37);
        let names = ["", "A", "a,b", &long, "disk", "twice", "twice"];
        let disk = json!([{ "name": "disk", "emptyDisk": { "capacity": "1Gi" } }]);
        let errors = filesystems(&spec(&names, disk)).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        let at = |index| format!("domain.devices.filesystems[{index}].name");
        let expected = [
            at(0),
            at(1),
            at(2),
            at(3),
            "volumes[0].emptyDisk".into(),
            at(6),
        ];
        assert_eq!(paths, expected);
        let many: Vec<_> = (0..17).map(|number| format!("fs{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(filesystems(&spec(&many, json!([]))).is_err());
        assert!(filesystems(&spec(&many[1..], json!([]))).is_ok());
    }
}
