//! A directory that is shared with the guest, or whose files a disk is made of, as a volume of its pod.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile,
    DownwardAPIVolumeSource, KeyToPath, ObjectFieldSelector, PersistentVolumeClaimVolumeSource,
    ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use vm_api::machine::VolumeSource;

/// Seconds that a token is valid for; kubelet renews it in time. What the API server gives every
/// pod: an hour, and seven seconds by which audits tell it from others.
const TOKEN_SECONDS: i64 = 3607;

/// The ConfigMap with the cluster's certificate authority that every namespace has.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The volume `name` of the pod, made from `source`.
pub(super) fn volume(name: &str, source: VolumeSource<'_>) -> Volume {
    let mut volume = Volume {
        name: name.to_owned(),
        ..Volume::default()
    };
    match source {
        VolumeSource::ConfigMap(source) => {
            volume.config_map = Some(ConfigMapVolumeSource {
                name: source.name.clone().unwrap_or_default(),
                optional: source.optional,
                ..ConfigMapVolumeSource::default()
            });
        }
        VolumeSource::Secret(source) => {
            volume.secret = Some(SecretVolumeSource {
                secret_name: source.secret_name.clone(),
                optional: source.optional,
                ..SecretVolumeSource::default()
            });
        }
        VolumeSource::DownwardApi(source) => {
            volume.downward_api = Some(DownwardAPIVolumeSource {
                items: Some(source.fields.clone()),
                default_mode: None,
            });
        }
        VolumeSource::ServiceAccount(_) => volume.projected = Some(service_account()),
        VolumeSource::PersistentVolumeClaim(source) => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: source.claim_name.clone(),
                read_only: source.read_only,
            });
        }
        VolumeSource::DataVolume(source) => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: source.name.clone(),
                read_only: None,
            });
        }
        VolumeSource::Sysprep(source) => {
            volume.config_map = source.config_map.as_ref().map(|map| ConfigMapVolumeSource {
                name: map.name.clone(),
                ..ConfigMapVolumeSource::default()
            });
            volume.secret = source.secret.as_ref().map(|secret| SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                ..SecretVolumeSource::default()
            });
        }
        // Nothing else is a directory.
        _ => {}
    }
    volume
}

/// What a container finds at `/var/run/secrets/kubernetes.io/serviceaccount`.
fn service_account() -> ProjectedVolumeSource {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(TOKEN_SECONDS),
            audience: None,
        }),
        ..VolumeProjection::default()
    };
    let authority = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: ROOT_CA.to_owned(),
            items: Some(vec![KeyToPath {
                key: "ca.crt".to_owned(),
                path: "ca.crt".to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: "metadata.namespace".to_owned(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    ProjectedVolumeSource {
        sources: Some(vec![token, authority, namespace]),
        default_mode: None,
    }
}
