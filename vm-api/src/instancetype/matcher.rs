//! How a machine refers to its instance type and its preference: by name, by a stored revision, or
//! by a volume whose labels name it. Both matchers have one form; this is what they say.

use crate::v1::{InstancetypeMatcher, InstancetypeStatusRef, PreferenceMatcher};
use crate::words::words;

/// Instance types or preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Instance types.
    Instancetype,
    /// Preferences.
    Preference,
}

impl Family {
    /// The field of a machine's spec that refers to one.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Instancetype => "instancetype",
            Self::Preference => "preference",
        }
    }

    /// What it is called in a sentence.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Instancetype => "instance type",
            Self::Preference => "preference",
        }
    }

    /// The label of a volume that names one.
    pub const fn name_label(self) -> &'static str {
        match self {
            Self::Instancetype => "instancetype.kubevirt.io/default-instancetype",
            Self::Preference => "instancetype.kubevirt.io/default-preference",
        }
    }

    /// The label of a volume that says of which kind it is.
    pub const fn kind_label(self) -> &'static str {
        match self {
            Self::Instancetype => "instancetype.kubevirt.io/default-instancetype-kind",
            Self::Preference => "instancetype.kubevirt.io/default-preference-kind",
        }
    }
}

/// Of a namespace or of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Of the machine's namespace.
    Namespace,
    /// Of the cluster.
    Cluster,
}

/// One of the four kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKind {
    /// Instance type or preference.
    pub family: Family,
    /// Where it counts.
    pub scope: Scope,
}

impl ObjectKind {
    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match (self.family, self.scope) {
            (Family::Instancetype, Scope::Namespace) => "VirtualMachineInstancetype",
            (Family::Instancetype, Scope::Cluster) => "VirtualMachineClusterInstancetype",
            (Family::Preference, Scope::Namespace) => "VirtualMachinePreference",
            (Family::Preference, Scope::Cluster) => "VirtualMachineClusterPreference",
        }
    }

    /// The annotation of an instance that names what it was made with; KubeVirt's.
    pub const fn annotation(self) -> &'static str {
        match (self.family, self.scope) {
            (Family::Instancetype, Scope::Namespace) => "kubevirt.io/instancetype-name",
            (Family::Instancetype, Scope::Cluster) => "kubevirt.io/cluster-instancetype-name",
            (Family::Preference, Scope::Namespace) => "kubevirt.io/preference-name",
            (Family::Preference, Scope::Cluster) => "kubevirt.io/cluster-preference-name",
        }
    }

    /// The kind that `text` means in a matcher: its name or its plural in any case; without one, that
    /// of the cluster. None if it means none of this family.
    pub fn parse(family: Family, text: Option<&str>) -> Option<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            let scope = Scope::Cluster;
            return Some(Self { family, scope });
        };
        let text = text.to_lowercase();
        let singular = text.strip_suffix('s').unwrap_or(&text);
        [Scope::Namespace, Scope::Cluster]
            .map(|scope| Self { family, scope })
            .into_iter()
            .find(|kind| kind.name().to_lowercase() == singular)
    }
}

words! {
    /// What a failed inference does.
    Inference {
        /// The machine is refused.
        Reject = "Reject",
        /// The machine is as if it had no matcher.
        Ignore = "Ignore",
    }
}

/// What a matcher says; empty texts count as absent, as they do in KubeVirt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matcher<'a> {
    /// Which matcher of the machine it is.
    pub family: Family,
    /// The name.
    pub name: Option<&'a str>,
    /// The kind.
    pub kind: Option<&'a str>,
    /// The ControllerRevision.
    pub revision_name: Option<&'a str>,
    /// The volume whose labels name it.
    pub infer_from_volume: Option<&'a str>,
    /// What a failed inference does.
    pub failure_policy: Option<&'a str>,
}

impl Matcher<'_> {
    /// Whether a failed inference leaves the machine as if it had no matcher.
    pub fn ignores_failure(&self) -> bool {
        self.failure_policy == Some(Inference::Ignore.as_str())
    }
}

fn text(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl<'a> From<&'a InstancetypeMatcher> for Matcher<'a> {
    fn from(matcher: &'a InstancetypeMatcher) -> Self {
        Self {
            family: Family::Instancetype,
            name: text(&matcher.name),
            kind: text(&matcher.kind),
            revision_name: text(&matcher.revision_name),
            infer_from_volume: text(&matcher.infer_from_volume),
            failure_policy: text(&matcher.infer_from_volume_failure_policy),
        }
    }
}

impl<'a> From<&'a PreferenceMatcher> for Matcher<'a> {
    fn from(matcher: &'a PreferenceMatcher) -> Self {
        Self {
            family: Family::Preference,
            name: text(&matcher.name),
            kind: text(&matcher.kind),
            revision_name: text(&matcher.revision_name),
            infer_from_volume: text(&matcher.infer_from_volume),
            failure_policy: text(&matcher.infer_from_volume_failure_policy),
        }
    }
}

impl InstancetypeStatusRef {
    /// The name of the ControllerRevision.
    pub fn revision(&self) -> Option<&str> {
        self.controller_revision_ref.as_ref()?.name.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_meant_by_its_name_or_its_plural_in_any_case() {
        let parse = |family, text| ObjectKind::parse(family, text).map(ObjectKind::name);
        for (text, expected) in [
            (None, Some("VirtualMachineClusterInstancetype")),
            (Some(""), Some("VirtualMachineClusterInstancetype")),
            (
                Some("virtualmachineinstancetypes"),
                Some("VirtualMachineInstancetype"),
            ),
            (
                Some("VirtualMachineInstancetype"),
                Some("VirtualMachineInstancetype"),
            ),
            (
                Some("VIRTUALMACHINECLUSTERINSTANCETYPE"),
                Some("VirtualMachineClusterInstancetype"),
            ),
            (Some("VirtualMachinePreference"), None),
            (Some("Foo"), None),
        ] {
            assert_eq!(parse(Family::Instancetype, text), expected, "{text:?}");
        }
        let plural = Some("virtualmachineclusterpreferences");
        assert_eq!(
            parse(Family::Preference, plural),
            Some("VirtualMachineClusterPreference")
        );
    }
}
