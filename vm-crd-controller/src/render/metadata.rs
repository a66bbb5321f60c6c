//! Name, labels and annotations of the pod: by these everybody finds the machine.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use vm_api::Quantity;
use vm_api::contract::{
    DOMAIN_ANNOTATION, IMAGE_CONTAINERS_ANNOTATION, MACHINE_CONTAINER,
    MACHINE_CONTAINER_ANNOTATION, VMI_SPEC_ANNOTATION, VOLUME_SIZES_ANNOTATION, labels,
};
use vm_api::machine::pod_interfaces;
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceSpec};

use super::RenderError;
use crate::machine::digest;

/// The container that kubectl means when none is named.
const DEFAULT_CONTAINER_ANNOTATION: &str = "kubectl.kubernetes.io/default-container";

/// Annotations by which Multus is asked for further networks, and for one in place of the pod's own
/// (Kubernetes Network Plumbing Working Group, Multi-Network Specification, 4.1; Multus,
/// docs/configuration.md).
const FURTHER_NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT_NETWORK_ANNOTATION: &str = "v1.multus-cni.io/default-network";

/// Annotations of the instance that mean nothing on a pod, or something that is not the user's to say.
const NOT_FOR_PODS: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    IMAGE_CONTAINERS_ANNOTATION,
];

/// Longest value of a label, and longest DNS label.
const LABEL_LIMIT: usize = 63;

/// Longest name of a pod.
const NAME_LIMIT: usize = 253;

/// Characters of random-looking suffixes: Kubernetes' own, which spell no words.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Length of those suffixes.
const SUFFIX_LENGTH: usize = 5;

/// Metadata of the pod of `instance`, whose spec is expanded to `spec`; `sizes` are its claims',
/// and `images` the containers that are images, by volume.
pub(super) fn of(
    instance: &VirtualMachineInstance,
    spec: &VirtualMachineInstanceSpec,
    sizes: &BTreeMap<String, Quantity>,
    images: &BTreeMap<String, String>,
) -> Result<ObjectMeta, RenderError> {
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|error| RenderError::Json(error.to_string()))
    };
    let name = instance.name_any();
    let mut annotations = instance.annotations().clone();
    for key in NOT_FOR_PODS {
        annotations.remove(key);
    }
    annotations.insert(
        VMI_SPEC_ANNOTATION.to_owned(),
        json(serde_json::to_string(spec))?,
    );
    annotations.insert(
        MACHINE_CONTAINER_ANNOTATION.to_owned(),
        MACHINE_CONTAINER.to_owned(),
    );
    annotations.insert(
        DEFAULT_CONTAINER_ANNOTATION.to_owned(),
        MACHINE_CONTAINER.to_owned(),
    );
    annotations.insert(DOMAIN_ANNOTATION.to_owned(), name.clone());
    if !sizes.is_empty() {
        annotations.insert(
            VOLUME_SIZES_ANNOTATION.to_owned(),
            json(serde_json::to_string(sizes))?,
        );
    }
    if !images.is_empty() {
        let named = images.iter();
        let named: Vec<_> = named
            .map(|(volume, name)| format!("{volume}={name}"))
            .collect();
        annotations.insert(IMAGE_CONTAINERS_ANNOTATION.to_owned(), named.join(","));
    }
    for (key, value) in networks(spec, &instance.namespace().unwrap_or_default()) {
        annotations.insert(key.to_owned(), value);
    }
    let mut pod_labels = instance.labels().clone();
    pod_labels.insert(labels::APP.to_owned(), labels::APP_VALUE.to_owned());
    pod_labels.insert(
        labels::CREATED_BY.to_owned(),
        instance.uid().unwrap_or_default(),
    );
    pod_labels.insert(labels::VM_NAME.to_owned(), label_value(&name));
    Ok(ObjectMeta {
        name: Some(pod_name(instance)),
        namespace: instance.namespace(),
        labels: Some(pod_labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner(instance)]),
        ..ObjectMeta::default()
    })
}

