//! What a volume is made from.

use std::borrow::Cow;

use crate::field::FieldError;
use crate::v1::{
    CloudInitSource, ConfigMapVolumeSource, ContainerDiskSource, ContainerPathVolumeSource,
    DataVolumeSource, DownwardApiVolumeSource, EmptyDiskSource, EphemeralVolumeSource, HostDisk,
    MemoryDumpVolumeSource, PersistentVolumeClaimVolumeSource, SecretVolumeSource,
    ServiceAccountVolumeSource, SysprepSource, Volume,
};

/// Defines the sources of a volume and how the one that is set is found.
macro_rules! sources {
    ($($(#[$doc:meta])* $variant:ident($source:ty) = $field:ident, $name:literal;)+) => {
        /// What a volume is made from.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum VolumeSource<'a> { $($(#[$doc])* $variant(&'a $source),)+ }

        impl VolumeSource<'_> {
            /// The name of the source in the volume, such as `containerDisk`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }
        }

        fn sources(volume: &Volume) -> Vec<VolumeSource<'_>> {
            let all = [$(volume.$field.as_ref().map(|source| VolumeSource::$variant(source)),)+];
            all.into_iter().flatten().collect()
        }
    };
}

sources! {
    /// A disk in a container image.
    ContainerDisk(ContainerDiskSource) = container_disk, "containerDisk";
    /// A claim.
    PersistentVolumeClaim(PersistentVolumeClaimVolumeSource) = persistent_volume_claim, "persistentVolumeClaim";
    /// A data volume.
    DataVolume(DataVolumeSource) = data_volume, "dataVolume";
    /// An empty disk.
    EmptyDisk(EmptyDiskSource) = empty_disk, "emptyDisk";
    /// A claim that is only read.
    Ephemeral(EphemeralVolumeSource) = ephemeral, "ephemeral";
    /// A NoCloud seed.
    CloudInitNoCloud(CloudInitSource) = cloud_init_no_cloud, "cloudInitNoCloud";
    /// A config drive.
    CloudInitConfigDrive(CloudInitSource) = cloud_init_config_drive, "cloudInitConfigDrive";
    /// A ConfigMap.
    ConfigMap(ConfigMapVolumeSource) = config_map, "configMap";
    /// A Secret.
    Secret(SecretVolumeSource) = secret, "secret";
    /// A service account's token.
    ServiceAccount(ServiceAccountVolumeSource) = service_account, "serviceAccount";
    /// Fields of the pod.
    DownwardApi(DownwardApiVolumeSource) = downward_api, "downwardAPI";
    /// Metrics of the node.
    DownwardMetrics(crate::v1::Empty) = downward_metrics, "downwardMetrics";
    /// A file of the node.
    HostDisk(HostDisk) = host_disk, "hostDisk";
    /// Answers for the set-up of Windows.
    Sysprep(SysprepSource) = sysprep, "sysprep";
    /// A claim for dumps of the guest's memory.
    MemoryDump(MemoryDumpVolumeSource) = memory_dump, "memoryDump";
    /// A directory of the pod's container.
    ContainerPath(ContainerPathVolumeSource) = container_path, "containerPath";
}

impl<'a> VolumeSource<'a> {
    /// Whether its disk is made for this start from what the pod has: a seed, or settings.
    pub fn is_generated(self) -> bool {
        matches!(
            self,
            Self::CloudInitNoCloud(_)
                | Self::CloudInitConfigDrive(_)
                | Self::ConfigMap(_)
                | Self::Secret(_)
                | Self::ServiceAccount(_)
                | Self::DownwardApi(_)
                | Self::Sysprep(_)
        )
    }

    /// The claim behind it, if one is.
    pub fn claim_name(self) -> Option<&'a str> {
        match self {
            Self::PersistentVolumeClaim(claim) => Some(&claim.claim_name),
            Self::DataVolume(volume) => Some(&volume.name),
            Self::Ephemeral(volume) => {
                let claim = volume.persistent_volume_claim.as_ref()?;
                Some(&claim.claim_name)
            }
            _ => None,
        }
    }
}

