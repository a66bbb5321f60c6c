//! The pod of an instance: the pod contract, written.
//!
//! Relies on a spec that was validated. Promises that the same instance always renders to the same
//! pod, its name included, so that making it twice finds the first.

mod credentials;
mod directory;
mod images;
mod metadata;
mod probes;
mod resources;
mod security;
mod seed;
mod state;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerPort, LocalObjectReference, Pod, PodSpec};
use kube::ResourceExt;
use thiserror::Error;
use vm_api::FieldError;
use vm_api::contract::{MACHINE_COMMAND, MACHINE_CONTAINER, RUNTIME_CLASS};
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceSpec};

pub use images::ImageForm;
pub(crate) use metadata::suffix;
pub use metadata::{label_value, pod_name};
pub use resources::{MILLICORES_PER_VCPU, of as resources};
pub use state::claim as state_claim;
pub use volumes::{Claim, Claims, claim_names};

use crate::machine;

/// Grace period of a machine whose spec names none, in seconds; KubeVirt's default.
const DEFAULT_GRACE_PERIOD: i64 = 30;

/// Why a pod cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The spec is wrong in these places.
    #[error("{}", vm_api::field::join(.0))]
    Fields(Vec<FieldError>),
    /// The spec cannot be written as JSON.
    #[error("the spec cannot be written as JSON: {0}")]
    Json(String),
}

impl From<FieldError> for RenderError {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

impl From<Vec<FieldError>> for RenderError {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::Fields(errors)
    }
}

/// The pod of `instance`, whose claims were looked up; `placeholder` is the image of a machine
/// that boots from a claim, and further images are of the `form` that the cluster has.
pub fn pod(
    instance: &VirtualMachineInstance,
    claims: &Claims,
    placeholder: &str,
    form: ImageForm,
) -> Result<Pod, RenderError> {
    let mut spec = instance.spec.clone();
    let namespace = instance.namespace().unwrap_or_default();
    let uid = instance.uid().unwrap_or_default();
    machine::settle(&mut spec, &uid, &namespace, &instance.name_any());
    let mut volumes = volumes::render(&spec, claims, form)?;
    let (secrets, places) = credentials::render(&spec)?;
    volumes.volumes.extend(secrets);
    volumes.mounts.extend(places);
    if let Some((volume, mount)) = state::render(instance)? {
        volumes.volumes.push(volume);
        volumes.mounts.push(mount);
    }
    let image = volumes.image.clone();
    let resources = resources::of(&spec)?;
    let sidecars = volumes.sidecars.into_iter();
    let (sidecars, named): (Vec<_>, BTreeMap<_, _>) = sidecars
        .map(|(volume, image)| {
            let sidecar = images::container(&volume, image, &resources);
            let name = sidecar.name.clone();
            (sidecar, (volume, name))
        })
        .unzip();
    let container = Container {
        name: MACHINE_CONTAINER.to_owned(),
        image: Some(
            image
                .as_ref()
                .map_or(placeholder, |image| &image.reference)
                .to_owned(),
        ),
        image_pull_policy: image.as_ref().map_or_else(
            || Some("IfNotPresent".to_owned()),
            |image| image.pull_policy.clone(),
        ),
        command: Some(vec![MACHINE_COMMAND.to_owned()]),
        resources: Some(resources),
        ports: Some(ports(&spec)).filter(|ports| !ports.is_empty()),
        volume_mounts: Some(volumes.mounts).filter(|mounts| !mounts.is_empty()),
        volume_devices: Some(volumes.devices).filter(|devices| !devices.is_empty()),
        readiness_probe: probes::render(spec.readiness_probe.as_deref(), "readinessProbe")?,
        liveness_probe: probes::render(spec.liveness_probe.as_deref(), "livenessProbe")?,
        security_context: Some(security::container()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    };
    let pull_secrets = volumes.pull_secrets.into_iter();
    let pull_secrets: Vec<_> = pull_secrets
        .map(|name| LocalObjectReference { name })
        .collect();
    Ok(Pod {
        metadata: metadata::of(instance, &spec, &volumes.sizes, &named)?,
        spec: Some(PodSpec {
            init_containers: Some(sidecars).filter(|sidecars| !sidecars.is_empty()),
            containers: vec![container],
            volumes: Some(volumes.volumes).filter(|volumes| !volumes.is_empty()),
            service_account_name: volumes.service_account,
            image_pull_secrets: Some(pull_secrets).filter(|secrets| !secrets.is_empty()),
            ..placement(instance)
        }),
        status: None,
    })
}

/// What the pod takes from the spec as it is: where it may run and how it is named there.
fn placement(instance: &VirtualMachineInstance) -> PodSpec {
    let spec = &instance.spec;
    let mut selector = spec.node_selector.clone();
    if let Some(architecture) = spec.architecture.as_deref().filter(|text| !text.is_empty()) {
        selector
            .entry("kubernetes.io/arch".to_owned())
            .or_insert(architecture.to_owned());
    }
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty());
    PodSpec {
        runtime_class_name: Some(RUNTIME_CLASS.to_owned()),
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(security::pod()),
        // With 0 the API server would forget the pod while its guest still runs.
        termination_grace_period_seconds: Some(
            spec.termination_grace_period_seconds
                .unwrap_or(DEFAULT_GRACE_PERIOD)
                .max(1),
        ),
        hostname: Some(hostname.unwrap_or_else(|| metadata::hostname(&instance.name_any()))),
        subdomain: spec.subdomain.clone(),
        dns_policy: spec.dns_policy.clone(),
        dns_config: spec.dns_config.as_deref().cloned(),
        node_selector: Some(selector).filter(|selector| !selector.is_empty()),
        affinity: spec.affinity.as_deref().cloned(),
        tolerations: Some(spec.tolerations.clone()).filter(|list| !list.is_empty()),
        topology_spread_constraints: Some(spec.topology_spread_constraints.clone())
            .filter(|list| !list.is_empty()),
        priority_class_name: spec.priority_class_name.clone(),
        scheduler_name: spec.scheduler_name.clone(),
        ..PodSpec::default()
    }
}

/// The ports that the spec lists, so that a Service can refer to them by name.
fn ports(spec: &VirtualMachineInstanceSpec) -> Vec<ContainerPort> {
    let listed = spec
        .domain
        .devices
        .interfaces
        .iter()
        .flat_map(|interface| &interface.ports);
    listed
        .map(|port| ContainerPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            container_port: port.port,
            protocol: Some(
                port.protocol
                    .clone()
                    .filter(|text| !text.is_empty())
                    .unwrap_or("TCP".to_owned()),
            ),
            ..ContainerPort::default()
        })
        .collect()
}

#[cfg(test)]
mod tests;
