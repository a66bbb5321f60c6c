//! Images of the machine's disks that are containers of its pod: mounted, and without a process.
//!
//! They stand in for image volumes. The pod's annotation names them, and can name only what the pod has;
//! their roots are mounted by the shim when the machine looks for its disks there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use vm_api::contract::{IMAGE_CONTAINERS_ANNOTATION, KERNEL_BOOT_VOLUME, VOLUMES_DIRECTORY};
use vm_api::field::shown;

use crate::bundle::Bundle;
use crate::mounts::{self, PodMounts};

/// The containers of a pod that are images, by volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageContainers(BTreeMap<String, String>);

/// Roots of images, by volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRoots(BTreeMap<String, PathBuf>);

/// Why images cannot be containers as the pod says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum ImagesError {
    #[error(
        "annotation {IMAGE_CONTAINERS_ANNOTATION}: {0:?} names no container: write volume=container, with \
         commas between, and each volume once"
    )]
    Annotation(String),
    #[error(
        "annotation {IMAGE_CONTAINERS_ANNOTATION}: container {container}, the image of volume \
         {volume}, is not there: make it an init container with restartPolicy: Always"
    )]
    NotThere { volume: String, container: String },
    #[error(
        "annotation {IMAGE_CONTAINERS_ANNOTATION}: volume {0} is mounted at {VOLUMES_DIRECTORY}/{0} \
         too; leave one"
    )]
    Mounted(String),
    #[error(
        "annotation {IMAGE_CONTAINERS_ANNOTATION}: the machine's spec has no containerDisk {0}, nor is \
         that the image of its kernel; add the volume or leave the image out"
    )]
    NotReferred(String),
    #[error(
        "mount {}: the container is an image of a disk and runs nothing that would use it; remove the \
         mount", .0.display()
    )]
    Mount(PathBuf),
}

impl ImageContainers {
    /// Those that the annotation in `bundle` names.
    pub fn of(bundle: &Bundle) -> Result<Self, ImagesError> {
        let mut named = BTreeMap::new();
        let list = bundle.annotation(IMAGE_CONTAINERS_ANNOTATION);
        for entry in list.iter().flat_map(|list| list.split(',')) {
            let pair = entry.split_once('=');
            let pair = pair.filter(|(volume, container)| is_name(volume) && is_name(container));
            let (volume, container) = pair.ok_or_else(|| ImagesError::Annotation(shown(entry)))?;
            if named
                .insert(volume.to_owned(), container.to_owned())
                .is_some()
            {
                return Err(ImagesError::Annotation(shown(entry)));
            }
        }
        Ok(Self(named))
    }

    /// Whether the container of that name is one of them.
    pub fn contains(&self, container: &str) -> bool {
        self.0.values().any(|name| name == container)
    }

    /// The roots of all, among `mounted` by the name of the container; none stands for a volume that is
    /// one of the `mounts` too.
    pub fn roots(
        &self,
        mounted: &BTreeMap<String, PathBuf>,
        mounts: &PodMounts,
    ) -> Result<ImageRoots, ImagesError> {
        let root = |(volume, container): (&String, &String)| {
            if mounts.volume(volume).is_ok() {
                return Err(ImagesError::Mounted(volume.clone()));
            }
            let root = mounted.get(container);
            let root = root.ok_or_else(|| ImagesError::NotThere {
                volume: volume.clone(),
                container: container.clone(),
            })?;
            Ok((volume.clone(), root.clone()))
        };
        self.0
            .iter()
            .map(root)
            .collect::<Result<_, _>>()
            .map(ImageRoots)
    }
}

impl ImageRoots {
    /// The root of the image of `volume`.
    pub fn root(&self, volume: &str) -> Option<&Path> {
        self.0.get(volume).map(PathBuf::as_path)
    }

