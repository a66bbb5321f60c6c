//! Keeps a replica that no longer leads from writing.
//!
//! A process may stand still for longer than its lease lasts: suspended, starved, on a machine that was
//! migrated. When it goes on, it would first carry out what it had decided before, while another replica
//! leads. So each write is held against the lease right before it is sent, by a clock that runs on
//! meanwhile. Reads pass. What was sent in time and arrives late is past every fence of a client.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::{Either, Ready, ready};
use hyper::{Method, Request};
use thiserror::Error;
use tower::{BoxError, Layer, Service};

/// Until when writes may pass; a clone is the same fence. At first none may.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

/// Why a write was not sent.
#[derive(Debug, Error)]
#[error("this replica does not lead any more, so it writes nothing")]
pub struct Closed;

impl Fence {
    /// Lets writes pass until `end`.
    pub fn open_until(&self, end: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Lets none pass.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lets_pass(&self, method: &Method, now: Instant) -> bool {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        method.is_safe() || end.is_some_and(|end| now < end)
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            inner,
            fence: self.clone(),
        }
    }
}

/// A way to the API server behind a fence.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.fence.lets_pass(request.method(), Instant::now()) {
            Either::Right(self.inner.call(request))
        } else {
            Either::Left(ready(Err(Closed.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn writes_pass_only_while_the_lease_lasts() {
        let fence = Fence::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        assert!(!fence.lets_pass(&Method::POST, now), "nobody leads yet");
        assert!(fence.lets_pass(&Method::GET, now));
        fence.open_until(later);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(fence.lets_pass(&method, now), "{method}");
            assert!(!fence.lets_pass(&method, later), "{method} at its end");
        }
        assert!(fence.lets_pass(&Method::GET, later));
        fence.close();
        assert!(!fence.lets_pass(&Method::POST, now));
    }
}
