//! What the pod wishes of its machine: the annotation's spec, over what a plain pod means.

use vm_api::annotation::{self, AnnotationError};
use vm_api::contract::{IMAGE_CONTAINERS_ANNOTATION, VMI_SPEC_ANNOTATION, VOLUMES_DIRECTORY};
use vm_api::field::{self, FieldError};
use vm_api::machine::{self, VolumeSource};
use vm_api::v1::{ContainerDiskSource, Disk, DiskTarget, VirtualMachineInstanceSpec, Volume};

use crate::bundle::Bundle;
use crate::images::ImageRoots;
use crate::mounts::PodMounts;

/// Name of the disk in the image, where the annotation names none.
const IMAGE_DISK: &str = "boot";

/// Why a wish cannot be fulfilled.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum WishError {
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error("annotation {VMI_SPEC_ANNOTATION}: {}", field::join(.0))]
    Fields(Vec<FieldError>),
    #[error(
        "annotation {VMI_SPEC_ANNOTATION}: volumes {first} and {second} are both containerDisks, \
         but the machine container has one image: mount the other's as an image volume at \
         {VOLUMES_DIRECTORY}/{second}, name a container of that image in the annotation \
         {IMAGE_CONTAINERS_ANNOTATION}, or leave one"
    )]
    TwoContainerDisks { first: String, second: String },
}

impl From<FieldError> for WishError {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

impl From<Vec<FieldError>> for WishError {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Fields(errors)
    }
}

/// The spec in the annotation of `bundle`. The disk in the image, if it `has_disk`, is the
/// machine's first even where the spec does not name it. A containerDisk is in the image that the pod
/// mounts as the volume of its name, or has a container of; the one that is in none is in the machine
/// container's own.
pub fn read(
    bundle: &Bundle,
    mounts: &PodMounts,
    images: &ImageRoots,
    has_disk: bool,
) -> Result<VirtualMachineInstanceSpec, WishError> {
    let mut spec = match bundle.annotation(VMI_SPEC_ANNOTATION) {
        Some(json) => annotation::read(json)?,
        None => VirtualMachineInstanceSpec::default(),
    };
    let mut of_image = Vec::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let source = machine::source(volume, index)?;
        let name = &volume.name;
        let elsewhere = mounts.volume(name).is_ok() || images.root(name).is_some();
        if matches!(source, VolumeSource::ContainerDisk(_)) && !elsewhere {
            of_image.push(volume.name.clone());
        }
    }
    match of_image.as_slice() {
        [] if has_disk => add_image_disk(&mut spec),
        [first, second, ..] => {
            let (first, second) = (first.clone(), second.clone());
            return Err(WishError::TwoContainerDisks { first, second });
        }
        _ => {}
    }
    Ok(spec)
}

fn add_image_disk(spec: &mut VirtualMachineInstanceSpec) {
    let mut name = IMAGE_DISK.to_owned();
    let devices = &spec.domain.devices;
    while spec.volumes.iter().any(|volume| volume.name == name)
        || devices.filesystems.iter().any(|shared| shared.name == name)
    {
        name.insert_str(0, "image-");
    }
    let volume = Volume {
        name: name.clone(),
        container_disk: Some(ContainerDiskSource::default()),
        ..Volume::default()
    };
    let disk = Disk {
        name,
        disk: Some(DiskTarget {
            bus: Some("virtio".to_owned()),
            ..DiskTarget::default()
        }),
        ..Disk::default()
    };
    spec.volumes.insert(0, volume);
    spec.domain.devices.disks.insert(0, disk);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{bundle, spec};
    use crate::images::ImageContainers;

    fn wish(json: &str, has_disk: bool) -> Result<VirtualMachineInstanceSpec, WishError> {
        let mut spec = spec();
        if !json.is_empty() {
            spec["annotations"][VMI_SPEC_ANNOTATION] = json.into();
        }
        let bundle = bundle(spec);
        let mounts = PodMounts::of(&bundle).unwrap();
        read(&bundle, &mounts, &ImageRoots::default(), has_disk)
    }

    #[test]
    fn a_plain_pod_has_its_images_disk_on_virtio() {
        let spec = wish("", true).unwrap();
        let disks = machine::disks(&spec).unwrap();
        assert_eq!(disks.len(), 1);
        assert_eq!(
            (disks[0].name, disks[0].bus),
            ("boot", machine::DiskBus::Virtio)
        );
        assert!(wish("", false).unwrap().volumes.is_empty());
    }

    #[test]
    fn the_images_disk_comes_first_unless_it_is_named() {
        let seed = r#"{"volumes":[{"name":"boot","cloudInitNoCloud":{"userData":"x"}}]}"#;
        let spec = wish(seed, true).unwrap();
        let names: Vec<_> = machine::disks(&spec)
            .unwrap()
            .iter()
            .map(|disk| disk.name)
            .collect();
        assert_eq!(names, ["image-boot", "boot"]);
        let named = r#"{"volumes":[{"name":"root","containerDisk":{"image":"x"}}]}"#;
        assert_eq!(wish(named, true).unwrap().volumes.len(), 1);
    }

    #[test]
    fn images_that_the_pod_mounts_are_disks_beside_its_own() {
        let mut spec = spec();
        let mount = serde_json::json!({
            "destination": "/volumes/data", "type": "bind", "source": "/x", "options": ["rbind", "ro"],
        });
        spec["mounts"].as_array_mut().unwrap().push(mount);
        let json = r#"{"volumes":[{"name":"data","containerDisk":{"image":"x"}}]}"#;
        spec["annotations"][VMI_SPEC_ANNOTATION] = json.into();
        let bundle = bundle(spec);
        let mounts = PodMounts::of(&bundle).unwrap();
        let names = |has_disk| {
            let spec = read(&bundle, &mounts, &ImageRoots::default(), has_disk).unwrap();
            let names = spec.volumes.into_iter().map(|volume| volume.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["boot", "data"]);
        assert_eq!(names(false), ["data"]);
    }

    #[test]
    fn images_that_are_containers_are_disks_beside_its_own() {
        let mut spec = spec();
        spec["annotations"][IMAGE_CONTAINERS_ANNOTATION] = "data=c".into();
        let json = r#"{"volumes":[{"name":"data","containerDisk":{"image":"x"}}]}"#;
        spec["annotations"][VMI_SPEC_ANNOTATION] = json.into();
        let (bundle, mounts) = (bundle(spec), PodMounts::default());
        let images = ImageContainers::of(&bundle).unwrap();
        let images = images.roots(&[("c".to_owned(), "/c".into())].into(), &mounts);
        let spec = read(&bundle, &mounts, &images.unwrap(), true).unwrap();
        let names: Vec<_> = spec.volumes.iter().map(|volume| &volume.name).collect();
        assert_eq!(names, ["boot", "data"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |json| wish(json, true).unwrap_err().to_string();
        assert!(error("{").contains("not JSON"));
        assert!(error(r#"{"domain":{"cpus":1}}"#).contains("domain.cpus"));
        assert!(
            error(r#"{"domain":{"devices":{"downwardMetrics":{}}}}"#)
                .contains("domain.devices.downwardMetrics")
        );
        let two = r#"{"volumes":[{"name":"a","containerDisk":{"image":"x"}},{"name":"b","containerDisk":{"image":"y"}}]}"#;
        assert!(error(two).contains("a and b"));
    }
}
