//! What a manifest refers to by name, and what it wants of the node.

use serde_json::Value;
use vm_api::instancetype::{Family, ObjectKind};

/// Something that must be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    /// Kinds that it may be of, the usual one first.
    pub(super) kinds: &'static [&'static str],
    /// Its name.
    pub(super) name: String,
}

impl Reference {
    /// What is missing if it is not there.
    pub(super) fn missing(&self) -> String {
        format!("the {} {}", self.kinds.join(" or "), self.name)
    }
}

const CLAIM: &[&str] = &["PersistentVolumeClaim"];
const DATA_VOLUME: &[&str] = &["PersistentVolumeClaim", "DataVolume"];
const SECRET: &[&str] = &["Secret"];
const CONFIG_MAP: &[&str] = &["ConfigMap"];

/// Fields of a spec that name something, each with the end of its path; `[]` is any item of a list.
const FIELDS: &[(&str, &[&str])] = &[
    ("volumes[].persistentVolumeClaim.claimName", CLAIM),
    ("volumes[].ephemeral.persistentVolumeClaim.claimName", CLAIM),
    ("volumes[].memoryDump.claimName", CLAIM),
    ("volumes[].dataVolume.name", DATA_VOLUME),
    ("volumes[].configMap.name", CONFIG_MAP),
    ("volumes[].sysprep.configMap.name", CONFIG_MAP),
    ("volumes[].secret.secretName", SECRET),
    ("volumes[].sysprep.secret.name", SECRET),
    ("volumes[].cloudInitNoCloud.secretRef.name", SECRET),
    (
        "volumes[].cloudInitNoCloud.networkDataSecretRef.name",
        SECRET,
    ),
    ("volumes[].cloudInitConfigDrive.secretRef.name", SECRET),
    (
        "volumes[].cloudInitConfigDrive.networkDataSecretRef.name",
        SECRET,
    ),
    (
        "accessCredentials[].sshPublicKey.source.secret.secretName",
        SECRET,
    ),
    (
        "accessCredentials[].userPassword.source.secret.secretName",
        SECRET,
    ),
    (
        "volumes[].serviceAccount.serviceAccountName",
        &["ServiceAccount"],
    ),
    (
        "networks[].multus.networkName",
        &["NetworkAttachmentDefinition"],
    ),
    ("resourceClaims[].resourceClaimName", &["ResourceClaim"]),
    (
        "resourceClaims[].resourceClaimTemplateName",
        &["ResourceClaimTemplate"],
    ),
    ("priorityClassName", &["PriorityClass"]),
];

/// Kinds of Kubernetes' own that every namespace has one of.
const GIVEN: [(&str, &str); 1] = [("ServiceAccount", "default")];

/// Everything that an object's spec refers to, each once.
pub(super) fn references(object: &Value) -> Vec<Reference> {
    let mut found = Vec::new();
    walk(&object["spec"], "", &mut found);
    let own = &object["spec"]["dataVolumeTemplates"];
    let makes = |name: &str| {
        let mut templates = own.as_array().into_iter().flatten();
        templates.any(|template| template["metadata"]["name"] == name)
    };
    found.retain(|it| {
        let is_made = it.kinds == DATA_VOLUME && makes(&it.name);
        let is_given = GIVEN.contains(&(it.kinds[0], it.name.as_str()));
        !(is_made || is_given)
    });
    found.sort();
    found.dedup();
    found
}

fn walk(value: &Value, pattern: &str, found: &mut Vec<Reference>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let pattern = format!("{pattern}.{name}");
                let text = value.as_str().unwrap_or_default();
                let meant = FIELDS.iter().find(|(path, _)| {
                    pattern
                        .strip_suffix(path)
                        .is_some_and(|rest| rest.ends_with('.'))
                });
                if let Some((_, kinds)) = meant.filter(|_| !text.is_empty()) {
                    // A network of another namespace is named with it.
                    let name = text.rsplit('/').next().unwrap_or_default().to_owned();
                    found.push(Reference { kinds, name });
                }
                for family in [Family::Instancetype, Family::Preference] {
                    if name == family.field() {
                        found.extend(matcher(family, value));
                    }
                }
                walk(value, &pattern, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                walk(item, &format!("{pattern}[]"), found);
            }
        }
        _ => {}
    }
}

/// What a matcher names.
fn matcher(family: Family, matcher: &Value) -> Option<Reference> {
    let name = matcher["name"].as_str().filter(|name| !name.is_empty())?;
    let kind = ObjectKind::parse(family, matcher["kind"].as_str())?;
    let kinds: &[&str] = match kind.name() {
        "VirtualMachineInstancetype" => &["VirtualMachineInstancetype"],
        "VirtualMachineClusterInstancetype" => &["VirtualMachineClusterInstancetype"],
        "VirtualMachinePreference" => &["VirtualMachinePreference"],
        _ => &["VirtualMachineClusterPreference"],
    };
    let name = name.to_owned();
    Some(Reference { kinds, name })
}

