//! The volumes of a machine as its pod has them: claims, images, seeds, settings and shared directories
//! below `/volumes`, the first containerDisk as the container's own image.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ImageVolumeSource, PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource, Volume, VolumeDevice, VolumeMount,
};
use vm_api::contract::{KERNEL_BOOT_VOLUME, volume_path};
use vm_api::machine::{
    DiskKind, MachineDisk, MachineFilesystem, VolumeSource, disks, filesystems, host_disk,
    kernel_boot,
};
use vm_api::v1::{ContainerDiskSource, KernelBootContainer, VirtualMachineInstanceSpec};
use vm_api::{FieldError, Quantity};

use super::{ImageForm, directory, seed};

/// Claims by name, as they were looked up.
pub type Claims = BTreeMap<String, Claim>;

/// What the pod needs to know of a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// Its volume mode is Block.
    pub block: bool,
    /// Its capacity, or what it asks for while it is not bound.
    pub size: Option<Quantity>,
}

impl From<&PersistentVolumeClaim> for Claim {
    fn from(claim: &PersistentVolumeClaim) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        let capacity = claim
            .status
            .clone()
            .unwrap_or_default()
            .capacity
            .unwrap_or_default();
        let requests = spec
            .resources
            .and_then(|resources| resources.requests)
            .unwrap_or_default();
        let size = capacity.get("storage").or_else(|| requests.get("storage"));
        Self {
            block: spec.volume_mode.as_deref() == Some("Block"),
            size: size.map(|size| Quantity(size.0.clone())),
        }
    }
}

/// An image: the machine container's, or one beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub(super) reference: String,
    pub(super) pull_policy: Option<String>,
    pub(super) pull_secret: Option<String>,
}

impl From<&ContainerDiskSource> for Image {
    fn from(disk: &ContainerDiskSource) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            reference: disk.image.clone(),
            pull_policy: given(&disk.image_pull_policy),
            pull_secret: given(&disk.image_pull_secret),
        }
    }
}

impl From<&KernelBootContainer> for Image {
    fn from(kernel: &KernelBootContainer) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            reference: kernel.image.clone(),
            pull_policy: given(&kernel.image_pull_policy),
            pull_secret: given(&kernel.image_pull_secret),
        }
    }
}

/// The volumes of a pod.
#[derive(Default)]
pub(super) struct Volumes {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) devices: Vec<VolumeDevice>,
    /// Sizes of claims of volume mode Filesystem, by volume.
    pub(super) sizes: BTreeMap<String, Quantity>,
    /// The machine container's image.
    pub(super) image: Option<Image>,
    /// What further images are.
    form: ImageForm,
    /// Further images by volume, where they are containers.
    pub(super) sidecars: Vec<(String, Image)>,
    /// Names of the Secrets that images are pulled with.
    pub(super) pull_secrets: BTreeSet<String>,
    /// The service account whose token is shared.
    pub(super) service_account: Option<String>,
}

