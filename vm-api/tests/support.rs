//! Each field of the API works or is refused by name: what the catalogue says of a field is what happens
//! to an object in which it is set.
#![cfg(feature = "schema")]
// The whole file is a test; clippy sees only its test functions as such.
#![allow(clippy::unwrap_used)]

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vm_api::FieldError;
use vm_api::instancetype::{Expansion, InstancetypeSpec, PreferenceSpec, expand};
use vm_api::support;
use vm_api::support::catalogue::{self, Part, Row, Verdict};
use vm_api::v1::VirtualMachineInstanceTemplateSpec;

/// The key that stands for any key of a map.
const ANY_KEY: &str = "example.com/any";

/// A spec in which nothing is refused, and which has an item in each list whose items need more than the
/// field in question.
fn base(part: Part) -> Value {
    let instance = json!({
        "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
    });
    match part {
        Part::Instance => instance,
        Part::Machine => json!({ "runStrategy": "Always", "template": { "spec": instance } }),
        Part::ReplicaSet => json!({ "selector": {}, "template": { "spec": instance } }),
        Part::Pool => json!({
            "selector": {}, "virtualMachineTemplate": { "spec": base(Part::Machine) },
        }),
        Part::Instancetype => json!({ "cpu": { "guest": 2 }, "memory": { "guest": "1Gi" } }),
        Part::Preference => json!({}),
    }
}

/// What is refused of a spec because it does not work.
fn refused(part: Part, spec: Value) -> Vec<FieldError> {
    fn read<T: DeserializeOwned>(spec: Value) -> T {
        let text = spec.to_string();
        serde_json::from_value(spec).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
    match part {
        Part::Machine => support::machine(&read(spec)),
        Part::Instance => support::instance(&read(spec)),
        Part::ReplicaSet => support::replica_set(&read(spec)),
        Part::Pool => support::pool(&read(spec)),
        Part::Instancetype => support::instancetype(&read(spec)),
        Part::Preference => support::preference(&read(spec)),
    }
}

/// A value of a schema with every field that it has.
fn sample(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return json!("12");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.last().cloned().unwrap();
    }
    match schema["type"].as_str() {
        Some("object") => match schema["additionalProperties"].as_object() {
            Some(_) => json!({ "key": sample(&schema["additionalProperties"]) }),
            None => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                let fields = fields.map(|(name, field)| (name.clone(), sample(field)));
                fields.collect()
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

/// Sets the field at `path` of `object`, in the first item of each list on the way.
fn set(object: &mut Value, path: &str, value: Value) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, rest),
        None => (path, ""),
    };
    let (name, is_list) = name
        .strip_suffix("[]")
        .map_or((name, false), |name| (name, true));
    let name = if name == "*" { ANY_KEY } else { name };
    let mut place = &mut object[name];
    if is_list {
        if place.is_null() {
            *place = json!([null]);
        }
        place = &mut place[0];
    }
    if rest.is_empty() {
        *place = value;
    } else {
        set(place, rest, value);
    }
}

/// The spec with a field set, and with what the types of the fields on the way require beside it.
fn with(part: Part, schema: &Value, row: &Row, value: Value) -> Value {
    let mut spec = base(part);
    set(&mut spec, &row.path, value);
    complete(&mut spec, schema);
    spec
}

/// Gives each object what its schema requires and it has not.
fn complete(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                let needed = || sample(&schema["properties"][name]);
                fields.entry(name).or_insert_with(needed);
            }
            for (name, value) in fields {
                complete(value, &schema["properties"][name]);
            }
        }
        Value::Array(items) => {
            for item in items {
                complete(item, &schema["items"]);
            }
        }
        _ => {}
    }
}

/// The path without indices, and with `*` for any key.
fn pattern(path: &str) -> String {
    path.replace("[0]", "[]").replace(ANY_KEY, "*")
}

fn rows(part: Part) -> Vec<Row> {
    let rows = catalogue::spec(part);
    assert!(rows.len() > 4, "{part:?} has {} fields", rows.len());
    rows
}

#[test]
fn the_base_of_each_part_is_not_refused() {
    for part in Part::ALL {
        assert_eq!(refused(part, base(part)), []);
    }
}

#[test]
fn a_field_that_does_not_work_is_refused_by_name() {
    let mut count = 0;
    for part in Part::ALL {
        let schema = catalogue::schema(part);
        for row in rows(part) {
            let Verdict::Refused(instead) = row.verdict else {
                continue;
            };
            count += 1;
            let errors = refused(part, with(part, &schema, &row, sample(&row.schema)));
            let own = errors.iter().find(|error| pattern(&error.path) == row.path);
            let own = own.unwrap_or_else(|| panic!("{part:?} {}: {errors:?}", row.path));
            assert_eq!(own.message, format!("is not supported yet: {instead}"));
            assert!(instead.len() > 8 && instead.contains(' '), "{}", row.path);
        }
    }
    assert!(count > 40, "only {count} fields are refused");
}

