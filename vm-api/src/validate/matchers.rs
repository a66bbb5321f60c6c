//! How a machine refers to its instance type and its preference; verdicts and paths are KubeVirt's.

use crate::field::{FieldError, word};
use crate::instancetype::{Inference, Matcher};

/// What is wrong with a matcher, paths relative to the machine's spec.
pub(super) fn check(matcher: &Matcher<'_>) -> Vec<FieldError> {
    let field = matcher.family.field();
    let mut errors = Vec::new();
    if matcher.name.is_none() && matcher.infer_from_volume.is_none() {
        let message = "name it, or the volume that names it";
        errors.push(FieldError::new(field, message));
    }
    if matcher.infer_from_volume.is_some() {
        for (name, given) in [("name", matcher.name), ("kind", matcher.kind)] {
            if given.is_some() {
                let message = "the volume names it: leave this or inferFromVolume out";
                errors.push(FieldError::new(format!("{field}.{name}"), message));
            }
        }
    }
    let path = || format!("{field}.inferFromVolumeFailurePolicy");
    errors.extend(word::<Inference>(path, matcher.failure_policy).err());
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::v1::PreferenceMatcher;

    #[test]
    fn a_matcher_names_one_thing() {
        let paths = |matcher: Value| {
            let matcher: PreferenceMatcher = serde_json::from_value(matcher).unwrap();
            let errors = check(&Matcher::from(&matcher));
            errors
                .into_iter()
                .map(|error| error.path)
                .collect::<Vec<_>>()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(paths(json!({ "name": "linux", "kind": "Foo" })), none);
        assert_eq!(paths(json!({ "inferFromVolume": "root" })), none);
        assert_eq!(
            paths(json!({ "name": "", "revisionName": "r" })),
            ["preference"]
        );
        assert_eq!(
            paths(json!({ "inferFromVolume": "root", "name": "a", "kind": "b" })),
            ["preference.name", "preference.kind"]
        );
        assert_eq!(
            paths(json!({ "inferFromVolume": "root", "inferFromVolumeFailurePolicy": "Hope" })),
            ["preference.inferFromVolumeFailurePolicy"]
        );
    }
}
