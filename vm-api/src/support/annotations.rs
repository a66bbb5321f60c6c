//! Annotations of instances by which KubeVirt is asked for more than the spec says.

use std::collections::BTreeMap;

use crate::field::FieldError;

/// Annotations that do not work, each with what to do instead. KubeVirt's other annotations are notes
/// that nobody has to heed.
const REFUSED: &[(&str, &str)] = &[
    (
        "hooks.kubevirt.io/hookSidecars",
        "use cloud-init, or a pod of your own with sidecars",
    ),
    (
        "kubevirt.io/ignitiondata",
        "give it as the userData of a cloudInitConfigDrive",
    ),
];

/// Annotations that do not work; paths begin at the object's root.
pub fn annotations(annotations: Option<&BTreeMap<String, String>>) -> Vec<FieldError> {
    let is_set = |name: &str| annotations.is_some_and(|all| all.contains_key(name));
    let refused = REFUSED.iter().filter(|(name, _)| is_set(name));
    let error = |(name, hint): &(&str, &str)| {
        let path = format!("metadata.annotations.{name}");
        FieldError::new(path, format!("is not supported yet: {hint}"))
    };
    refused.map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_change_the_machine_is_refused_and_notes_are_not() {
        let given = BTreeMap::from(
            [
                ("hooks.kubevirt.io/hookSidecars", "[]"),
                ("kubevirt.io/ignitiondata", "{}"),
                ("example.com/note", "a"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let paths: Vec<_> = annotations(Some(&given))
            .into_iter()
            .map(|error| error.path)
            .collect();
        assert_eq!(
            paths,
            [
                "metadata.annotations.hooks.kubevirt.io/hookSidecars",
                "metadata.annotations.kubevirt.io/ignitiondata",
            ]
        );
        assert_eq!(annotations(None), []);
    }
}
