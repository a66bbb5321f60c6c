//! The machines of a pool: their names, what they are made from, and which template that was.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Map, Value, json};
use vm_api::pool::VirtualMachinePool;
use vm_api::v1::{VirtualMachine, VirtualMachineSpec, Volume};

use crate::machine::digest;
use crate::owner;
use crate::render::label_value;

/// Label of a machine and of its instances: the template of the pool that they are from; KubeVirt's
/// name.
pub(super) const REVISION_LABEL: &str = "kubevirt.io/vm-pool-revision-name";

/// The name of the machine with that number.
pub(super) fn name(pool: &VirtualMachinePool, number: usize) -> String {
    format!("{}-{number}", pool.name_any())
}

/// The number of the machine with that name.
pub(super) fn number(name: &str) -> Option<usize> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// What a template is told by: it changes with everything that a machine is made from.
pub(super) fn revision(pool: &VirtualMachinePool) -> String {
    let parts = [
        serde_json::to_string(&pool.spec.virtual_machine_template),
        serde_json::to_string(&pool.spec.name_generation),
    ]
    // The types have only strings as keys and no infinite numbers: nothing in them can fail.
    .map(Result::unwrap_or_default);
    let digest = digest(&[&parts[0], &parts[1]]);
    label_value(&format!("{}-{digest:016x}", pool.name_any()))
}

/// The machine of `pool` with that name.
pub(super) fn of(pool: &VirtualMachinePool, name: &str) -> VirtualMachine {
    let template = pool.spec.virtual_machine_template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let revision = revision(pool);
    let labelled = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(REVISION_LABEL.to_owned(), revision.clone());
        Some(labels)
    };
    let mut spec = template.spec.unwrap_or_default();
    let instances = spec.template.metadata.get_or_insert_default();
    instances.labels = labelled(instances.labels.take());
    number_references(pool, &mut spec, name);
    let mut vm = VirtualMachine::new(name, spec);
    vm.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: pool.namespace(),
        labels: labelled(metadata.labels),
        annotations: metadata.annotations,
        owner_references: Some(vec![owner::reference(pool)]),
        ..ObjectMeta::default()
    };
    vm
}

/// Appends the machine's number to the names of ConfigMaps and Secrets, where the pool says so.
fn number_references(pool: &VirtualMachinePool, spec: &mut VirtualMachineSpec, name: &str) {
    let generation = pool.spec.name_generation.as_ref();
    let wishes = |wish: Option<bool>| wish == Some(true);
    let maps = generation.is_some_and(|it| wishes(it.append_index_to_config_map_refs));
    let secrets = generation.is_some_and(|it| wishes(it.append_index_to_secret_refs));
    let Some(number) = number(name) else {
        return;
    };
    let volumes = spec.template.spec.iter_mut().flat_map(|it| &mut it.volumes);
    for volume in volumes {
        number_volume(volume, maps, secrets, number);
    }
}

fn number_volume(volume: &mut Volume, maps: bool, secrets: bool, number: usize) {
    let append = |name: &mut String| name.push_str(&format!("-{number}"));
    if maps && let Some(source) = &mut volume.config_map {
        source.name.iter_mut().for_each(append);
    }
    if !secrets {
        return;
    }
    if let Some(source) = &mut volume.secret {
        source.secret_name.iter_mut().for_each(append);
    }
    let seeds = [
        &mut volume.cloud_init_no_cloud,
        &mut volume.cloud_init_config_drive,
    ];
    for seed in seeds.into_iter().flatten() {
        let references = [&mut seed.secret_ref, &mut seed.network_data_secret_ref];
        for reference in references.into_iter().flatten() {
            append(&mut reference.name);
        }
    }
}

/// The merge patch that makes `vm` what `pool` now makes of a machine of that name. The firmware's
/// UUID and serial number stay: by them the guest knows itself.
pub(super) fn update(pool: &VirtualMachinePool, vm: &VirtualMachine) -> serde_json::Result<Value> {
    let mut new = of(pool, &vm.name_any());
    let own = vm.spec.template.spec.as_ref();
    if let Some(own) = own.and_then(|spec| spec.domain.firmware.as_ref())
        && let Some(spec) = &mut new.spec.template.spec
    {
        let firmware = spec.domain.firmware.get_or_insert_default();
        firmware.uuid = own.uuid.clone().or(firmware.uuid.take());
        firmware.serial = own.serial.clone().or(firmware.serial.take());
    }
    let metadata =
        |vm: &VirtualMachine| json!({ "labels": vm.labels(), "annotations": vm.annotations() });
    let spec = difference(
        &serde_json::to_value(&vm.spec)?,
        &serde_json::to_value(&new.spec)?,
    );
    let metadata = difference(&metadata(vm), &metadata(&new));
    Ok(json!({ "metadata": metadata.unwrap_or(json!({})), "spec": spec.unwrap_or(json!({})) }))
}

