//! Secrets with keys and passwords for the guest's users, each once however often it is named.

use k8s_openapi::api::core::v1::{SecretVolumeSource, Volume, VolumeMount};
use vm_api::FieldError;
use vm_api::contract::access_credentials_path;
use vm_api::machine::credentials;
use vm_api::v1::VirtualMachineInstanceSpec;

/// The Secrets as volumes of the pod, and where the machine container has them.
pub(super) fn render(
    spec: &VirtualMachineInstanceSpec,
) -> Result<(Vec<Volume>, Vec<VolumeMount>), Vec<FieldError>> {
    let mut secrets: Vec<_> = credentials(spec)?.iter().map(|it| it.secret).collect();
    secrets.sort_unstable();
    secrets.dedup();
    let rendered = secrets.into_iter().enumerate().map(|(index, secret)| {
        let name = format!("access-credentials-{index}");
        let volume = Volume {
            name: name.clone(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.to_owned()),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        };
        let mount = VolumeMount {
            name,
            mount_path: access_credentials_path(secret),
            read_only: Some(true),
            ..VolumeMount::default()
        };
        (volume, mount)
    });
    Ok(rendered.unzip())
}
