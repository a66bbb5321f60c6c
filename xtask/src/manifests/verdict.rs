//! What becomes of a manifest, in the classes that the table is made of.

use std::fmt;

use serde::Serialize;
use vm_api::FieldError;

/// What KubeVirt does with the same manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "says", content = "because")]
pub(super) enum Kubevirt {
    /// It refuses it too, for this reason.
    Refuses(String),
    /// That is not known.
    Unknown,
}

/// When a manifest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Stage {
    /// At once: the apply fails.
    Apply,
    /// When a machine is to be made of it: its condition says so.
    Start,
}

/// A field, and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Field {
    /// Its path from the object's root; empty for the object as a whole.
    pub(super) path: String,
    /// One sentence.
    pub(super) message: String,
}

/// What becomes of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "class")]
pub(super) enum Verdict {
    /// Every field of it works; it was not run.
    Works,
    /// It was applied, and did what it says.
    Runs {
        /// What was seen.
        seen: String,
    },
    /// It is no manifest that can be had: wrong by its own fields.
    Refused {
        /// When that is said.
        stage: Stage,
        /// What is wrong.
        fields: Vec<Field>,
        /// What KubeVirt says.
        kubevirt: Kubevirt,
    },
    /// It asks for something that does not work here.
    NotSupported {
        /// What that is.
        fields: Vec<Field>,
    },
    /// It refers to something that it does not bring along.
    Needs {
        /// Each thing.
        what: Vec<String>,
    },
    /// The cluster has no node with so much room.
    Unschedulable {
        /// The scheduler's word.
        why: String,
    },
    /// None of these: the product is wrong, or this program is.
    Failed {
        /// What was seen.
        why: String,
    },
}

/// A verdict's class, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// See [`Verdict::Runs`].
    Runs,
    /// See [`Verdict::Works`].
    Works,
    /// See [`Verdict::Needs`].
    Needs,
    /// See [`Verdict::Unschedulable`].
    Unschedulable,
    /// See [`Verdict::Refused`].
    Refused,
    /// See [`Verdict::NotSupported`].
    NotSupported,
    /// See [`Verdict::Failed`].
    Failed,
}

impl Class {
    /// All, in order.
    pub(super) const ALL: [Self; 7] = [
        Self::Runs,
        Self::Works,
        Self::Needs,
        Self::Unschedulable,
        Self::Refused,
        Self::NotSupported,
        Self::Failed,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runs => "runs",
            Self::Works => "works (not run)",
            Self::Needs => "needs what is not in the manifest",
            Self::Unschedulable => "does not fit on the test nodes, as on any small cluster",
            Self::Refused => "refused",
            Self::NotSupported => "not supported",
            Self::Failed => "in none of the classes",
        })
    }
}

impl Verdict {
    /// Its class.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Works => Class::Works,
            Self::Runs { .. } => Class::Runs,
            Self::Refused { .. } => Class::Refused,
            Self::NotSupported { .. } => Class::NotSupported,
            Self::Needs { .. } => Class::Needs,
            Self::Unschedulable { .. } => Class::Unschedulable,
            Self::Failed { .. } => Class::Failed,
        }
    }

    /// One thing that does not work.
    pub(super) fn not_supported(path: &str, message: impl Into<String>) -> Self {
        let field = Field {
            path: path.to_owned(),
            message: message.into(),
        };
        Self::NotSupported {
            fields: vec![field],
        }
    }

    /// Refused as a whole.
    pub(super) fn refused(message: impl Into<String>, kubevirt: Kubevirt) -> Self {
        let field = Field {
            path: String::new(),
            message: message.into(),
        };
        Self::Refused {
            stage: Stage::Apply,
            fields: vec![field],
            kubevirt,
        }
    }
}

impl From<FieldError> for Field {
    fn from(FieldError { path, message }: FieldError) -> Self {
        Self { path, message }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.path, self.message)
        }
    }
}
