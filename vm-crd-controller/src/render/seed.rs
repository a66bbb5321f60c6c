//! The Secrets of a seed, as a volume of its pod. What stands in the spec is in the annotation.

use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume,
    VolumeProjection,
};
use vm_api::FieldError;
use vm_api::contract::{SEED_NETWORK_DATA_FILE, SEED_USER_DATA_FILE};
use vm_api::machine::{Datum, NETWORK_DATA_KEY, USER_DATA_KEY, cloud_init};
use vm_api::v1::CloudInitSource;

/// The volume `name` with the Secrets of `seed`, if it has any; `path` is the seed's.
pub(super) fn volume(
    name: &str,
    seed: &CloudInitSource,
    path: &str,
) -> Result<Option<Volume>, FieldError> {
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
        (None, None) => return Ok(None),
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
    Ok(Some(volume))
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