    /// Refuses images that are neither of the containerDisks that are `referred` to nor, where a
    /// `kernel` is booted, the kernel's.
    pub fn check_referred(&self, referred: &[&str], kernel: bool) -> Result<(), ImagesError> {
        let is_referred =
            |name: &str| referred.contains(&name) || kernel && name == KERNEL_BOOT_VOLUME;
        match self.0.keys().find(|name| !is_referred(name)) {
            Some(name) => Err(ImagesError::NotReferred(name.clone())),
            None => Ok(()),
        }
    }
}

/// Whether `text` has the characters of a volume's or a container's name (RFC 1123's labels).
fn is_name(text: &str) -> bool {
    let of_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(of_label)
}

/// Refuses what the pod mounts into the container of `bundle`, an image: nobody would see it.
pub fn check_mounts(bundle: &Bundle) -> Result<(), ImagesError> {
    match mounts::of_pod(bundle).next() {
        Some(mount) => Err(ImagesError::Mount(mount.destination().clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bundle::tests::{bundle, spec};

    fn named(list: &str) -> Result<ImageContainers, ImagesError> {
        let mut spec = spec();
        spec["annotations"][IMAGE_CONTAINERS_ANNOTATION] = list.into();
        ImageContainers::of(&bundle(spec))
    }

    #[test]
    fn images_are_found_by_the_names_of_their_containers() {
        let none = ImageContainers::of(&bundle(spec())).unwrap();
        assert!(!none.contains("vm"));
        let images = named("data=image-data,kernel-boot=k").unwrap();
        assert!(images.contains("image-data") && images.contains("k") && !images.contains("data"));
        let mounts = PodMounts::default();
        let mut mounted = BTreeMap::from([("k".to_owned(), PathBuf::from("/k"))]);
        let error = images.roots(&mounted, &mounts).unwrap_err().to_string();
        assert!(
            error.contains("image-data") && error.contains("volume data"),
            "{error}"
        );
        mounted.insert("image-data".into(), "/d".into());
        let roots = images.roots(&mounted, &mounts).unwrap();
        assert_eq!(roots.root("data"), Some(Path::new("/d")));
        assert_eq!(roots.root("k"), None);
        roots.check_referred(&["data"], true).unwrap();
        for (referred, kernel, name) in [
            (vec!["data"], false, KERNEL_BOOT_VOLUME),
            (Vec::new(), true, "data"),
        ] {
            let error = roots.check_referred(&referred, kernel);
            assert_eq!(error, Err(ImagesError::NotReferred(name.into())));
        }
    }

    #[test]
    fn what_is_no_list_is_refused_on_one_line() {
        for list in [
            "", "a", "a=", "=b", "a=b,", "a=b,a=c", "a=b=c", "a=b, c=d", "a=\nb", "{}",
        ] {
            let error = named(list).unwrap_err().to_string();
            assert!(
                error.contains(IMAGE_CONTAINERS_ANNOTATION) && !error.contains('\n'),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_is_mounted_into_an_image_or_over_one() {
        let mut spec = spec();
        check_mounts(&bundle(spec.clone())).unwrap();
        let bind = |destination: &str| {
            json!({
                "destination": destination, "type": "bind", "source": "/x", "options": ["rbind", "ro"],
            })
        };
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for of_runtime in [
            "/etc/hosts",
            "/etc/resolv.conf",
            "/dev/termination-log",
            "/dev/shm",
        ] {
            mounts.push(bind(of_runtime));
        }
        check_mounts(&bundle(spec.clone())).unwrap();
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(bind("/volumes/data"));
        let bundle = bundle(spec);
        assert_eq!(
            check_mounts(&bundle),
            Err(ImagesError::Mount("/volumes/data".into()))
        );
        let mounted = BTreeMap::from([("c".to_owned(), PathBuf::from("/c"))]);
        let roots = named("data=c").unwrap();
        let roots = roots.roots(&mounted, &PodMounts::of(&bundle).unwrap());
        assert_eq!(roots, Err(ImagesError::Mounted("data".into())));
    }
}
