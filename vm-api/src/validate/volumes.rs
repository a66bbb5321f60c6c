//! Volumes and seeds.

use std::collections::HashSet;

use super::names::{Form, wrong};
use super::words::strict;
use crate::field::{FieldError, word};
use crate::machine::{Datum, HostDiskType, VolumeSource, cloud_init, source};
use crate::v1::{CloudInitSource, ContainerDiskSource, HostDisk, VirtualMachineInstanceSpec};
use crate::words::words;

/// Bytes of inline user data or network data at most, as in KubeVirt; more fits into a Secret.
pub const MAXIMUM_SEED_BYTES: usize = 2048;

/// Volumes at most, as in KubeVirt; and items of the lists that refer to them and to each other.
pub const MAXIMUM_VOLUMES: usize = 256;

/// Bytes that no path reaches (`linux/limits.h`).
const PATH_MAX: usize = 4096;

words! {
    /// When an image is pulled.
    PullPolicy {
        /// Each time.
        Always = "Always",
        /// Never.
        Never = "Never",
        /// When it is not there.
        IfNotPresent = "IfNotPresent",
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let path = format!("volumes[{index}]");
        let name = format!("{path}.name");
        errors.extend(
            wrong(Form::Label, &volume.name).map(|message| FieldError::new(&name, message)),
        );
        if !seen.insert(&volume.name) {
            errors.push(FieldError::new(
                name,
                format!("another volume is called `{}` too", volume.name),
            ));
        }
        match source(volume, index) {
            Ok(source) => errors.extend(content(source, &format!("{path}.{}", source.name()))),
            Err(error) => errors.push(error),
        }
    }
    let seeds = spec.volumes.iter().filter(|volume| {
        volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some()
    });
    if seeds.count() > 1 {
        errors.push(FieldError::new(
            "volumes",
            "there is more than one seed for cloud-init; one is read",
        ));
    }
    errors
}

fn content(source: VolumeSource<'_>, path: &str) -> Vec<FieldError> {
    match source {
        VolumeSource::ContainerDisk(disk) => container_disk(disk, path),
        VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => {
            seed_data(seed, path)
        }
        VolumeSource::EmptyDisk(disk) => malformed(&disk.capacity, path),
        VolumeSource::HostDisk(disk) => host_disk(disk, path),
        VolumeSource::ContainerPath(directory) if !directory.path.starts_with('/') => {
            let message = format!("`{}` is not an absolute path", directory.path);
            vec![FieldError::new(format!("{path}.path"), message)]
        }
        VolumeSource::ServiceAccount(account)
            if account
                .service_account_name
                .as_deref()
                .unwrap_or_default()
                .is_empty() =>
        {
            let message = "name the service account";
            vec![FieldError::new(
                format!("{path}.serviceAccountName"),
                message,
            )]
        }
        VolumeSource::DataVolume(volume) if volume.name.is_empty() => {
            vec![FieldError::new(
                format!("{path}.name"),
                "name the data volume",
            )]
        }
        VolumeSource::ConfigMap(map) if map.name.as_deref().unwrap_or_default().is_empty() => {
            vec![FieldError::new(
                format!("{path}.name"),
                "name the ConfigMap",
            )]
        }
        VolumeSource::Secret(secret)
            if secret.secret_name.as_deref().unwrap_or_default().is_empty() =>
        {
            vec![FieldError::new(
                format!("{path}.secretName"),
                "name the Secret",
            )]
        }
        _ => Vec::new(),
    }
}

fn malformed(capacity: &crate::Quantity, path: &str) -> Vec<FieldError> {
    use crate::quantity::QuantityError::Malformed;
    match capacity.bytes() {
        Err(error @ Malformed(_)) => vec![FieldError::new(format!("{path}.capacity"), error)],
        _ => Vec::new(),
    }
}

fn container_disk(disk: &ContainerDiskSource, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = || format!("{path}.imagePullPolicy");
    if disk.image_pull_policy.as_deref() == Some("") {
        errors.push(FieldError::new(
            policy(),
            "choose Always, Never or IfNotPresent, or leave it out",
        ));
    }
    errors.extend(word::<PullPolicy>(policy, disk.image_pull_policy.as_deref()).err());
    errors.extend(image_path(disk.path.as_deref().unwrap_or_default(), path));
    errors
}

/// What is wrong with the path of a file in an image, which is named at `field`; an empty one counts
/// as absent.
pub(super) fn image_path(file: &str, field: &str) -> Option<FieldError> {
    let wrong = !file.starts_with('/')
        || file.ends_with('/')
        || file.len() >= PATH_MAX
        || file.contains(char::is_control)
        || file.split('/').any(|part| part == "..");
    (wrong && !file.is_empty()).then(|| {
        let message = format!(
            "`{file}` is not the absolute path of a file in the image, such as /disk/root.qcow2"
        );
        FieldError::new(field, message)
    })
}

fn host_disk(disk: &HostDisk, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if disk.path.is_empty() {
        let message = "name the file";
        errors.push(FieldError::new(format!("{path}.path"), message));
    }
    let kind = || format!("{path}.type");
    errors.extend(strict::<HostDiskType>(kind, Some(&disk.r#type)));
    let capacity = disk.capacity.as_ref();
    errors.extend(capacity.into_iter().flat_map(|it| malformed(it, path)));
    errors
}

fn seed_data(seed: &CloudInitSource, path: &str) -> Vec<FieldError> {
    let (user, network) = match cloud_init(seed, path) {
        Ok(data) => data,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for (name, datum) in [("userData", user), ("networkData", network)] {
        let field = format!("{path}.{name}");
        match datum {
            Some(Datum::Inline(bytes)) if bytes.len() > MAXIMUM_SEED_BYTES => {
                let message = format!(
                    "{} bytes are given, at most {MAXIMUM_SEED_BYTES} can stand here: put them into a Secret",
                    bytes.len()
                );
                errors.push(FieldError::new(field, message));
            }
            Some(Datum::Secret(secret)) if !Form::Subdomain.allows(secret) => {
                errors.extend(
                    wrong(Form::Subdomain, secret).map(|message| FieldError::new(path, message)),
                );
            }
            _ => {}
        }
    }
    errors
}
