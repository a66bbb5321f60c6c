//! The admission webhooks: what the API server asks before it stores an object.
//!
//! *Expected flow*: an AdmissionReview comes in → the kind's spec is filled in, or checked → an
//! AdmissionReview goes out. *Guarantees*: a review is answered from itself alone, but for the instance
//! type and the preference of a machine, which are read; nothing is written; its size is bounded before
//! it is decoded. *Assumptions*: the reconcilers check the same again, so that a cluster without the
//! webhooks loses early errors and nothing else.

mod fit;
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

use crate::instancetype::Types;
use fit::Fit;
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

/// Answers reviews.
pub struct Reviewer {
    own: String,
    fit: Fit,
}

impl Reviewer {
    /// `own` is the controller's own user name: what it writes is not asked about again. `types` finds
    /// what machines refer to.
    pub fn new(own: String, types: Types) -> Self {
        let fit = Fit::new(types);
        Self { own, fit }
    }

    /// Answers the AdmissionReview in `body`.
    pub async fn review(&self, webhook: Webhook, body: &[u8]) -> Response<Full<Bytes>> {
        match self.answer(webhook, body).await {
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
    async fn answer(&self, webhook: Webhook, body: &[u8]) -> Result<Vec<u8>, ReviewError> {
        if body.len() > MAXIMUM_BYTES {
            return Err(ReviewError::TooLarge(body.len()));
        }
        let request = Request::read(body).map_err(ReviewError::Malformed)?;
        let mut verdict = judge(webhook, &self.own, &request);
        if let Verdict::Allowed { look_up: true, .. } = verdict {
            let conflicts = self.fit.conflicts(&request).await;
            if !conflicts.is_empty() {
                verdict = Verdict::Denied(conflicts);
            }
        }
        debug!(
            ?webhook,
            kind = request.kind(),
            allowed = matches!(verdict, Verdict::Allowed { .. }),
            "reviewed"
        );
        reply::write(&request, verdict).map_err(ReviewError::Answer)
    }
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
