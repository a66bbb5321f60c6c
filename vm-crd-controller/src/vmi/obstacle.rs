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
            Self::StateRefused(_) | Self::Refused(_) => reason::FAILED_CREATE,
        }
    }
}
