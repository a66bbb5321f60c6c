//! Images beside the machine container's own: image volumes, or containers that are nothing but an image
//! where the cluster has no such volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use vm_api::contract::MACHINE_COMMAND;

use super::security;
use super::volumes::Image;
use crate::machine::digest;

/// What an image beside the machine container's own is in the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageForm {
    /// An image volume.
    #[default]
    Volume,
    /// A native sidecar without a process, which the shim only mounts.
    Sidecar,
}

/// What the names of the containers begin with.
const PREFIX: &str = "image-";

/// Longest name of a container: a DNS label.
const NAME_LIMIT: usize = 63;

/// What a container that is an image asks for where the machine container asks for the same: next to
/// nothing, since nothing runs. It is not zero, because kubelet takes that for no limit, and would then
/// limit neither the pod as a whole nor give it processors of its own.
const LEAST: [(&str, &str); 3] = [
    ("cpu", "1m"),
    ("memory", "1Mi"),
    ("ephemeral-storage", "1Mi"),
];

/// The container that is the image of `volume`, in a pod whose machine container has these resources.
pub(super) fn container(volume: &str, image: Image, machine: &ResourceRequirements) -> Container {
    Container {
        name: name(volume),
        image: Some(image.reference),
        image_pull_policy: image.pull_policy,
        command: Some(vec![MACHINE_COMMAND.to_owned()]),
        resources: Some(resources(machine)),
        restart_policy: Some("Always".to_owned()),
        security_context: Some(security::container()),
        termination_message_policy: Some("File".to_owned()),
        ..Container::default()
    }
}

/// The name of the container that is the image of `volume`. Volumes that are too long for it are told
/// apart by a digest, and from all others by the second hyphen, with which no volume begins.
pub(super) fn name(volume: &str) -> String {
    let whole = format!("{PREFIX}{volume}");
    if whole.len() <= NAME_LIMIT {
        return whole;
    }
    let digest = format!("-{:016x}", digest(&[volume]));
    let room = NAME_LIMIT - PREFIX.len() - "-".len() - digest.len();
    let stem = volume.get(..room).unwrap_or_default();
    format!("{PREFIX}-{}{digest}", stem.trim_end_matches('-'))
}

fn resources(machine: &ResourceRequirements) -> ResourceRequirements {
    let least = |of_machine: &Option<BTreeMap<String, ApiQuantity>>| {
        let of_machine = of_machine.iter();
        let asked = |name: &str| of_machine.clone().any(|amounts| amounts.contains_key(name));
        let listed = LEAST.iter().filter(|(name, _)| asked(name));
        let listed =
            listed.map(|(name, least)| ((*name).to_owned(), ApiQuantity((*least).to_owned())));
        listed.collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        requests: Some(least(&machine.requests)),
        limits: Some(least(&machine.limits)),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_stay_apart() {
        assert_eq!(name("data"), "image-data");
        let longest = "a".repeat(57);
        assert_eq!(name(&longest).len(), NAME_LIMIT);
        let long = format!("{}-{}", "a".repeat(38), "b".repeat(24));
        let other = format!("{}-{}", "a".repeat(38), "c".repeat(24));
        for volume in [&long, &other, &"d".repeat(63)] {
            let name = name(volume);
            assert!(
                name.len() <= NAME_LIMIT && name.starts_with("image--"),
                "{name}"
            );
        }
        assert_ne!(name(&long), name(&other));
    }
}
