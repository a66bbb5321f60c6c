//! What turns a spec, as it was written, into one with its defaults.

use json_patch::{Patch, diff};
use serde::Serialize;
use serde_json::{Value, json};

/// A change of an object.
#[derive(Debug, PartialEq)]
pub(super) struct Change(pub(super) Patch);

/// The change from the object whose spec is `written` to the one whose spec is `wanted`, if there is
/// one.
pub(super) fn between(written: &str, wanted: &impl Serialize) -> Option<Change> {
    let written: Value = serde_json::from_str(written).ok()?;
    let wanted = serde_json::to_value(wanted).ok()?;
    let patch = diff(&json!({ "spec": written }), &json!({ "spec": wanted }));
    (!patch.is_empty()).then_some(Change(patch))
}
