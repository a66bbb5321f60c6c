//! What a machine refers to and what its status remembers of it: a pure function to the next step.

use vm_api::instancetype::{Family, Matcher, ObjectKind};
use vm_api::v1::{ControllerRevisionRef, InstancetypeStatusRef, VirtualMachine};

use super::problem::Problem;

/// What the status of a machine says about its instance type and its preference.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Refs {
    /// The instance type.
    pub(crate) instancetype: Option<InstancetypeStatusRef>,
    /// The preference.
    pub(crate) preference: Option<InstancetypeStatusRef>,
}

impl Refs {
    /// What the status of `vm` says now.
    pub(crate) fn known(vm: &VirtualMachine) -> Self {
        let status = vm.status.as_ref();
        Self {
            instancetype: status.and_then(|status| status.instancetype_ref.clone()),
            preference: status.and_then(|status| status.preference_ref.clone()),
        }
    }

    /// That of `family`.
    pub(crate) fn of(&self, family: Family) -> Option<&InstancetypeStatusRef> {
        match family {
            Family::Instancetype => self.instancetype.as_ref(),
            Family::Preference => self.preference.as_ref(),
        }
    }

    /// Sets that of `family`.
    pub(super) fn set(&mut self, family: Family, to: Option<InstancetypeStatusRef>) {
        match family {
            Family::Instancetype => self.instancetype = to,
            Family::Preference => self.preference = to,
        }
    }
}

/// The matcher of `vm` for `family`.
pub(super) fn matcher(vm: &VirtualMachine, family: Family) -> Option<Matcher<'_>> {
    match family {
        Family::Instancetype => vm.spec.instancetype.as_ref().map(Matcher::from),
        Family::Preference => vm.spec.preference.as_ref().map(Matcher::from),
    }
}

/// What is to be done about a matcher.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// There is none.
    Nothing,
    /// It is known what it means: a revision, or nothing where an inference was ignored.
    Known(InstancetypeStatusRef),
    /// The object is to be looked up, by kind and name.
    LookUp(Named),
    /// The labels of this volume are to be looked up.
    Infer(String),
}

/// An object that is referred to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
    /// What the status says of it, but for its revision.
    pub(super) reference: InstancetypeStatusRef,
}

/// The next step about `matcher`, of which the status knows `known`.
pub(super) fn step(
    matcher: Option<&Matcher<'_>>,
    known: Option<&InstancetypeStatusRef>,
) -> Result<Step, Problem> {
    let Some(matcher) = matcher else {
        return Ok(Step::Nothing);
    };
    if let Some(revision) = matcher.revision_name {
        return Ok(Step::Known(InstancetypeStatusRef {
            name: matcher.name.map(str::to_owned),
            kind: matcher.kind.map(str::to_owned),
            controller_revision_ref: Some(ControllerRevisionRef {
                name: Some(revision.to_owned()),
            }),
            ..InstancetypeStatusRef::default()
        }));
    }
    if let Some(volume) = matcher.infer_from_volume {
        let found = known.filter(|known| known.infer_from_volume.as_deref() == Some(volume));
        let settled = found.filter(|known| {
            known.revision().is_some() || (known.name.is_none() && matcher.ignores_failure())
        });
        return Ok(match settled {
            Some(known) => Step::Known(known.clone()),
            None => Step::Infer(volume.to_owned()),
        });
    }
    let named = named(matcher, matcher.name.unwrap_or_default(), matcher.kind)?;
    let same = known.filter(|known| {
        let kind = ObjectKind::parse(matcher.family, known.kind.as_deref());
        known.name == named.reference.name && kind == Some(named.kind) && known.revision().is_some()
    });
    Ok(match same {
        Some(known) => Step::Known(known.clone()),
        None => Step::LookUp(named),
    })
}

/// The object that `matcher` means by `name` and `kind`, its own or inferred ones.
pub(super) fn named(
    matcher: &Matcher<'_>,
    name: &str,
    kind: Option<&str>,
) -> Result<Named, Problem> {
    let Some(parsed) = ObjectKind::parse(matcher.family, kind) else {
        return Err(Problem::Kind {
            family: matcher.family,
            text: kind.unwrap_or_default().to_owned(),
        });
    };
    let text = kind.filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(Named {
        kind: parsed,
        name: name.to_owned(),
        reference: InstancetypeStatusRef {
            name: Some(name.to_owned()),
            kind: Some(text.unwrap_or_else(|| parsed.name().to_lowercase())),
            ..inferred(matcher)
        },
    })
}