/// What Multus is asked for, by annotation.
fn networks(spec: &VirtualMachineInstanceSpec, namespace: &str) -> Vec<(&'static str, String)> {
    let (mut further, mut asked) = (vec![], vec![]);
    for network in &spec.networks {
        let Some(multus) = &network.multus else {
            continue;
        };
        let (namespace, name) = multus
            .network_name
            .split_once('/')
            .unwrap_or((namespace, &multus.network_name));
        if multus.default == Some(true) {
            asked.push((DEFAULT_NETWORK_ANNOTATION, format!("{namespace}/{name}")));
            continue;
        }
        let interface = pod_interfaces(spec, &network.name).swap_remove(0);
        let mut wish = json!({ "name": name, "namespace": namespace, "interface": interface });
        let mut interfaces = spec.domain.devices.interfaces.iter();
        let bridged = interfaces.find(|it| it.name == network.name && it.bridge.is_some());
        // Behind a bridge, the network sees the guest's address.
        if let Some(mac) = bridged.and_then(|interface| interface.mac_address.as_ref()) {
            wish["mac"] = mac.as_str().into();
        }
        further.push(wish);
    }
    if !further.is_empty() {
        let further = Value::from(further).to_string();
        asked.push((FURTHER_NETWORKS_ANNOTATION, further));
    }
    asked
}

pub(super) fn owner(instance: &VirtualMachineInstance) -> OwnerReference {
    OwnerReference {
        api_version: VirtualMachineInstance::api_version(&()).into_owned(),
        kind: VirtualMachineInstance::kind(&()).into_owned(),
        name: instance.name_any(),
        uid: instance.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The name of the pod of `instance`: its suffix follows from the UID, so each instance has its
/// own and making the pod twice finds the first.
pub fn pod_name(instance: &VirtualMachineInstance) -> String {
    let name = instance.name_any();
    let room = NAME_LIMIT - "virt-launcher--".len() - SUFFIX_LENGTH;
    let stem = name[..name.len().min(room)].trim_end_matches(['-', '.']);
    format!(
        "virt-launcher-{stem}-{}",
        suffix(&[&instance.uid().unwrap_or_default()])
    )
}

/// The name of an object that `prefix` tells what it is for, and `name` whose: cut and made unique by a
/// suffix where it would be too long.
pub(super) fn object_name(prefix: &str, name: &str) -> String {
    let whole = format!("{prefix}{name}");
    if whole.len() <= NAME_LIMIT {
        return whole;
    }
    let stem = whole[..NAME_LIMIT - SUFFIX_LENGTH - 1].trim_end_matches(['-', '.']);
    format!("{stem}-{}", suffix(&[name]))
}

/// A suffix that follows from `parts` and looks like those that Kubernetes makes up.
pub(crate) fn suffix(parts: &[&str]) -> String {
    let mut rest = digest(parts);
    let base = SUFFIX_CHARACTERS.len() as u64;
    (0..SUFFIX_LENGTH)
        .map(|_| {
            let index = usize::try_from(rest % base).unwrap_or(0);
            rest /= base;
            char::from(SUFFIX_CHARACTERS[index])
        })
        .collect()
}

/// `name` as the value of a label: itself, or cut and made unique by a suffix.
pub fn label_value(name: &str) -> String {
    shorten(name)
}

/// The hostname of a machine whose spec names none: a DNS label made from the instance's name.
pub(super) fn hostname(name: &str) -> String {
    shorten(&name.replace('.', "-"))
}

fn shorten(name: &str) -> String {
    if name.len() <= LABEL_LIMIT {
        return name.to_owned();
    }
    let stem = name[..LABEL_LIMIT - SUFFIX_LENGTH - 1].trim_end_matches(['-', '.']);
    format!("{stem}-{}", suffix(&[name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "a".repeat(80);
        let longer = "a".repeat(81);
        for name in [&long, &longer] {
            assert_eq!(label_value(name).len(), LABEL_LIMIT);
        }
        assert_ne!(label_value(&long), label_value(&longer));
        assert_eq!(label_value("db.1"), "db.1");
        assert_eq!(hostname("db.1"), "db-1");
    }

    #[test]
    fn a_pod_has_its_instances_name_and_the_uids_suffix() {
        let mut instance = VirtualMachineInstance::new("tl", VirtualMachineInstanceSpec::default());
        instance.metadata.uid = Some("one".to_owned());
        let first = pod_name(&instance);
        assert!(
            first.starts_with("virt-launcher-tl-") && first.len() == 22,
            "{first}"
        );
        assert_eq!(first, pod_name(&instance));
        instance.metadata.uid = Some("two".to_owned());
        assert_ne!(first, pod_name(&instance));
        instance.metadata.name = Some("a".repeat(253));
        assert!(pod_name(&instance).len() <= NAME_LIMIT);
    }
}
