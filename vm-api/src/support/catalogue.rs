//! Every field of the API, and whether it works: what the documentation lists and the tests go through.
//!
//! The fields are those of the schemas, the verdicts those of the tables by which objects are refused, so
//! that neither can be forgotten. A field stands for all below it where it is refused as a whole, or where
//! it is of a type of Kubernetes' own.

use std::sync::OnceLock;

use serde_json::Value;

use super::hints::instead;
use super::table::{INSTANCE, MACHINE, POOL, REPLICA_SET, Working};
use super::types::{self, Meant};

/// Specs whose fields are listed; templates are listed where they are a spec of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// That of a VirtualMachine.
    Machine,
    /// That of a VirtualMachineInstance.
    Instance,
    /// That of a VirtualMachineInstanceReplicaSet.
    ReplicaSet,
    /// That of a VirtualMachinePool.
    Pool,
    /// That of an instance type, of a namespace or of the cluster.
    Instancetype,
    /// That of a preference, of a namespace or of the cluster.
    Preference,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 6] = [
        Self::Machine,
        Self::Instance,
        Self::ReplicaSet,
        Self::Pool,
        Self::Instancetype,
        Self::Preference,
    ];

    /// The kind whose spec it is.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Machine => "VirtualMachine",
            Self::Instance => "VirtualMachineInstance",
            Self::ReplicaSet => "VirtualMachineInstanceReplicaSet",
            Self::Pool => "VirtualMachinePool",
            Self::Instancetype => "VirtualMachineInstancetype",
            Self::Preference => "VirtualMachinePreference",
        }
    }

    fn judge(self) -> Judge {
        match self {
            Self::Machine => Judge::Listed(MACHINE),
            Self::Instance => Judge::Listed(INSTANCE),
            Self::ReplicaSet => Judge::Listed(REPLICA_SET),
            Self::Pool => Judge::Listed(POOL),
            Self::Instancetype => Judge::Meant(types::INSTANCETYPE),
            Self::Preference => Judge::Meant(types::PREFERENCE),
        }
    }
}

/// What becomes of a field that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Works,
    /// It works with these values and is refused with others.
    Values(&'static [&'static str]),
    /// It is refused; what to do instead.
    Refused(&'static str),
}

/// A field, or a field and all below it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its path below the spec or the status, `[]` for any item of a list and `*` for any key of a map.
    pub path: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Its schema.
    pub schema: Value,
    /// How many fields of the schema without fields of their own it stands for.
    pub fields: usize,
}

impl Row {
    /// The path, with `.**` where it stands for all fields below.
    pub fn pattern(&self) -> String {
        let path = &self.path;
        match &self.schema {
            schema if has_fields(schema) => format!("{path}.**"),
            schema if has_fields(&schema["items"]) => format!("{path}[].**"),
            schema if schema["items"].is_object() => format!("{path}[]"),
            _ => path.clone(),
        }
    }
}

/// Fields of types of Kubernetes' own: they mean there what they mean in a pod.
const KUBERNETES: [&str; 16] = [
    "affinity",
    "dnsConfig",
    "tolerations[]",
    "topologySpreadConstraints[]",
    "readinessProbe.exec",
    "readinessProbe.httpGet",
    "readinessProbe.tcpSocket",
    "livenessProbe.exec",
    "livenessProbe.httpGet",
    "livenessProbe.tcpSocket",
    "volumes[].downwardAPI.fields[]",
    "selector",
    "scaleInStrategy.proactive.selectionPolicy.selectors.labelSelector",
    "scaleInStrategy.proactive.selectionPolicy.selectors.nodeSelectorRequirementMatcher[]",
    "updateStrategy.proactive.selectionPolicy.selectors.labelSelector",
    "updateStrategy.proactive.selectionPolicy.selectors.nodeSelectorRequirementMatcher[]",
];

/// The fields of a spec, those of a template apart that is the spec of another part.
pub fn spec(part: Part) -> Vec<Row> {
    let schema = schema(part);
    let mut walk = Walk {
        judge: Some(part.judge()),
        rows: Vec::new(),
    };
    walk.below(&schema, "");
    walk.rows
}

/// The fields of a kind's status; all of them count as working.
pub fn status(kind: &str) -> Vec<Row> {
    let mut walk = Walk {
        judge: None,
        rows: Vec::new(),
    };
    walk.below(&content(kind, "status"), "");
    walk.rows
}

/// The schema of a spec.
pub fn schema(part: Part) -> Value {
    content(part.kind(), "spec")
}

