//! What the answer to an apply means, beside what was expected of it.

use super::live::Said;
use super::verdict::{Kubevirt, Stage, Verdict};

/// Refusals of the API server and of kubectl themselves, which every cluster gives: a part of what is
/// said.
const OF_KUBERNETES: [&str; 7] = [
    "resourceVersion should not be set",
    "name or generateName is required",
    "error parsing",
    "error converting YAML",
    "strict decoding error: unknown field",
    "metadata.name: Invalid value",
    "cannot be handled as a",
];

/// The verdict about an object that was refused when it was applied, or that was taken although it
/// should not have been.
pub(super) fn verdict(said: &Said, expected: &Verdict) -> Option<Verdict> {
    if said.is_done {
        return match expected {
            Verdict::Refused {
                stage: Stage::Apply,
                ..
            } => {
                let why = format!("it was taken, where {} was expected", expected.class());
                Some(Verdict::Failed { why })
            }
            _ => None,
        };
    }
    let is_refusal = matches!(
        expected,
        Verdict::Refused {
            stage: Stage::Apply,
            ..
        } | Verdict::NotSupported { .. }
    );
    let is_absent = said.text.contains("no matches for kind");
    if is_refusal || (is_absent && matches!(expected, Verdict::Needs { .. })) {
        return Some(expected.clone());
    }
    if OF_KUBERNETES.iter().any(|part| said.text.contains(part)) {
        let because = "so does every API server";
        return Some(Verdict::refused(
            first_line(&said.text),
            Kubevirt::Refuses(because.to_owned()),
        ));
    }
    let why = format!("it was refused when applied: {}", said.text);
    Some(Verdict::Failed { why })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Class;
    use super::*;

    #[test]
    fn an_answer_is_held_against_what_was_expected() {
        let refused = || Verdict::refused("wrong", Kubevirt::Unknown);
        let needs = || Verdict::Needs {
            what: vec!["CDI".to_owned()],
        };
        for (is_done, text, expected, class) in [
            (true, "", Verdict::Works, None),
            (true, "", needs(), None),
            (true, "", Verdict::not_supported("a", "b"), None),
            (true, "", refused(), Some(Class::Failed)),
            (false, "denied", refused(), Some(Class::Refused)),
            (false, "denied", Verdict::Works, Some(Class::Failed)),
            (false, "no matches for kind", needs(), Some(Class::Needs)),
            (false, "denied", needs(), Some(Class::Failed)),
            (
                false,
                "error: resourceVersion should not be set on objects to be created",
                Verdict::Works,
                Some(Class::Refused),
            ),
        ] {
            let text = text.to_owned();
            let verdict = verdict(&Said { is_done, text }, &expected);
            assert_eq!(verdict.map(|it| it.class()), class, "{expected:?}");
        }
    }
}
