//! From the schema of a Rust type to a structural schema, as resource definitions want it: without
//! references, with one type for each value, and with bounds in place of formats of Rust.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Names of definitions that come from Kubernetes' own API, whose descriptions are left out: they
/// are several times as long as all the rest.
const FOREIGN: &str = "io.k8s.";

/// The metadata of objects that are made from a template.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The schema of a type, with a description.
pub(super) fn schema<T: JsonSchema>(description: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut root = generator.into_root_schema_for::<T>().to_value();
    let definitions = root
        .as_object_mut()
        .and_then(|root| root.remove("$defs"))
        .unwrap_or_default();
    let mut schema = Resolver {
        definitions: &definitions,
    }
    .resolve(&root, false);
    schema["description"] = description.into();
    schema
}

struct Resolver<'a> {
    definitions: &'a Value,
}

impl Resolver<'_> {
    /// The schema with everything that it refers to in its place; `foreign` if it is Kubernetes' own.
    fn resolve(&self, schema: &Value, foreign: bool) -> Value {
        let Some(fields) = schema.as_object() else {
            return json!({});
        };
        let description = fields.get("description").filter(|_| !foreign);
        let mut resolved = match self.target(fields) {
            Some((OBJECT_META, _)) => object_meta(),
            Some((name, target)) => self.resolve(target, foreign || name.starts_with(FOREIGN)),
            None => self.own(fields, foreign),
        };
        if let Some(description) = description {
            resolved["description"] = description.clone();
        }
        resolved
    }

    /// What the schema refers to: directly, or as the one alternative to null.
    fn target<'s>(&'s self, fields: &'s Map<String, Value>) -> Option<(&'s str, &'s Value)> {
        let reference = match fields.get("anyOf").and_then(Value::as_array) {
            Some(alternatives) => alternatives.iter().find_map(|schema| schema.get("$ref"))?,
            None => fields.get("$ref")?,
        };
        let name = reference.as_str()?.strip_prefix("#/$defs/")?;
        Some((name, self.definitions.get(name)?))
    }

    fn own(&self, fields: &Map<String, Value>, foreign: bool) -> Value {
        let mut schema = Map::new();
        for (name, value) in fields {
            match name.as_str() {
                "type" => {
                    schema.insert(name.clone(), without_null(value));
                }
                "properties" => {
                    let properties = value.as_object().into_iter().flatten();
                    let resolved = properties
                        .map(|(name, value)| (name.clone(), self.resolve(value, foreign)));
                    schema.insert(name.clone(), Value::Object(resolved.collect()));
                }
                "items" | "additionalProperties" if value.is_object() => {
                    schema.insert(name.clone(), self.resolve(value, foreign));
                }
                "format" => number(value, &mut schema),
                "required" | "enum" | "pattern" | "x-kubernetes-int-or-string" => {
                    schema.insert(name.clone(), value.clone());
                }
                // Titles, defaults of Rust, descriptions (added by the caller) and the dialect.
                _ => {}
            }
        }
        Value::Object(schema)
    }
}

/// The type of an optional field, without the null that stands for its absence in Rust.
fn without_null(value: &Value) -> Value {
    let types = value.as_array().into_iter().flatten();
    types
        .into_iter()
        .find(|name| *name != "null")
        .unwrap_or(value)
        .clone()
}

/// Bounds of numbers that are smaller than those of JSON; formats that Kubernetes knows stay.
fn number(format: &Value, schema: &mut Map<String, Value>) {
    let (minimum, maximum) = match format.as_str() {
        Some("uint32") => (0, i64::from(u32::MAX)),
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => {
            schema.insert("format".to_owned(), format.clone());
            return;
        }
    };
    schema.insert("minimum".to_owned(), minimum.into());
    schema.insert("maximum".to_owned(), maximum.into());
}

/// What a template can say of the objects made from it; a bare object would be pruned to nothing.
fn object_meta() -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "object", "additionalProperties": text });
    json!({
        "type": "object",
        "properties": {
            "name": text,
            "generateName": text,
            "namespace": text,
            "labels": texts,
            "annotations": texts,
            // Written as null by clients whose language has no absent time.
            "creationTimestamp": { "type": "string", "format": "date-time", "nullable": true },
        },
    })
}
