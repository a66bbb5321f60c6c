//! Why a machine cannot get an instance.

use thiserror::Error;

use crate::conditions::reason;

/// Why a machine cannot get an instance. The display is for the user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Trouble {
    /// Fields that this version does not support.
    #[error("{}", .0.join("; "))]
    Unsupported(Vec<String>),
    /// Values that no machine can have.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The name is taken.
    #[error(
        "a VirtualMachineInstance named {0} exists that this VirtualMachine did not make: \
         delete or rename one of the two"
    )]
    NameTaken(String),
    /// The API server refused the instance.
    #[error("the API server refused the VirtualMachineInstance: {0}")]
    Refused(String),
}

impl Trouble {
    /// Why, in one word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => reason::UNSUPPORTED_FIELD,
            Self::Invalid(_) => reason::INVALID_SPEC,
            Self::NameTaken(_) | Self::Refused(_) => reason::FAILED_CREATE,
        }
    }
}
