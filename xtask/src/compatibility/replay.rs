//! What a real KubeVirt accepted and what is refused here of it, beside the fields that do not work at all.
//!
//! Relies on the recorded verdicts in `vm-api/tests/admission.jsonl`; their objects are filled in as at
//! admission before they are looked at.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use vm_api::support::catalogue::{self, Part, Verdict};
use vm_api::v1::{VirtualMachineInstanceSpec, VirtualMachineSpec};
use vm_api::{FieldError, defaults, support};

const CASES: &str = include_str!("../../../vm-api/tests/admission.jsonl");

#[derive(Deserialize)]
struct Case {
    case: String,
    kind: String,
    verdict: String,
    object: Value,
}

/// What is refused, by the field and the sentence, with the objects of which it is.
pub(super) type Refusals = BTreeMap<(String, String), Vec<String>>;

/// Values that KubeVirt accepts and that are refused here.
pub(super) fn refusals() -> Result<Refusals> {
    let judged: Vec<_> = catalogue::spec(Part::Instance)
        .into_iter()
        .chain(catalogue::spec(Part::Machine))
        .filter(|row| row.verdict != Verdict::Works)
        .map(|row| row.path)
        .collect();
    let mut found = Refusals::new();
    for line in CASES.lines() {
        let case: Case = serde_json::from_str(line).context("read admission.jsonl")?;
        if case.verdict != "accept" {
            continue;
        }
        for error in refused(&case).with_context(|| case.case.clone())? {
            let path = pattern(&error.path);
            let is_listed = judged.iter().any(|listed| {
                let any_key = listed.strip_suffix('*');
                *listed == path || any_key.is_some_and(|parent| path.starts_with(parent))
            });
            if !is_listed {
                let objects = found.entry((path, error.message)).or_default();
                objects.push(case.case.clone());
            }
        }
    }
    Ok(found)
}

fn refused(case: &Case) -> Result<Vec<FieldError>> {
    let object = case.object.clone();
    Ok(if case.kind == "VirtualMachine" {
        let mut spec: VirtualMachineSpec = serde_json::from_value(object)?;
        defaults::machine(&mut spec, &defaults::Identity::default());
        support::machine(&spec)
    } else {
        let mut spec: VirtualMachineInstanceSpec = serde_json::from_value(object)?;
        defaults::instance(&mut spec);
        support::instance(&spec)
    })
}

/// The path of a field without indices, below the instance's spec where it is there.
fn pattern(path: &str) -> String {
    let path = path.strip_prefix("template.spec.").unwrap_or(path);
    let mut pattern = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('[') {
        let (index, after) = after.split_once(']').unwrap_or((after, ""));
        pattern += before;
        // The key of a map stands there as well.
        pattern += &match index.parse::<usize>() {
            Ok(_) => "[]".to_owned(),
            Err(_) => format!(".{index}"),
        };
        rest = after;
    }
    pattern + rest
}