/// The schema of a part of a kind's objects.
fn content(kind: &str, part: &str) -> Value {
    // They are the same each time, and take long to make.
    static DOCUMENTS: OnceLock<Vec<Value>> = OnceLock::new();
    let mut kinds = DOCUMENTS.get_or_init(crate::crd::documents).iter();
    let document = kinds.find(|document| document["spec"]["names"]["kind"] == kind);
    let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}");
    let schema = document.and_then(|found| found.pointer(&path));
    schema.cloned().unwrap_or_default()
}

/// What tells whether a field works.
#[derive(Clone, Copy)]
enum Judge {
    /// What is in the table works.
    Listed(&'static [Working]),
    /// What is not in the table works.
    Meant(&'static [Meant]),
}

/// What is known of a field before what is below it is looked at.
enum Found {
    /// It is the end.
    End(Verdict),
    /// It is as what is below it.
    Below,
}

impl Judge {
    fn find(self, path: &str) -> Found {
        let table = match self {
            Self::Listed(table) => table,
            Self::Meant(table) => {
                let Some((_, meant)) = table.iter().find(|(own, _)| *own == path) else {
                    return Found::Below;
                };
                return match INSTANCE.iter().find(|field| field.covers(meant)) {
                    Some(field) => Found::End(verdict(field)),
                    None => Found::End(Verdict::Refused(instead(meant))),
                };
            }
        };
        let leads_on = |field: &Working| {
            let rest = field.path().strip_prefix(path);
            rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        match table.iter().find(|field| field.covers(path)) {
            Some(field @ Working::Only(..)) => Found::End(verdict(field)),
            Some(_) => Found::Below,
            None if table.iter().any(leads_on) => Found::Below,
            None => Found::End(Verdict::Refused(instead(path))),
        }
    }
}

fn verdict(field: &Working) -> Verdict {
    match field {
        Working::Field(_) => Verdict::Works,
        Working::Only(_, values) => Verdict::Values(values),
    }
}

struct Walk {
    judge: Option<Judge>,
    rows: Vec<Row>,
}

impl Walk {
    fn below(&mut self, schema: &Value, path: &str) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            self.field(field, &super::join(path, name));
        }
    }

    fn field(&mut self, schema: &Value, path: &str) {
        if is_template_spec(path) {
            return;
        }
        let found = self.judge.map_or(Found::Below, |judge| judge.find(path));
        let item = &schema["items"];
        let of_map = &schema["additionalProperties"];
        match found {
            Found::End(verdict) => self.push(path.to_owned(), schema, verdict),
            Found::Below if KUBERNETES.contains(&path) => {
                self.push(path.to_owned(), schema, Verdict::Works);
            }
            Found::Below if has_fields(schema) => self.below(schema, path),
            Found::Below if item.is_object() => {
                let path = format!("{path}[]");
                if has_fields(item) && !KUBERNETES.contains(&path.as_str()) {
                    self.below(item, &path);
                } else {
                    self.push(path, item, Verdict::Works);
                }
            }
            Found::Below if of_map.is_object() => self.map(of_map, path),
            Found::Below => self.push(path.to_owned(), schema, Verdict::Works),
        }
    }

    /// A map: its keys that the table has, and any other.
    fn map(&mut self, schema: &Value, path: &str) {
        let any = format!("{path}.*");
        if let Some(Judge::Listed(table)) = self.judge {
            let own = table.iter().filter(|field| {
                let rest = field.path().strip_prefix(path);
                rest.is_some_and(|rest| rest.starts_with('.') && rest != ".*" && rest != ".**")
            });
            for field in own {
                self.push(field.path().to_owned(), schema, verdict(field));
            }
            if !table.iter().any(|field| field.covers(&any)) {
                self.push(any.clone(), schema, Verdict::Refused(instead(&any)));
                return;
            }
        }
        self.push(any, schema, Verdict::Works);
    }

    fn push(&mut self, path: String, schema: &Value, verdict: Verdict) {
        self.rows.push(Row {
            fields: ends(schema),
            schema: schema.clone(),
            path,
            verdict,
        });
    }
}

/// Whether it is the spec of a template, which is a part of its own.
fn is_template_spec(path: &str) -> bool {
    matches!(path, "template.spec" | "virtualMachineTemplate.spec")
}

fn has_fields(schema: &Value) -> bool {
    let fields = schema["properties"].as_object();
    fields.is_some_and(|fields| !fields.is_empty())
}

/// How many fields of a schema have no fields of their own.
fn ends(schema: &Value) -> usize {
    let below = schema["properties"].as_object();
    let item = &schema["items"];
    match below {
        Some(fields) if !fields.is_empty() => fields.values().map(ends).sum(),
        _ if item.is_object() => ends(item),
        _ => 1,
    }
}
