//! What turns a spec, as it was written, into one with its defaults.

use json_patch::{Patch, diff};
use serde::Serialize;
use serde_json::{Value, json};

/// A change of an object.
#[derive(Debug, PartialEq)]
pub(super) struct Change(pub(super) Patch);

/// The change from the object whose spec is `written`, if it has one, to the one whose spec is `wanted`,
/// if there is a change.
pub(super) fn between(written: Option<&str>, wanted: &impl Serialize) -> Option<Change> {
    let written = match written {
        Some(text) => json!({ "spec": serde_json::from_str::<Value>(text).ok()? }),
        None => json!({}),
    };
    let wanted = serde_json::to_value(wanted).ok()?;
    let patch = diff(&written, &json!({ "spec": wanted }));
    (!patch.is_empty()).then_some(Change(patch))
}
