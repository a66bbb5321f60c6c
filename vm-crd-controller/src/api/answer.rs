//! What is answered: small documents from memory, or a body that comes in pieces.

use std::io;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::failure::Failure;

/// A body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer.
pub type Answer = Response<Body>;

/// An answer from memory; `kind` is its content type.
pub fn whole(status: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Answer {
    let full = Full::new(content.into()).map_err(|never| match never {});
    let mut answer = Response::new(full.boxed_unsync());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// An answer that was made elsewhere.
pub fn boxed(answer: Response<Full<Bytes>>) -> Answer {
    answer.map(|full| full.map_err(|never| match never {}).boxed_unsync())
}

/// `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => whole(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            whole(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "no JSON\n")
        }
    }
}

/// A text.
pub(super) fn text(status: StatusCode, text: &'static str) -> Answer {
    whole(status, "text/plain; charset=utf-8", text)
}

/// Nothing but a status.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(
        Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *answer.status_mut() = status;
    answer
}

/// The answer, whichever it is.
pub(super) fn either(result: Result<Answer, Failure>) -> Answer {
    result.unwrap_or_else(Answer::from)
}
