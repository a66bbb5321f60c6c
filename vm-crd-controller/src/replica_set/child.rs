//! The instances of a replica set: their names and what they are made from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

use crate::owner;
use crate::render::suffix;
use crate::vmi::FINALIZER;

/// Longest stem of a name, so that the whole is one.
const STEM_LIMIT: usize = 240;

/// The `count`-th name of an instance of `set`. Names follow from the set alone, so that making an
/// instance twice finds the first.
pub(super) fn name(set: &VirtualMachineInstanceReplicaSet, count: usize) -> String {
    let uid = set.uid().unwrap_or_default();
    let metadata = set.spec.template.metadata.as_ref();
    let given = |name: Option<&String>| name.filter(|name| !name.is_empty()).cloned();
    let stem = given(metadata.and_then(|metadata| metadata.name.as_ref()))
        .or_else(|| given(metadata.and_then(|metadata| metadata.generate_name.as_ref())))
        .unwrap_or_else(|| set.name_any());
    let stem = stem[..stem.len().min(STEM_LIMIT)].trim_end_matches(['-', '.']);
    format!("{stem}-{}", suffix(&[&uid, &count.to_string()]))
}

/// The instance of `set` with that name.
pub(super) fn of(set: &VirtualMachineInstanceReplicaSet, name: String) -> VirtualMachineInstance {
    let template = set.spec.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let spec = template.spec.unwrap_or_default();
    let mut instance = VirtualMachineInstance::new(&name, spec);
    instance.metadata = ObjectMeta {
        name: Some(name),
        namespace: set.namespace(),
        labels: metadata.labels,
        annotations: metadata.annotations,
        owner_references: Some(vec![owner::reference(set)]),
        finalizers: Some(vec![FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    instance
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn names_follow_from_the_set_and_differ() {
        let set: VirtualMachineInstanceReplicaSet = serde_json::from_value(json!({
            "metadata": { "name": "web", "uid": "u", "namespace": "default" },
            "spec": { "selector": {}, "template": { "metadata": { "labels": { "a": "b" } } } },
        }))
        .unwrap();
        let names: BTreeSet<_> = (0..1000).map(|count| name(&set, count)).collect();
        assert!(names.len() > 990, "{} names", names.len());
        let first = name(&set, 0);
        assert!(first.starts_with("web-") && first.len() == 9, "{first}");
        assert_eq!(first, name(&set, 0));
        let instance = of(&set, first);
        assert_eq!(instance.labels()["a"], "b");
        assert_eq!(
            instance.owner_references()[0].kind,
            "VirtualMachineInstanceReplicaSet"
        );
        let mut named = set;
        let metadata = named.spec.template.metadata.get_or_insert_default();
        metadata.generate_name = Some("vm-".to_owned());
        assert!(name(&named, 0).starts_with("vm-"));
    }

    #[test]
    fn what_the_template_says_is_its_instances() {
        let set: VirtualMachineInstanceReplicaSet = serde_json::from_value(json!({
            "metadata": { "name": "web", "uid": "u", "namespace": "default" },
            "spec": { "selector": {}, "template": { "metadata": {
                "name": "own", "namespace": "elsewhere",
                "labels": { "a": "b" }, "annotations": { "c": "d" },
            } } },
        }))
        .unwrap();
        let first = name(&set, 0);
        assert!(first.starts_with("own"), "{first}");
        let instance = of(&set, first);
        assert_eq!(instance.namespace().as_deref(), Some("default"));
        assert_eq!(instance.labels()["a"], "b");
        assert_eq!(instance.annotations()["c"], "d");
    }
}
