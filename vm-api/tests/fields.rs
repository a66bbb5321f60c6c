//! The types have exactly the fields of KubeVirt 1.9, which `fields.tsv` lists with kind, path,
//! type and whether they are required, and they keep every value of every field.
#![cfg(feature = "schema")]
// The whole file is a test; clippy sees only its test functions as such.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vm_api::instancetype::{
    VirtualMachineClusterInstancetype, VirtualMachineClusterPreference, VirtualMachineInstancetype,
    VirtualMachinePreference,
};
use vm_api::pool::VirtualMachinePool;
use vm_api::v1::{VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceReplicaSet};

/// All kinds, each with the one whose rows in `fields.tsv` are its own.
const KINDS: [(&str, &str); 8] = [
    ("VirtualMachine", "VirtualMachine"),
    ("VirtualMachineInstance", "VirtualMachineInstance"),
    (
        "VirtualMachineInstanceReplicaSet",
        "VirtualMachineInstanceReplicaSet",
    ),
    ("VirtualMachinePool", "VirtualMachinePool"),
    ("VirtualMachineInstancetype", "VirtualMachineInstancetype"),
    (
        "VirtualMachineClusterInstancetype",
        "VirtualMachineInstancetype",
    ),
    ("VirtualMachinePreference", "VirtualMachinePreference"),
    (
        "VirtualMachineClusterPreference",
        "VirtualMachinePreference",
    ),
];

/// Path of a field to its type and whether it is required.
type Fields = BTreeMap<String, (String, bool)>;

fn expected(kind: &str) -> Fields {
    let rows = include_str!("fields.tsv")
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter(|row| row[0] == kind)
        .map(|row| {
            (
                row[1].to_owned(),
                (row[2].to_owned(), row.get(3) == Some(&"required")),
            )
        })
        .collect()
}

fn schema(kind: &str) -> Value {
    let document = vm_api::crd::documents()
        .into_iter()
        .find(|d| d["spec"]["names"]["kind"] == kind)
        .unwrap();
    document["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Collects the fields of a schema; types that `expected` names as Kubernetes' own are not entered.
fn collect(schema: &Value, path: &str, expected: &Fields, found: &mut Fields) {
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|other| other == name))
    };
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (suffix, value) = if field["type"] == "array" {
            ("[]", &field["items"])
        } else if field["additionalProperties"].is_object() {
            ("{}", &field["additionalProperties"])
        } else {
            ("", field)
        };
        let path = format!("{path}.{name}{suffix}");
        let wanted = expected.get(&path).map_or("", |(name, _)| name.as_str());
        // Below a type of Kubernetes there is nothing of KubeVirt's.
        let foreign = value["type"] == "object"
            && wanted.starts_with(|first: char| first.is_ascii_uppercase());
        let kind = if foreign {
            wanted.to_owned()
        } else {
            type_name(value)
        };
        found.insert(path.clone(), (kind, required(name)));
        if !foreign {
            collect(value, &path, expected, found);
        }
    }
}

fn type_name(schema: &Value) -> String {
    let name = match (schema["type"].as_str(), schema["format"].as_str()) {
        _ if schema["pattern"].is_string() => "Quantity",
        _ if schema["x-kubernetes-int-or-string"] == true => "IntOrString",
        (Some("string"), Some("date-time")) if schema["nullable"] == true => "string|null",
        (Some("string"), Some("date-time")) => "Time",
        (Some(name), _) => name,
        (None, _) => "none",
    };
    name.to_owned()
}

#[test]
fn fields_are_those_of_kubevirt() {
    for (kind, rows) in KINDS {
        let expected = expected(rows);
        let mut found = Fields::new();
        collect(&schema(kind), "", &expected, &mut found);
        for own in [".apiVersion", ".kind"] {
            found.remove(own);
        }
        found.insert(".metadata".to_owned(), ("ObjectMeta".to_owned(), false));
        // KubeVirt's own admission fills these in before the schema is looked at.
        for filled_in in [".spec.domain", ".spec.domain.devices"] {
            if let Some(field) = found.get_mut(filled_in) {
                field.1 = true;
            }
        }
        let missing: Vec<_> = expected
            .iter()
            .filter(|field| found.get(field.0) != Some(field.1))
            .collect();
        let more: Vec<_> = found
            .iter()
            .filter(|field| expected.get(field.0) != Some(field.1))
            .collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "{kind}: expected {missing:#?}, found {more:#?}"
        );
    }
}

/// A value with every field that the schema has.
fn sample(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return json!("12");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.last().cloned().unwrap_or_default();
    }
    match schema["type"].as_str() {
        Some("object") => match schema["additionalProperties"].as_object() {
            Some(_) => json!({ "key": sample(&schema["additionalProperties"]) }),
            None => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                fields
                    .map(|(name, field)| (name.clone(), sample(field)))
                    .collect()
            }
        },
        Some("array") => json!([sample(&schema["items"])]),
        Some("boolean") => true.into(),
        Some("integer") => 7.into(),
        Some("string") if schema["format"] == "date-time" => "2026-01-02T03:04:05Z".into(),
        Some("string") => "text".into(),
        other => panic!("a schema of type {other:?}: {schema}"),
    }
}

fn keeps<T: Serialize + DeserializeOwned>(kind: &str) {
    let mut value = sample(&schema(kind));
    value["apiVersion"] = "kubevirt.io/v1".into();
    value["kind"] = kind.into();
    value["metadata"] = json!({ "name": "a" });
    let state = match kind {
        "VirtualMachine" => Some("printableStatus"),
        "VirtualMachineInstance" => Some("phase"),
        _ => None,
    };
    if let Some(state) = state {
        value["status"][state] = "Running".into();
    }
    if let Some(transition) = value.pointer_mut("/status/phaseTransitionTimestamps/0") {
        transition["phase"] = "Running".into();
    }
    let read: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), value);
}

#[test]
fn every_field_is_read_and_written_back() {
    keeps::<VirtualMachine>("VirtualMachine");
    keeps::<VirtualMachineInstance>("VirtualMachineInstance");
    keeps::<VirtualMachineInstanceReplicaSet>("VirtualMachineInstanceReplicaSet");
    keeps::<VirtualMachinePool>("VirtualMachinePool");
    keeps::<VirtualMachineInstancetype>("VirtualMachineInstancetype");
    keeps::<VirtualMachineClusterInstancetype>("VirtualMachineClusterInstancetype");
    keeps::<VirtualMachinePreference>("VirtualMachinePreference");
    keeps::<VirtualMachineClusterPreference>("VirtualMachineClusterPreference");
}

/// A schema without what is said about its fields: what remains is their names, types and rules.
fn bare(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        fields.retain(|name, value| name != "description" || value.is_object());
    }
    match schema {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, bare(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(bare).collect(),
        other => other,
    }
}

/// A template has every field of what is made from it.
#[test]
fn templates_are_those_of_their_kinds() {
    let spec = |kind: &str, path: &str| {
        let whole = schema(kind);
        bare(whole.pointer(path).unwrap().clone())
    };
    let instance = spec("VirtualMachineInstance", "/properties/spec");
    let within = "/properties/spec/properties/template/properties/spec";
    for kind in ["VirtualMachine", "VirtualMachineInstanceReplicaSet"] {
        assert_eq!(spec(kind, within), instance, "{kind}");
    }
    let within = "/properties/spec/properties/virtualMachineTemplate/properties/spec";
    assert_eq!(
        spec("VirtualMachinePool", within),
        spec("VirtualMachine", "/properties/spec")
    );
}
