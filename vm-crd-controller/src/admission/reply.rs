//! An answer as the API server reads it.

use kube::core::Status;
use kube::core::admission::AdmissionResponse;
use kube::core::response::{StatusCause, StatusDetails, StatusSummary};

use super::judge::{Cause, Verdict};
use super::request::Request;

/// Causes and warnings that an answer names at most; a hostile spec can have thousands of mistakes.
const NAMED: usize = 32;

/// Writes the AdmissionReview that answers `request`.
pub(super) fn write(request: &Request<'_>, verdict: Verdict) -> Result<Vec<u8>, serde_json::Error> {
    let mut response = AdmissionResponse::invalid("");
    response.uid.clone_from(&request.uid);
    match verdict {
        Verdict::Allowed {
            change, warnings, ..
        } => {
            response.allowed = true;
            response.result = Status::success();
            let warnings = first(warnings, |more| format!("and {more} more"));
            response.warnings = (!warnings.is_empty()).then_some(warnings);
            if let Some(change) = change {
                response = response
                    .with_patch(change.0)
                    .map_err(<serde_json::Error as serde::ser::Error>::custom)?;
            }
        }
        Verdict::Denied(causes) => response.result = denied(causes),
    }
    serde_json::to_vec(&response.into_review())
}

/// As KubeVirt says it: the messages one after the other, and each with its field.
fn denied(causes: Vec<Cause>) -> Status {
    let causes = first(causes, |more| Cause::new("", format!("and {more} more")));
    let messages: Vec<_> = causes.iter().map(|cause| cause.message.as_str()).collect();
    let message = messages.join(", ");
    let causes = causes.into_iter().map(|cause| StatusCause {
        reason: cause.reason.as_str().to_owned(),
        message: cause.message,
        field: cause.field,
    });
    Status {
        status: Some(StatusSummary::Failure),
        code: 422,
        message,
        metadata: None,
        reason: "Invalid".to_owned(),
        details: Some(StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: causes.collect(),
            retry_after_seconds: 0,
        }),
    }
}

/// The first items, and one that tells how many there are besides.
fn first<T>(mut items: Vec<T>, more: impl FnOnce(usize) -> T) -> Vec<T> {
    let left_out = items.len().saturating_sub(NAMED);
    items.truncate(NAMED);
    if left_out > 0 {
        items.push(more(left_out));
    }
    items
}
