//! What works of the kinds that keep so many of something.

use serde_json::Value;

use super::table::{POOL, REPLICA_SET};
use super::{annotations_of, fields, instance, machine, to_json};
use crate::field::{FieldError, sorted};
use crate::pool::VirtualMachinePoolSpec;
use crate::v1::VirtualMachineInstanceReplicaSetSpec;

/// Set fields of a replica set that do not work, its template's among them.
pub fn replica_set(spec: &VirtualMachineInstanceReplicaSetSpec) -> Vec<FieldError> {
    let mut json = to_json(spec);
    without(&mut json, "template");
    let mut errors = fields(&json, REPLICA_SET);
    errors.extend(annotations_of(spec.template.metadata.as_ref()));
    if let Some(template) = &spec.template.spec {
        let refused = instance(template).into_iter();
        errors.extend(refused.map(|error| error.under("template.spec")));
    }
    sorted(errors)
}

/// Set fields of a pool that do not work, its template's among them.
pub fn pool(spec: &VirtualMachinePoolSpec) -> Vec<FieldError> {
    let mut json = to_json(spec);
    without(&mut json, "virtualMachineTemplate");
    let mut errors = fields(&json, POOL);
    if let Some(template) = &spec.virtual_machine_template.spec {
        let refused = machine(template).into_iter();
        errors.extend(refused.map(|error| error.under("virtualMachineTemplate.spec")));
    }
    sorted(errors)
}

/// Takes the spec out of a template: it has a table of its own.
fn without(json: &mut Value, template: &str) {
    if let Some(template) = json.get_mut(template).and_then(Value::as_object_mut) {
        template.remove("spec");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(errors: Vec<FieldError>) -> Vec<String> {
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_replica_set_is_refused_with_its_template() {
        let set = json!({
            "replicas": 2, "paused": true,
            "selector": { "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "c", "operator": "Exists" }] },
            "template": {
                "metadata": { "labels": { "a": "b" }, "creationTimestamp": null },
                "spec": { "domain": { "devices": { "downwardMetrics": {} } } },
            },
        });
        let set = serde_json::from_value(set).unwrap();
        assert_eq!(
            paths(replica_set(&set)),
            ["template.spec.domain.devices.downwardMetrics"]
        );
    }

    #[test]
    fn a_pool_keeps_no_state_and_makes_no_claims() {
        let spec = json!({
            "replicas": 2, "paused": false, "maxUnavailable": "50%",
            "selector": { "matchLabels": { "a": "b" } },
            "nameGeneration": { "appendIndexToSecretRefs": true },
            "autohealing": { "startUpFailureThreshold": 2, "minFailingToStartDuration": "1m" },
            "scaleInStrategy": { "proactive": {
                "statePreservation": "Offline",
                "selectionPolicy": { "sortPolicy": "Newest", "selectors": {
                    "labelSelector": { "matchLabels": { "a": "b" } },
                    "nodeSelectorRequirementMatcher": [{ "key": "c", "operator": "Exists" }],
                } },
            } },
            "updateStrategy": { "opportunistic": {} },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "a": "b" }, "annotations": { "c": "d" } },
                "spec": {
                    "runStrategy": "Always", "template": { "spec": {} },
                    "dataVolumeTemplates": [{ "metadata": { "name": "a" }, "spec": {} }],
                },
            },
        });
        let spec = serde_json::from_value(spec).unwrap();
        assert_eq!(
            paths(pool(&spec)),
            [
                "scaleInStrategy.proactive.statePreservation",
                "virtualMachineTemplate.spec.dataVolumeTemplates",
            ]
        );
    }
}
