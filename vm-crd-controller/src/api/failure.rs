//! Why a request is not done, as a Kubernetes `Status`: clients print its message and decide by its
//! code.
//!
//! The wording of the common cases is that of Kubernetes' own libraries, which clients compare with.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, json as json_answer};

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP's code.
    pub code: StatusCode,
    reason: &'static str,
    /// The sentence that clients print.
    pub message: String,
    /// Group, kind and name of what it is about.
    about: Option<(&'static str, &'static str, String)>,
}

/// A kind of KubeVirt's in messages: `virtualmachine.kubevirt.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(&'static str);

/// A machine.
pub(super) const MACHINE: Kind = Kind("virtualmachine");

/// An instance.
pub(super) const INSTANCE: Kind = Kind("virtualmachineinstance");

/// The group of both.
const GROUP: &str = vm_api::contract::GROUP;

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            about: None,
        }
    }

    fn of(mut self, Kind(kind): Kind, name: &str) -> Self {
        self.about = Some((GROUP, kind, name.to_owned()));
        self
    }

    /// The object is not there.
    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        let message = format!("{}.{GROUP} \"{name}\" not found", kind.0);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).of(kind, name)
    }

    /// The object's state forbids it.
    pub(super) fn conflict(kind: Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {}.{GROUP} \"{name}\": {why}",
            kind.0
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).of(kind, name)
    }

    /// The object's spec forbids it.
    pub(super) fn forbidden(kind: Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("{}.{GROUP} \"{name}\" is forbidden: {why}", kind.0);
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).of(kind, name)
    }

    /// The user may not.
    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// Nobody known asks.
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// It is not there, or not for this method, or not supported.
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// There is no such path.
    pub(super) fn no_path(path: &str) -> Self {
        let message = format!("the server could not find the requested resource: {path}");
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// A body is too large.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the request's body is larger than {limit} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    /// Others have all there is of something.
    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    /// Something did not come in time.
    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// Something else failed.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {why}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The `Status`.
    fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some((group, kind, name)) = &self.about {
            status["details"] = json!({ "group": group, "kind": kind, "name": name });
        }
        status
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        json_answer(failure.code, &failure.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_those_of_kubernetes() {
        let missing = Failure::not_found(INSTANCE, "tl");
        assert_eq!(
            missing.message,
            "virtualmachineinstance.kubevirt.io \"tl\" not found"
        );
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"tl\": \
                        VM is not running",
            "reason": "Conflict", "code": 409,
            "details": { "group": "kubevirt.io", "kind": "virtualmachine", "name": "tl" },
        });
        let conflict = Failure::conflict(MACHINE, "tl", "VM is not running");
        assert_eq!(conflict.status(), expected);
    }
}
