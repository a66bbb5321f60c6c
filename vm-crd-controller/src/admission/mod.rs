//! The admission webhooks: what the API server asks before it stores an object.
//!
//! *Expected flow*: an AdmissionReview comes in → the kind's spec is filled in, or checked → an
//! AdmissionReview goes out. *Guarantees*: a review is answered from itself alone, nothing is read or
//! written besides; its size is bounded before it is decoded. *Assumptions*: the reconcilers check
//! the same again, so that a cluster without the webhooks loses early errors and nothing else.

mod judge;
mod kinds;
mod labels;
mod patch;
mod reply;
mod request;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tracing::{debug, warn};

use judge::{Verdict, judge};
use request::Request;

/// Bytes of an AdmissionReview at most: it holds two objects, each of at most 3 MiB.
pub const MAXIMUM_BYTES: usize = 8 << 20;

/// Which of the two webhooks is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    /// Fills in defaults.
    Mutate,
    /// Checks.
    Validate,
}

/// Why a body is no AdmissionReview that can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is too large.
    #[error("the AdmissionReview has {0} bytes; at most {MAXIMUM_BYTES} are read")]
    TooLarge(usize),
    /// It is none.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1 with a request: {0}")]
    Malformed(serde_json::Error),
    /// The answer cannot be written.
    #[error("the answer cannot be written as JSON: {0}")]
    Answer(serde_json::Error),
}

/// Answers the AdmissionReview in `body`. `own` is the controller's own user name: what it writes
/// is not asked about again.
pub fn review(webhook: Webhook, own: &str, body: &[u8]) -> Response<Full<Bytes>> {
    match answer(webhook, own, body) {
        Ok(json) => response(StatusCode::OK, "application/json", json),
        Err(error) => {
            warn!(%error, "a review was not answered");
            let status = match error {
                ReviewError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                ReviewError::Malformed(_) => StatusCode::BAD_REQUEST,
                ReviewError::Answer(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let text = vm_api::field::shown(&error.to_string()) + "\n";
            response(status, "text/plain; charset=utf-8", text)
        }
    }
}

/// The AdmissionReview that answers the one in `body`.
fn answer(webhook: Webhook, own: &str, body: &[u8]) -> Result<Vec<u8>, ReviewError> {
    if body.len() > MAXIMUM_BYTES {
        return Err(ReviewError::TooLarge(body.len()));
    }
    let request = Request::read(body).map_err(ReviewError::Malformed)?;
    let verdict = judge(webhook, own, &request);
    debug!(
        ?webhook,
        kind = request.kind(),
        allowed = matches!(verdict, Verdict::Allowed { .. }),
        "reviewed"
    );
    reply::write(&request, verdict).map_err(ReviewError::Answer)
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