/// The one source of the volume with number `index`.
pub fn source(volume: &Volume, index: usize) -> Result<VolumeSource<'_>, FieldError> {
    match sources(volume).as_slice() {
        [source] => Ok(*source),
        [] => Err(FieldError::new(
            format!("volumes[{index}]"),
            "no source is set: a volume needs one, such as containerDisk, persistentVolumeClaim, emptyDisk or cloudInitNoCloud",
        )),
        several => {
            let names: Vec<_> = several.iter().map(VolumeSource::name).collect();
            Err(FieldError::new(
                format!("volumes[{index}]"),
                format!(
                    "{} are set together: a volume has one source",
                    names.join(" and ")
                ),
            ))
        }
    }
}

/// Where a datum of a seed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// Here.
    Inline(Cow<'a, [u8]>),
    /// In the Secret of this name.
    Secret(&'a str),
}

/// Key of a Secret that holds user data.
pub const USER_DATA_KEY: &str = "userdata";

/// Key of a Secret that holds network data.
pub const NETWORK_DATA_KEY: &str = "networkdata";

/// User data and network data of a seed; `path` is the seed's.
pub fn cloud_init<'a>(
    seed: &'a CloudInitSource,
    path: &str,
) -> Result<(Option<Datum<'a>>, Option<Datum<'a>>), FieldError> {
    let secret = |reference: &'a Option<k8s_openapi::api::core::v1::LocalObjectReference>| {
        reference.as_ref().map(|reference| reference.name.as_str())
    };
    let user = datum(
        path,
        "userData",
        &seed.user_data,
        &seed.user_data_base64,
        secret(&seed.secret_ref),
    )?;
    let network = datum(
        path,
        "networkData",
        &seed.network_data,
        &seed.network_data_base64,
        secret(&seed.network_data_secret_ref),
    )?;
    if user.is_none() && network.is_none() {
        return Err(FieldError::new(
            path,
            "neither user data nor network data is given",
        ));
    }
    Ok((user, network))
}

fn datum<'a>(
    path: &str,
    name: &str,
    text: &'a Option<String>,
    base64: &'a Option<String>,
    secret: Option<&'a str>,
) -> Result<Option<Datum<'a>>, FieldError> {
    let text = text.as_deref().filter(|text| !text.is_empty());
    let base64 = base64.as_deref().filter(|text| !text.is_empty());
    match (text, base64, secret) {
        (None, None, None) => Ok(None),
        (Some(text), None, None) => Ok(Some(Datum::Inline(text.as_bytes().into()))),
        (None, Some(text), None) => {
            let decoded = serde_json::from_value::<k8s_openapi::ByteString>(text.into());
            let bytes = decoded
                .map_err(|_| FieldError::new(format!("{path}.{name}Base64"), "it is not base64"))?;
            Ok(Some(Datum::Inline(bytes.0.into())))
        }
        (None, None, Some(secret)) => Ok(Some(Datum::Secret(secret))),
        _ => Err(FieldError::new(
            path,
            format!("{name} is given more than once: inline, as base64 or by a Secret, choose one"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(form: &str, seed: &Value) -> Volume {
        serde_json::from_value(json!({ "name": "a", form: seed })).unwrap()
    }

    /// User and network data of a seed, as text; that of a Secret by its name in brackets.
    fn data(form: &str, seed: Value) -> [Option<String>; 2] {
        let volume = volume(form, &seed);
        let seed = match source(&volume, 0).unwrap() {
            VolumeSource::CloudInitNoCloud(seed) | VolumeSource::CloudInitConfigDrive(seed) => seed,
            other => panic!("{other:?}"),
        };
        let (user, network) = cloud_init(seed, "a").unwrap();
        [user, network].map(|datum| {
            datum.map(|datum| match datum {
                Datum::Inline(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
                Datum::Secret(name) => format!("<{name}>"),
            })
        })
    }

    #[test]
    fn a_seed_is_written_out_in_base64_or_in_a_secret() {
        for form in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
            for (seed, expected) in [
                (json!({ "userData": "u" }), [Some("u"), None]),
                (json!({ "userDataBase64": "dQ==" }), [Some("u"), None]),
                (json!({ "secretRef": { "name": "s" } }), [Some("<s>"), None]),
                (json!({ "networkData": "n" }), [None, Some("n")]),
                (json!({ "networkDataBase64": "bg==" }), [None, Some("n")]),
                (
                    json!({ "userData": "u", "networkDataSecretRef": { "name": "t" } }),
                    [Some("u"), Some("<t>")],
                ),
            ] {
                let expected = expected.map(|text| text.map(str::to_owned));
                assert_eq!(data(form, seed.clone()), expected, "{form} {seed}");
            }
        }
    }
}
