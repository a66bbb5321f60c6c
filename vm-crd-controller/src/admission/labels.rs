//! Labels of instances that are the controller's alone: services and selectors trust them.

use std::collections::BTreeMap;

use vm_api::contract::labels::{CREATED_BY, NODE_NAME, SCHEDULABLE};

use super::judge::Cause;
use super::request::Object;

/// Those that nobody else sets, changes or takes away, as in KubeVirt.
const RESERVED: [&str; 5] = [
    CREATED_BY,
    NODE_NAME,
    SCHEDULABLE,
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/migrationTargetNodeName",
];

/// That `object` differs from what it was in one of them.
pub(super) fn changed(object: &Object<'_>, old: Option<&Object<'_>>) -> Option<Cause> {
    let none = BTreeMap::new();
    let new = object.metadata.labels.as_ref().unwrap_or(&none);
    let before = old.and_then(|old| old.metadata.labels.as_ref());
    let before = before.unwrap_or(&none);
    let differing: Vec<_> = RESERVED
        .into_iter()
        .filter(|label| new.get(*label) != before.get(*label))
        .collect();
    let doing = if old.is_some() {
        "modification"
    } else {
        "creation"
    };
    (!differing.is_empty()).then(|| {
        let message = format!(
            "{doing} of the following reserved kubevirt.io/ labels on a VMI object is prohibited: {}",
            differing.join(", ")
        );
        Cause::new("metadata.labels", message)
    })
}
