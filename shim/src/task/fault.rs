//! Errors of the Task service, and the ttrpc status that each becomes: containerd and CRI act on
//! the code, people read the sentence.

use containerd_shim::protos::ttrpc::error::get_rpc_status;
use containerd_shim::protos::ttrpc::{Code, Error};

/// Why a call was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no such container or process here.
    #[error("{0} does not exist in this pod")]
    NotFound(String),
    /// The id is taken.
    #[error("container {0} exists already")]
    Exists(String),
    /// Not now.
    #[error("{0}")]
    Precondition(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Not this runtime.
    #[error("{0}")]
    Unsupported(String),
    /// It took too long.
    #[error("{0}")]
    Timeout(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    /// Something failed; its message says what was tried and on what.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Whether `error` says that there is no such container or process.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::RpcStatus(status) if status.code() == Code::NOT_FOUND)
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let code = match fault {
            Fault::NotFound(_) => Code::NOT_FOUND,
            Fault::Exists(_) => Code::ALREADY_EXISTS,
            Fault::Precondition(_) => Code::FAILED_PRECONDITION,
            Fault::Invalid(_) => Code::INVALID_ARGUMENT,
            Fault::Unsupported(_) => Code::UNIMPLEMENTED,
            Fault::Timeout(_) => Code::DEADLINE_EXCEEDED,
            Fault::Failed(_) => Code::UNKNOWN,
        };
        get_rpc_status(code, fault)
    }
}
