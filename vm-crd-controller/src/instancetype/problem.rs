//! Why a machine does not get its instance type or its preference, each told by KubeVirt's reason.

use thiserror::Error;
use vm_api::FieldError;
use vm_api::field::join;
use vm_api::instancetype::{Family, ObjectKind};

use crate::conditions::reason;

/// Why a machine does not get its instance type or its preference. The display is for the user, who
/// can mend it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The matcher names a kind that is none.
    #[error(
        "spec.{}.kind: `{text}` is no kind of {}: use {} or {}",
        family.field(), family.noun(), scoped(*family)[0], scoped(*family)[1]
    )]
    Kind {
        /// Which matcher.
        family: Family,
        /// What it names.
        text: String,
    },
    /// The object is not there.
    #[error("spec.{}.name: there is no {} {name}: make it, or name another", kind.family.field(), kind.name())]
    Missing {
        /// Of which kind it would be.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// The object is not what it claims to be.
    #[error("{what} cannot be read: {message}")]
    Unreadable {
        /// What it is for.
        family: Family,
        /// Kind and name.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The stored revision is not there.
    #[error(
        "the ControllerRevision {name}, which holds the machine's {}, does not exist: restore it, or \
         take spec.{field} away and set it anew",
        family.noun(), field = family.field()
    )]
    RevisionMissing {
        /// What it holds.
        family: Family,
        /// Its name.
        name: String,
    },
    /// The volume does not say what to use.
    #[error("spec.{}.inferFromVolume: {message}", family.field())]
    Inference {
        /// What was to be inferred.
        family: Family,
        /// Why it cannot be.
        message: String,
        /// The machine may be made as if it had no matcher, if it says so.
        ignorable: bool,
    },
    /// The machine and what it refers to do not go together.
    #[error("{}", join(.0))]
    Fields(Vec<FieldError>),
}

/// The names of the kinds of a family.
fn scoped(family: Family) -> [&'static str; 2] {
    use vm_api::instancetype::Scope;
    [Scope::Namespace, Scope::Cluster].map(|scope| ObjectKind { family, scope }.name())
}

impl Problem {
    /// Errors of the expansion, whose paths begin at the machine's spec.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let whole = |error: FieldError| error.under("spec");
        Self::Fields(errors.into_iter().map(whole).collect())
    }

    /// Why, in one word.
    pub fn reason(&self) -> &'static str {
        let family = match self {
            Self::Fields(_) => return reason::FAILED_CREATE,
            Self::Missing { kind, .. } => kind.family,
            Self::Kind { family, .. }
            | Self::Unreadable { family, .. }
            | Self::RevisionMissing { family, .. }
            | Self::Inference { family, .. } => *family,
        };
        match family {
            Family::Instancetype => reason::FAILED_FIND_INSTANCETYPE,
            Family::Preference => reason::FAILED_FIND_PREFERENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_api::instancetype::Scope;

    use super::*;

    #[test]
    fn a_problem_names_the_field_and_what_to_do() {
        let family = Family::Preference;
        let kind = ObjectKind {
            family,
            scope: Scope::Cluster,
        };
        let missing = Problem::Missing {
            kind,
            name: "linux".to_owned(),
        };
        assert_eq!(
            missing.to_string(),
            "spec.preference.name: there is no VirtualMachineClusterPreference linux: make it, or \
             name another"
        );
        assert_eq!(missing.reason(), "FailedFindPreference");
        let text = "Foo".to_owned();
        let kind = Problem::Kind { family, text };
        assert_eq!(
            kind.to_string(),
            "spec.preference.kind: `Foo` is no kind of preference: use VirtualMachinePreference or \
             VirtualMachineClusterPreference"
        );
        let errors = vec![FieldError::new("template.spec.domain.cpu.cores", "no")];
        let fields = Problem::fields(errors);
        assert_eq!(
            fields.to_string(),
            "spec.template.spec.domain.cpu.cores: no"
        );
        assert_eq!(fields.reason(), "FailedCreate");
    }
}
