//! Why an instance cannot get a pod, each told by KubeVirt's reason where it has one.

use thiserror::Error;

use crate::conditions::reason;

/// Why an instance cannot get a pod. The display is for the user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Obstacle {
    /// Fields that this version does not support.
    #[error("{}", .0.join("; "))]
    Unsupported(Vec<String>),
    /// Values that no machine can have.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A claim that does not exist.
    #[error("PVC {namespace}/{claim} does not exist, waiting for it to appear (volume {volume})")]
    ClaimMissing {
        /// Its namespace.
        namespace: String,
        /// Its name.
        claim: String,
        /// The volume that refers to it.
        volume: String,
    },
    /// The API server refused the claim for what the machine keeps.
    #[error("the API server refused the claim for the machine's persistent state: {0}")]
    StateRefused(String),
    /// The claim for what the machine keeps is another machine's, or being deleted.
    #[error(
        "the claim {0} for the machine's persistent state belongs to an earlier machine or is being \
         deleted; waiting until it is gone"
    )]
    StateGoing(String),
    /// The name of the pod is taken.
    #[error("a pod {0} is there that is not this machine's: delete it")]
    NameTaken(String),
    /// The API server refused the pod.
    #[error("the API server refused the pod: {0}")]
    Refused(String),
}

impl Obstacle {
    /// Why, in one word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => reason::UNSUPPORTED_FIELD,
            Self::Invalid(_) => reason::INVALID_SPEC,
            Self::ClaimMissing { .. } => reason::PVC_NOT_FOUND,
            Self::StateRefused(_) | Self::StateGoing(_) | Self::NameTaken(_) | Self::Refused(_) => {
                reason::FAILED_CREATE
            }
        }
    }
}
