//! What a real KubeVirt 1.9 said to 593 objects, and what is said here: `admission.jsonl` holds, a
//! line each, an object made from a valid one by changing one field, the verdict, the fields that a
//! rejection named, and the defaults that an acceptance filled in.
//!
//! The objects are read, filled in and checked in the order of the API server. What differs stands
//! in the tables of `differences.rs`, each with its reason, and nothing stands there that does not differ.
// The whole file is a test; clippy sees only its test functions as such.
#![allow(clippy::unwrap_used)]

mod verdicts;

use std::collections::BTreeSet;

use serde_json::Value;
use vm_api::defaults::{self, Identity};
use vm_api::strict::{self, Strict, StrictError};
use vm_api::v1::{VirtualMachineInstanceSpec, VirtualMachineSpec};
use vm_api::{FieldError, validate};

use verdicts::{Answer, Case, Tally, cases};

fn answer(case: &Case) -> Answer {
    let mut identity = Identity {
        uuid: Some("random".to_owned()),
        serial: Some("random".to_owned()),
    };
    let given = &case.object;
    let (filled, wrong) = if case.kind == "VirtualMachine" {
        let mut spec: VirtualMachineSpec = read(given)?;
        defaults::machine(&mut spec, &identity);
        (serde_json::to_value(&spec), validate::machine(&spec))
    } else {
        let mut spec: VirtualMachineInstanceSpec = read(given)?;
        defaults::instance(&mut spec);
        identity.serial = None;
        identity.give(&mut spec);
        (serde_json::to_value(&spec), validate::instance(&spec))
    };
    if wrong.is_empty() {
        Ok(filled.unwrap())
    } else {
        Err(paths(&wrong))
    }
}

/// As the API server reads objects whose fields are validated strictly.
fn read<T: serde::de::DeserializeOwned>(json: &Value) -> Result<T, BTreeSet<String>> {
    match strict::read(&json.to_string()) {
        Ok(Strict { value, unknown }) if unknown.is_empty() => Ok(value),
        Ok(Strict { unknown, .. }) => Err(unknown.into_iter().collect()),
        Err(StrictError::Type(error)) => Err(paths(&[error])),
        Err(StrictError::Syntax(error)) => panic!("{error}"),
    }
}

fn paths(errors: &[FieldError]) -> BTreeSet<String> {
    errors
        .iter()
        .map(|error| validate::spelled(&error.path))
        .collect()
}

#[test]
fn objects_are_judged_as_kubevirt_judges_them() {
    let mut tally = Tally::default();
    for case in cases() {
        let answer = answer(&case);
        if let Err(fields) = &answer {
            assert!(
                !fields.is_empty(),
                "{} is refused without a field",
                case.case
            );
        }
        tally.add(&case, answer);
    }
    match tally.finish() {
        Ok(said) => println!("{said}"),
        Err(said) => panic!("{said}"),
    }
}
