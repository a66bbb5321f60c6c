//! Why a machine cannot get an instance.

use thiserror::Error;

use crate::conditions::reason;
use crate::instancetype::Problem;

/// Why a machine cannot get an instance. The display is for the user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Trouble {
    /// Fields that this version does not support.
    #[error("{}", .0.join("; "))]
    Unsupported(Vec<String>),
    /// Values that no machine can have.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// Its instance type or its preference is not there, or does not go together with it.
    #[error(transparent)]
    Type(#[from] Problem),
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
            Self::Type(problem) => problem.reason(),
            Self::NameTaken(_) | Self::Refused(_) => reason::FAILED_CREATE,
        }
    }
}