#[test]
fn a_value_that_does_not_work_is_refused_by_name() {
    for part in Part::ALL {
        let schema = catalogue::schema(part);
        for row in rows(part) {
            let Verdict::Values(allowed) = row.verdict else {
                continue;
            };
            let is_flag = row.schema["type"] == "boolean";
            let typed = |text: &str| match is_flag {
                true => json!(text == "true"),
                false => text.into(),
            };
            let complaints = |value| {
                let errors = refused(part, with(part, &schema, &row, value)).into_iter();
                let own = errors.filter(|error| pattern(&error.path) == row.path);
                let own = own.filter(|error| error.message.contains("is not supported yet: use "));
                own.map(|error| error.message).collect::<Vec<_>>()
            };
            for value in allowed {
                assert_eq!(complaints(typed(value)), [""; 0], "{} {value}", row.path);
            }
            let other = if is_flag { "true" } else { "bogus" };
            let said = complaints(typed(other));
            assert_eq!(said.len(), 1, "{part:?} {}", row.path);
            for value in allowed.iter().filter(|value| !value.is_empty()) {
                assert!(said[0].contains(value), "{}: {said:?}", row.path);
            }
        }
    }
}

#[test]
fn a_field_that_works_is_not_refused() {
    for part in Part::ALL {
        let schema = catalogue::schema(part);
        for row in rows(part) {
            if row.verdict != Verdict::Works {
                continue;
            }
            let errors = refused(part, with(part, &schema, &row, sample(&row.schema)));
            let mut own = errors
                .iter()
                .filter(|error| row.path.starts_with(&pattern(&error.path)));
            let unsupported = own.find(|error| error.message.starts_with("is not supported yet"));
            assert_eq!(unsupported, None, "{part:?} {}", row.path);
        }
    }
}

/// A template in which every preference finds something to fill in.
fn open_template() -> VirtualMachineInstanceTemplateSpec {
    let template = json!({ "spec": {
        "domain": {
            "firmware": { "bootloader": {} },
            "devices": {
                "disks": [
                    { "name": "disk" }, { "name": "virtio", "disk": { "bus": "virtio" } },
                    { "name": "cdrom", "cdrom": {} }, { "name": "lun", "lun": {} },
                ],
                "interfaces": [{ "name": "pod" }],
                "sound": { "name": "s" },
                "inputs": [{ "name": "i", "type": "" }],
            },
        },
        "networks": [{ "name": "pod", "pod": {} }],
    } });
    serde_json::from_value(template).unwrap()
}

/// What has an effect only together with something else, and what else that is.
fn company(path: &str) -> Value {
    match path {
        "firmware.preferredUseSecureBoot" => json!({ "firmware": { "preferredUseEfi": true } }),
        "firmware.preferredUseBiosSerial" => json!({ "firmware": { "preferredUseBios": true } }),
        // How processors are spread shows with a size that can be spread in several ways.
        "cpu.spreadOptions.across"
        | "cpu.spreadOptions.ratio"
        | "preferSpreadSocketToCoreRatio" => {
            json!({ "cpu": { "preferredCPUTopology": "spread" } })
        }
        _ => json!({}),
    }
}

/// A value that is not the one by default.
fn telling(row: &Row) -> Value {
    match row.path.as_str() {
        "cpu.preferredCPUTopology" => "cores".into(),
        "cpu.spreadOptions.across" => "SocketsCoresThreads".into(),
        "cpu.spreadOptions.ratio" | "preferSpreadSocketToCoreRatio" => 4.into(),
        "requirements.architecture" => "arm64".into(),
        "devices.preferredAutoattachPodInterface" => false.into(),
        "requirements.cpu.guest" => 9.into(),
        "memory.guest" | "requirements.memory.guest" => "3Gi".into(),
        _ => sample(&row.schema),
    }
}

/// The template, expanded; or why it cannot be.
fn expanded(part: Part, other: Value) -> String {
    let mut size: InstancetypeSpec = serde_json::from_value(base(Part::Instancetype)).unwrap();
    size.cpu.guest = 8;
    let mut taste = PreferenceSpec::default();
    match part {
        Part::Instancetype => size = serde_json::from_value(other).unwrap(),
        _ => taste = serde_json::from_value(other).unwrap(),
    }
    let mut template = open_template();
    let expansion = Expansion {
        instancetype: Some(&size),
        preference: Some(&taste),
        memory_is_fallback: false,
    };
    match expand(&mut template, expansion) {
        Ok(()) => serde_json::to_string(&template).unwrap(),
        Err(errors) => format!("{errors:?}"),
    }
}

#[test]
fn each_field_of_a_type_makes_a_difference() {
    for part in [Part::Instancetype, Part::Preference] {
        let schema = catalogue::schema(part);
        for row in rows(part) {
            if matches!(row.verdict, Verdict::Refused(_)) {
                continue;
            }
            let mut without = base(part);
            let company = company(&row.path);
            for (name, value) in company.as_object().unwrap() {
                without[name] = value.clone();
            }
            let mut with = without.clone();
            set(&mut with, &row.path, telling(&row));
            complete(&mut with, &schema);
            assert_ne!(
                expanded(part, with),
                expanded(part, without),
                "{part:?} {}",
                row.path
            );
        }
    }
}