/// What the spec of an instance wants of the node that not every node has.
pub(super) fn of_the_node(spec: &Value) -> Vec<String> {
    let mut wanted = Vec::new();
    let domain = &spec["domain"];
    for list in ["gpus", "hostDevices"] {
        let devices = domain["devices"][list].as_array().into_iter().flatten();
        for device in devices {
            if let Some(name) = device["deviceName"].as_str() {
                wanted.push(format!("a node with the device {name}"));
            }
        }
    }
    if let Some(size) = domain["memory"]["hugepages"]["pageSize"].as_str() {
        wanted.push(format!("a node with huge pages of {size}"));
    }
    if domain["cpu"]["dedicatedCpuPlacement"] == true {
        wanted.push("a node whose kubelet gives processors away (static CPU manager)".to_owned());
    }
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    for path in volumes().filter_map(|volume| volume["containerDisk"]["path"].as_str()) {
        wanted.push(format!(
            "an image with the disk {path}: the guest that stands in has it elsewhere"
        ));
    }
    for path in volumes().filter_map(|volume| volume["hostDisk"]["path"].as_str()) {
        let directory = path
            .rsplit_once('/')
            .map_or(path, |(directory, _)| directory);
        wanted.push(format!("a node with the directory {directory}"));
    }
    let kernel = &domain["firmware"]["kernelBoot"]["container"]["kernelPath"];
    if let Some(path) = kernel.as_str() {
        wanted.push(format!(
            "an image with the kernel {path}: the guest that stands in has none"
        ));
    }
    if domain["devices"]["autoattachVSOCK"] == true {
        wanted.push("a node with vsock".to_owned());
    }
    let selector = spec["nodeSelector"].as_object().into_iter().flatten();
    for (label, value) in selector {
        let value = value.as_str().unwrap_or_default();
        wanted.push(format!("a node with the label {label}={value}"));
    }
    let scheduler = spec["schedulerName"].as_str();
    if let Some(name) = scheduler.filter(|name| !["", "default-scheduler"].contains(name)) {
        wanted.push(format!("the scheduler {name}"));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_named_is_found_at_any_depth() {
        let template = json!({ "spec": {
            "priorityClassName": "high",
            "networks": [{ "name": "a", "pod": {} }, { "name": "b", "multus": { "networkName": "ns/net" } }],
            "volumes": [
                { "name": "a", "persistentVolumeClaim": { "claimName": "disk" } },
                { "name": "b", "dataVolume": { "name": "made" } },
                { "name": "c", "dataVolume": { "name": "found" } },
                { "name": "d", "cloudInitNoCloud": { "secretRef": { "name": "seed" } } },
                { "name": "e", "serviceAccount": { "serviceAccountName": "default" } },
                { "name": "f", "persistentVolumeClaim": { "claimName": "disk" } },
            ],
        } });
        let object = json!({ "spec": {
            "instancetype": { "name": "small" },
            "preference": { "kind": "virtualmachinepreferences", "name": "linux" },
            "dataVolumeTemplates": [{ "metadata": { "name": "made" } }],
            "template": template,
        } });
        let mut found: Vec<_> = references(&object).iter().map(Reference::missing).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "the NetworkAttachmentDefinition net",
                "the PersistentVolumeClaim disk",
                "the PersistentVolumeClaim or DataVolume found",
                "the PriorityClass high",
                "the Secret seed",
                "the VirtualMachineClusterInstancetype small",
                "the VirtualMachinePreference linux",
            ]
        );
    }

    #[test]
    fn what_not_every_node_has_is_named() {
        let spec = json!({
            "domain": {
                "cpu": { "dedicatedCpuPlacement": true },
                "memory": { "hugepages": { "pageSize": "2Mi" } },
                "devices": { "gpus": [{ "name": "g", "deviceName": "example.com/gpu" }] },
            },
            "volumes": [{ "name": "a", "hostDisk": { "path": "/data/disk.img", "type": "Disk" } }],
            "nodeSelector": { "disk": "fast" },
            "schedulerName": "default-scheduler",
        });
        assert_eq!(
            of_the_node(&spec),
            [
                "a node with the device example.com/gpu",
                "a node with huge pages of 2Mi",
                "a node whose kubelet gives processors away (static CPU manager)",
                "a node with the directory /data",
                "a node with the label disk=fast",
            ]
        );
    }
}
