//! The volumes of a machine as its pod has them: claims, seeds and shared directories below
//! `/volumes`, the first containerDisk as the container's own image.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretProjection, SecretVolumeSource, Volume, VolumeDevice, VolumeMount, VolumeProjection,
};
use vm_api::contract::{SEED_NETWORK_DATA_FILE, SEED_USER_DATA_FILE, volume_path};
use vm_api::machine::{
    Datum, MachineDisk, MachineFilesystem, NETWORK_DATA_KEY, USER_DATA_KEY, VolumeSource,
    cloud_init, disks, filesystems,
};
use vm_api::v1::{CloudInitSource, ContainerDiskSource, VirtualMachineInstanceSpec};
use vm_api::{FieldError, Quantity};

use super::directory;

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

/// The image of the machine container.
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

/// The volumes of a pod.
#[derive(Default)]
pub(super) struct Volumes {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) devices: Vec<VolumeDevice>,
    /// Sizes of claims of volume mode Filesystem, by volume.
    pub(super) sizes: BTreeMap<String, Quantity>,
    pub(super) image: Option<Image>,
    /// The service account whose token is shared.
    pub(super) service_account: Option<String>,
}

/// The claims that the spec's volumes refer to, each with the name of its volume.
pub fn claim_names(
    spec: &VirtualMachineInstanceSpec,
) -> Result<Vec<(String, String)>, Vec<FieldError>> {
    let disks = disks(spec)?
        .into_iter()
        .map(|disk| (disk.name, disk.source));
    let shared = filesystems(spec)?.into_iter();
    let shared = shared.filter_map(|shared| Some((shared.name, shared.source?)));
    let named = |(name, source): (&str, _)| Some((name.to_owned(), claim_name(source)?.to_owned()));
    Ok(disks.chain(shared).filter_map(named).collect())
}

fn claim_name(source: VolumeSource<'_>) -> Option<&str> {
    match source {
        VolumeSource::PersistentVolumeClaim(claim) => Some(&claim.claim_name),
        _ => None,
    }
}

/// The volumes of the pod of a machine with that spec.
pub(super) fn render(
    spec: &VirtualMachineInstanceSpec,
    claims: &Claims,
) -> Result<Volumes, Vec<FieldError>> {
    let mut rendered = Volumes::default();
    let mut errors = Vec::new();
    for disk in disks(spec)? {
        if let Err(error) = rendered.add(spec, &disk, claims) {
            errors.push(error);
        }
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
        let path = || path_of(spec, disk.name);
        match disk.source {
            VolumeSource::ContainerDisk(image) => self.set_image(image, &path()),
            VolumeSource::EmptyDisk(_) => Ok(()),
            VolumeSource::CloudInitNoCloud(seed) => {
                let path = format!("{}.{}", path(), disk.source.name());
                self.add_seed(disk.name, seed, &path)
            }
            source => match claim_name(source) {
                Some(name) => {
                    let claim = look_up(claims, name, &path())?;
                    self.add_claim(disk.name, name, claim, disk.read_only);
                    Ok(())
                }
                None => Err(FieldError::new(
                    format!("{}.{}", path(), source.name()),
                    "is not supported: use containerDisk, persistentVolumeClaim, emptyDisk or \
                     cloudInitNoCloud",
                )),
            },
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
        if let Some(name) = claim_name(source) {
            let path = path_of(spec, shared.name);
            if look_up(claims, name, &path)?.block {
                let message = format!(
                    "the claim `{name}` is of volume mode Block and holds no directory: make it a \
                     disk, or use a claim of volume mode Filesystem"
                );
                let path = format!("{path}.persistentVolumeClaim.claimName");
                return Err(FieldError::new(path, message));
            }
        }
        self.volumes.push(directory::volume(shared.name, source));
        self.mount(shared.name, shared.read_only);
        if let VolumeSource::ServiceAccount(account) = source {
            self.service_account = account.service_account_name.clone();
        }
        Ok(())
    }

    fn set_image(&mut self, image: &ContainerDiskSource, path: &str) -> Result<(), FieldError> {
        if self.image.is_some() {
            return Err(FieldError::new(
                format!("{path}.containerDisk"),
                "a second containerDisk is not supported: put that disk on a claim \
                 (persistentVolumeClaim)",
            ));
        }
        self.image = Some(image.into());
        Ok(())
    }

    fn add_claim(&mut self, volume: &str, name: &str, claim: &Claim, read_only: bool) {
        self.volumes.push(Volume {
            name: volume.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name.to_owned(),
                read_only: None,
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
        self.mount(volume, read_only);
        if let Some(size) = &claim.size {
            self.sizes.insert(volume.to_owned(), size.clone());
        }
    }

    fn add_seed(
        &mut self,
        name: &str,
        seed: &CloudInitSource,
        path: &str,
    ) -> Result<(), FieldError> {
        let (user, network) = cloud_init(seed, path)?;
        let secret = |datum: &Option<Datum<'_>>| match datum {
            Some(Datum::Secret(name)) => Some((*name).to_owned()),
            _ => None,
        };
        let mut volume = Volume {
            name: name.to_owned(),
            ..Volume::default()
        };
        match (secret(&user), secret(&network)) {
            (None, None) => return Ok(()),
            (Some(user), Some(network)) if user != network => {
                volume.projected = Some(projected(user, network));
            }
            (Some(name), _) | (_, Some(name)) => {
                volume.secret = Some(SecretVolumeSource {
                    secret_name: Some(name),
                    ..SecretVolumeSource::default()
                });
            }
        }
        self.volumes.push(volume);
        self.mount(name, true);
        Ok(())
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

/// User data of one Secret and network data of another in one directory.
fn projected(user: String, network: String) -> ProjectedVolumeSource {
    let source = |name: String, key: &str, path: &str| VolumeProjection {
        secret: Some(SecretProjection {
            name,
            items: Some(vec![KeyToPath {
                key: key.to_owned(),
                path: path.to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    ProjectedVolumeSource {
        sources: Some(vec![
            source(user, USER_DATA_KEY, SEED_USER_DATA_FILE),
            source(network, NETWORK_DATA_KEY, SEED_NETWORK_DATA_FILE),
        ]),
        default_mode: None,
    }
}

fn path_of(spec: &VirtualMachineInstanceSpec, volume: &str) -> String {
    let index = spec
        .volumes
        .iter()
        .position(|candidate| candidate.name == volume);
    index.map_or_else(|| "volumes".to_owned(), |index| format!("volumes[{index}]"))
}