/// The merge patch (RFC 7386) from `old` to `new`, if there is a difference.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in new {
        let change = match old.get(name) {
            Some(old) => difference(old, new),
            None => Some(new.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(more: Value) -> VirtualMachinePool {
        let template = json!({
            "metadata": {
                "name": "other", "namespace": "elsewhere",
                "labels": { "a": "b" }, "annotations": { "c": "d" },
            },
            "spec": { "runStrategy": "Always", "template": { "spec": {
                "domain": { "memory": { "guest": "64Mi" } },
                "volumes": [
                    { "name": "m", "configMap": { "name": "map" } },
                    { "name": "s", "secret": { "secretName": "secret" } },
                    { "name": "c", "cloudInitNoCloud": { "secretRef": { "name": "user" },
                        "networkDataSecretRef": { "name": "net" } } },
                ],
            } } },
        });
        let mut spec = json!({ "selector": {}, "virtualMachineTemplate": template });
        let fields = spec.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let metadata = json!({ "name": "web", "namespace": "default", "uid": "u" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn volumes(pool: &VirtualMachinePool) -> Vec<String> {
        let vm = of(pool, "web-7");
        let spec = vm.spec.template.spec.unwrap();
        let [map, secret, seed] = &spec.volumes[..] else {
            panic!("three volumes");
        };
        let seed = seed.cloud_init_no_cloud.clone().unwrap();
        vec![
            map.config_map.clone().unwrap().name.unwrap(),
            secret.secret.clone().unwrap().secret_name.unwrap(),
            seed.secret_ref.unwrap().name,
            seed.network_data_secret_ref.unwrap().name,
        ]
    }

    #[test]
    fn a_machine_has_its_number_and_its_template() {
        let plain = pool(json!({}));
        let vm = of(&plain, &name(&plain, 7));
        assert_eq!(vm.name_any(), "web-7");
        assert_eq!(number("web-7"), Some(7));
        assert_eq!(number("other"), None);
        assert_eq!(vm.namespace().as_deref(), Some("default"));
        assert_eq!(vm.labels()["a"], "b");
        assert_eq!(vm.annotations()["c"], "d");
        let revision = &vm.labels()[REVISION_LABEL];
        let labels = vm.spec.template.metadata.as_ref().unwrap().labels.as_ref();
        assert_eq!(labels.unwrap().get(REVISION_LABEL), Some(revision));
        assert_eq!(vm.owner_references()[0].kind, "VirtualMachinePool");
        assert_eq!(volumes(&plain), ["map", "secret", "user", "net"]);
    }

    #[test]
    fn references_are_numbered_where_the_pool_says_so() {
        let numbered = pool(json!({ "nameGeneration": {
            "appendIndexToConfigMapRefs": true, "appendIndexToSecretRefs": true } }));
        assert_eq!(volumes(&numbered), ["map-7", "secret-7", "user-7", "net-7"]);
        assert_ne!(revision(&numbered), revision(&pool(json!({}))));
        assert_eq!(
            revision(&pool(json!({ "replicas": 9 }))),
            revision(&pool(json!({}))),
            "the number of machines is none of theirs"
        );
    }

    #[test]
    fn an_update_changes_what_differs_and_keeps_who_it_is() {
        let first = pool(json!({}));
        let mut vm = of(&first, "web-0");
        assert_eq!(
            update(&first, &vm).unwrap(),
            json!({ "metadata": {}, "spec": {} })
        );
        let spec = vm.spec.template.spec.as_mut().unwrap();
        spec.domain.firmware.get_or_insert_default().uuid = Some("own".to_owned());
        spec.hostname = Some("mine".to_owned());
        let mut second = first.clone();
        let template = second.spec.virtual_machine_template.spec.as_mut().unwrap();
        let new = template.template.spec.as_mut().unwrap();
        new.domain.memory.get_or_insert_default().guest = Some("128Mi".into());
        new.volumes.truncate(1);
        let patch = update(&second, &vm).unwrap();
        let spec = &patch["spec"]["template"]["spec"];
        assert_eq!(spec["domain"], json!({ "memory": { "guest": "128Mi" } }));
        assert_eq!(spec["hostname"], Value::Null);
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            patch["metadata"]["labels"],
            json!({ REVISION_LABEL: revision(&second) })
        );
    }
}