/// The claims that the spec's volumes refer to, each with the name of its volume.
pub fn claim_names(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<(String, String)>, Vec<FieldError>> {
    let disks = disks(spec)?.into_iter();
    let disks = disks.filter_map(|disk| Some((disk.name, disk.source?)));
    let shared = filesystems(spec)?.into_iter();
    let shared = shared.filter_map(|shared| Some((shared.name, shared.source?)));
    let named = |(name, source): (&str, VolumeSource<'_>)| {
        Some((name.to_owned(), source.claim_name()?.to_owned()))
    };
    Ok(disks.chain(shared).filter_map(named).collect())
}

/// The volumes of the pod of a machine with that spec.
pub(super) fn render(
    spec: &VirtualMachineInstanceSpec,
    claims: &Claims,
    form: ImageForm,
) -> Result<Volumes, Vec<FieldError>> {
    let mut rendered = Volumes {
        form,
        ..Volumes::default()
    };
    let mut errors = Vec::new();
    for disk in disks(spec)? {
        if let Err(error) = rendered.add(spec, &disk, claims) {
            errors.push(error);
        }
    }
    if let Some(boot) = kernel_boot(spec).map_err(|error| vec![error])? {
        rendered.add_image(KERNEL_BOOT_VOLUME, boot.container.into());
    }
    for shared in filesystems(spec)? {
        if let Err(error) = rendered.add_directory(spec, &shared, claims) {
            errors.push(error);
        }
    }
    if errors.is_empty() {
        Ok(rendered)
    } else {
        Err(errors)
    }
}

impl Volumes {
    fn add(
        &mut self,
        spec: &VirtualMachineInstanceSpec,
        disk: &MachineDisk<'_>,
        claims: &Claims,
    ) -> Result<(), FieldError> {
        let Some(source) = disk.source else {
            return Ok(());
        };
        let path = path_of(spec, disk.name);
        match source {
            VolumeSource::ContainerDisk(image) => self.add_image(disk.name, image.into()),
            VolumeSource::EmptyDisk(_) => {}
            VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => {
                let path = format!("{path}.{}", source.name());
                if let Some(volume) = seed::volume(disk.name, seed, &path)? {
                    self.volumes.push(volume);
                    self.mount(disk.name, true);
                }
            }
            VolumeSource::HostDisk(wish) => {
                let directory = host_disk(wish, &path)?.directory;
                self.volumes.push(Volume {
                    name: disk.name.to_owned(),
                    host_path: Some(HostPathVolumeSource {
                        path: directory.to_owned(),
                        // What is not there is not made: it would be root's.
                        type_: Some("Directory".to_owned()),
                    }),
                    ..Volume::default()
                });
                self.mount(disk.name, disk.read_only);
            }
            source if source.is_generated() => self.add_files(disk.name, source),
            source => {
                let Some(name) = source.claim_name() else {
                    return Err(FieldError::new(
                        format!("{path}.{}", source.name()),
                        "is not supported: use containerDisk, persistentVolumeClaim, emptyDisk or \
                         cloudInitNoCloud",
                    ));
                };
                let claim = look_up(claims, name, &path)?;
                if disk.kind == DiskKind::Lun && !claim.block {
                    let message = format!(
                        "the claim `{name}` is of volume mode Filesystem, and a LUN is a device: make \
                         it a disk, or use a claim of volume mode Block"
                    );
                    return Err(FieldError::new(path, message));
                }
                self.add_claim(disk, source, claim);
            }
        }
        Ok(())
    }

    /// A directory of files, for the guest to mount or as what a disk is made of.
    fn add_files(&mut self, name: &str, source: VolumeSource<'_>) {
        self.volumes.push(directory::volume(name, source));
        self.mount(name, true);
        if let VolumeSource::ServiceAccount(account) = source {
            self.service_account = account.service_account_name.clone();
        }
    }

    fn add_directory(
        &mut self,
        spec: &VirtualMachineInstanceSpec,
        shared: &MachineFilesystem<'_>,
        claims: &Claims,
    ) -> Result<(), FieldError> {
        let Some(source) = shared.source else {
            let message = format!(
                "no volume is called `{}`: add it to volumes, or leave the file system out",
                shared.name
            );
            let mut listed = spec.domain.devices.filesystems.iter();
            let index = listed
                .position(|it| it.name == shared.name)
                .unwrap_or_default();
            let path = format!("domain.devices.filesystems[{index}].name");
            return Err(FieldError::new(path, message));
        };
        if let Some(name) = source.claim_name() {
            let path = path_of(spec, shared.name);
            if look_up(claims, name, &path)?.block {
                let message = format!(
                    "the claim `{name}` is of volume mode Block and holds no directory: make it a \
                     disk, or use a claim of volume mode Filesystem"
                );
                return Err(FieldError::new(
                    format!("{path}.{}", source.name()),
                    message,
                ));
            }
        }
        self.volumes.push(directory::volume(shared.name, source));
        self.mount(shared.name, shared.read_only);
        if let VolumeSource::ServiceAccount(account) = source {
            self.service_account = account.service_account_name.clone();
        }
        Ok(())
    }

    /// The first image is the container's own; what is in no other has a volume or a container to itself.
    fn add_image(&mut self, volume: &str, image: Image) {
        self.pull_secrets.extend(image.pull_secret.clone());
        match &self.image {
            None => self.image = Some(image),
            // A kernel from the image that is there anyway; two disks of one image are two volumes.
            Some(own) if own.reference == image.reference && volume == KERNEL_BOOT_VOLUME => {}
            Some(_) if self.form == ImageForm::Sidecar => {
                self.sidecars.push((volume.to_owned(), image));
            }
            Some(_) => {
                self.volumes.push(Volume {
                    name: volume.to_owned(),
                    image: Some(ImageVolumeSource {
                        reference: Some(image.reference),
                        pull_policy: image.pull_policy,
                    }),
                    ..Volume::default()
                });
                self.mount(volume, true);
            }
        }
    }

    fn add_claim(&mut self, disk: &MachineDisk<'_>, source: VolumeSource<'_>, claim: &Claim) {
        let volume = disk.name;
        let only_read = matches!(source, VolumeSource::Ephemeral(_));
        let read_only = match source {
            VolumeSource::Ephemeral(ephemeral) => {
                let claim = ephemeral.persistent_volume_claim.as_ref();
                claim.and_then(|claim| claim.read_only)
            }
            _ => None,
        };
        self.volumes.push(Volume {
            name: volume.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: source.claim_name().unwrap_or_default().to_owned(),
                read_only,
            }),
            ..Volume::default()
        });
        if claim.block {
            self.devices.push(VolumeDevice {
                name: volume.to_owned(),
                device_path: volume_path(volume),
            });
            return;
        }
        self.mount(volume, disk.read_only || only_read);
        if let Some(size) = &claim.size {
            self.sizes.insert(volume.to_owned(), size.clone());
        }
    }

    fn mount(&mut self, volume: &str, read_only: bool) {
        self.mounts.push(VolumeMount {
            name: volume.to_owned(),
            mount_path: volume_path(volume),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
    }
}

fn look_up<'a>(claims: &'a Claims, name: &str, path: &str) -> Result<&'a Claim, FieldError> {
    let missing = || FieldError::new(path, format!("the claim `{name}` was not looked up"));
    claims.get(name).ok_or_else(missing)
}

fn path_of(spec: &VirtualMachineInstanceSpec, volume: &str) -> String {
    let index = spec
        .volumes
        .iter()
        .position(|candidate| candidate.name == volume);
    index.map_or_else(|| "volumes".to_owned(), |index| format!("volumes[{index}]"))
}