/// What the status says of a matcher that infers, before anything was found.
pub(super) fn inferred(matcher: &Matcher<'_>) -> InstancetypeStatusRef {
    let policy = matcher
        .infer_from_volume
        .and(matcher.failure_policy)
        .map(str::to_owned);
    InstancetypeStatusRef {
        infer_from_volume: matcher.infer_from_volume.map(str::to_owned),
        infer_from_volume_failure_policy: policy,
        ..InstancetypeStatusRef::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use vm_api::v1::{InstancetypeMatcher, PreferenceMatcher};

    use super::*;

    fn at(matcher: Value, known: Value) -> Result<Step, Problem> {
        let matcher: InstancetypeMatcher = serde_json::from_value(matcher).unwrap();
        let known: Option<InstancetypeStatusRef> = serde_json::from_value(known).unwrap();
        step(Some(&Matcher::from(&matcher)), known.as_ref())
    }

    fn revision(step: Result<Step, Problem>) -> Option<String> {
        match step.unwrap() {
            Step::Known(known) => Some(known.revision().unwrap_or_default().to_owned()),
            Step::LookUp(_) | Step::Infer(_) | Step::Nothing => None,
        }
    }

    #[test]
    fn what_is_known_is_not_looked_up_again() {
        let known = json!({ "name": "small", "kind": "virtualmachineclusterinstancetype",
            "controllerRevisionRef": { "name": "r" } });
        let same = at(json!({ "name": "small" }), known.clone());
        assert_eq!(revision(same).as_deref(), Some("r"));
        let other = at(json!({ "name": "large" }), known.clone());
        assert_eq!(revision(other), None, "another name");
        let kind = json!({ "name": "small", "kind": "VirtualMachineInstancetype" });
        assert_eq!(revision(at(kind, known.clone())), None, "another kind");
        let given = json!({ "name": "small", "revisionName": "own" });
        assert_eq!(revision(at(given, known)).as_deref(), Some("own"));
        let new = at(json!({ "name": "small" }), Value::Null).unwrap();
        let Step::LookUp(named) = new else {
            panic!("{new:?}");
        };
        assert_eq!(named.kind.name(), "VirtualMachineClusterInstancetype");
        assert_eq!(
            named.reference.kind.as_deref(),
            Some("virtualmachineclusterinstancetype")
        );
    }

    #[test]
    fn what_was_inferred_is_not_inferred_again() {
        let matcher = json!({ "inferFromVolume": "root" });
        assert_eq!(
            at(matcher.clone(), Value::Null),
            Ok(Step::Infer("root".to_owned()))
        );
        let known = json!({ "name": "small", "inferFromVolume": "root",
            "controllerRevisionRef": { "name": "r" } });
        assert_eq!(
            revision(at(matcher.clone(), known.clone())).as_deref(),
            Some("r")
        );
        let other = json!({ "inferFromVolume": "data" });
        assert_eq!(at(other, known), Ok(Step::Infer("data".to_owned())));
        let ignored =
            json!({ "inferFromVolume": "root", "inferFromVolumeFailurePolicy": "Ignore" });
        let ignores = at(ignored.clone(), ignored.clone());
        assert_eq!(revision(ignores).as_deref(), Some(""), "once and for all");
        assert_eq!(at(matcher, ignored), Ok(Step::Infer("root".to_owned())));
    }

    #[test]
    fn a_preference_is_found_like_an_instance_type() {
        let at = |preference: Value, known: Value| {
            let matcher: PreferenceMatcher = serde_json::from_value(preference).unwrap();
            let known: Option<InstancetypeStatusRef> = serde_json::from_value(known).unwrap();
            step(Some(&Matcher::from(&matcher)), known.as_ref())
        };
        let given = json!({ "name": "linux", "revisionName": "own" });
        assert_eq!(revision(at(given, Value::Null)).as_deref(), Some("own"));
        let inferred = json!({ "inferFromVolume": "root" });
        assert_eq!(
            at(inferred, Value::Null),
            Ok(Step::Infer("root".to_owned()))
        );
        let ignored =
            json!({ "inferFromVolume": "root", "inferFromVolumeFailurePolicy": "Ignore" });
        let ignores = at(ignored.clone(), ignored);
        assert_eq!(revision(ignores).as_deref(), Some(""), "once and for all");
        let kind = json!({ "name": "linux", "kind": "VirtualMachinePreference" });
        let Ok(Step::LookUp(named)) = at(kind, Value::Null) else {
            panic!("it is looked up");
        };
        assert_eq!(named.kind.name(), "VirtualMachinePreference");
    }

    #[test]
    fn a_kind_that_is_none_is_a_problem() {
        let wrong = at(json!({ "name": "small", "kind": "Foo" }), Value::Null);
        assert!(matches!(wrong, Err(Problem::Kind { .. })), "{wrong:?}");
    }
}
