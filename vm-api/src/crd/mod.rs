//! The resource definitions of the kinds, made from the types.
//!
//! What is published admits all that KubeVirt admits and prunes nothing of it; rules that the
//! schema can express (the module `rules`) are checked by the API server itself, webhook or not.

mod kinds;
mod rules;
mod structural;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::JsonSchema;
use serde_json::{Value, json};

use crate::{contract, v1};
use kinds::{Kind, Scope};

/// First line of each file.
const HEADER: &str =
    "# Made from the types: cargo run -p vm-api --features schema --example crds\n";

/// The definitions of all kinds.
///
/// # Errors
///
/// If a definition does not have the form of one: a mistake in the types, found by the tests.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    documents()
        .into_iter()
        .map(serde_json::from_value)
        .collect()
}

/// The same as documents, as they are written to files.
pub fn documents() -> Vec<Value> {
    kinds::all().into_iter().map(definition).collect()
}

/// The same as files of YAML, by name.
///
/// # Errors
///
/// If a document cannot be written as YAML: a mistake in the types, found by the tests.
pub fn files() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    let file = |document: Value| {
        let name = document["spec"]["names"]["plural"]
            .as_str()
            .unwrap_or_default();
        let body = serde_saphyr::to_string(&ordered(&document))?;
        Ok((format!("{name}.yaml"), format!("{HEADER}{body}")))
    };
    documents().into_iter().map(file).collect()
}

/// The document with its fields in the order of their names, whatever order `serde_json` is built
/// to keep.
fn ordered(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            sorted
                .into_iter()
                .map(|(name, value)| (name.clone(), ordered(value)))
                .collect()
        }
        Value::Array(items) => items.iter().map(ordered).collect(),
        _ => value.clone(),
    }
}

/// The schema of a kind with a status.
fn schema<Spec: JsonSchema, Status: JsonSchema>(description: &str, rules: &[rules::Rule]) -> Value {
    let mut schema = schema_of_content::<Spec>(description, &[]);
    schema["properties"]["status"] = structural::schema::<Status>("What is.");
    rules::apply(&mut schema, rules);
    schema
}

/// The schema of a kind without a status.
fn schema_of_content<Spec: JsonSchema>(description: &str, rules: &[rules::Rule]) -> Value {
    let mut schema = json!({
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": structural::schema::<Spec>("What is wished."),
        },
    });
    rules::apply(&mut schema, rules);
    schema
}

fn definition(kind: Kind) -> Value {
    let Kind {
        group,
        plural,
        singular,
        short,
        ..
    } = kind;
    let mut names = json!({
        "kind": kind.name,
        "listKind": format!("{}List", kind.name),
        "plural": plural,
        "singular": singular,
        "shortNames": short,
    });
    if kind.scope == Scope::Namespaced {
        names["categories"] = json!(["all"]);
    }
    let versions = kind.versions.iter().map(|version| {
        let mut entry = json!({
            "name": version,
            "served": true,
            // The last is the newest.
            "storage": Some(version) == kind.versions.last(),
            "schema": { "openAPIV3Schema": kind.schema },
        });
        if (group, *version) == (contract::GROUP, v1::OLD_VERSION) {
            entry["deprecated"] = true.into();
            let instead = format!("{group}/{version} is deprecated: write {}", v1::API_VERSION);
            entry["deprecationWarning"] = instead.into();
        }
        if !kind.columns.is_empty() {
            entry["additionalPrinterColumns"] = json!(kind.columns);
        }
        if let Some(subresources) = kind.subresources.document() {
            entry["subresources"] = subresources;
        }
        entry
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": kind.scope.name(),
            "names": names,
            "versions": versions.collect::<Vec<_>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_have_the_form_of_definitions() {
        let definitions = all().unwrap();
        let names: Vec<_> = definitions
            .iter()
            .map(|d| d.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "virtualmachines.kubevirt.io",
                "virtualmachineinstances.kubevirt.io",
                "virtualmachineinstancereplicasets.kubevirt.io",
                "virtualmachinepools.pool.kubevirt.io",
                "virtualmachineinstancetypes.instancetype.kubevirt.io",
                "virtualmachineclusterinstancetypes.instancetype.kubevirt.io",
                "virtualmachinepreferences.instancetype.kubevirt.io",
                "virtualmachineclusterpreferences.instancetype.kubevirt.io",
            ]
        );
    }

    #[test]
    fn the_older_version_is_served_with_a_warning_and_the_newer_is_stored() {
        let machine = documents().swap_remove(0);
        let versions = machine["spec"]["versions"].as_array().unwrap();
        let facts: Vec<_> = versions
            .iter()
            .map(|it| json!([it["name"], it["served"], it["storage"], it["deprecated"]]))
            .collect();
        let expected = [
            json!(["v1alpha3", true, false, true]),
            json!(["v1", true, true, null]),
        ];
        assert_eq!(facts, expected);
        assert_eq!(versions[0]["schema"], versions[1]["schema"]);
    }

    #[test]
    fn nothing_is_pruned_by_way_of_an_object_without_fields_that_has_some() {
        fn find(value: &Value, path: &str) {
            let Some(fields) = value.as_object() else {
                return;
            };
            assert!(
                !fields.contains_key("$ref"),
                "{path} refers to another schema"
            );
            let shapeless =
                fields.get("type").is_none() && fields.get("x-kubernetes-int-or-string").is_none();
            assert!(!shapeless, "{path} has no type");
            for (name, value) in fields
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                find(value, &format!("{path}.{name}"));
            }
            for part in ["items", "additionalProperties"] {
                if let Some(value) = fields.get(part) {
                    find(value, &format!("{path}[]"));
                }
            }
        }
        for document in documents() {
            find(
                &document["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
                "",
            );
        }
    }
}
