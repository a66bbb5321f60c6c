//! The plain HTTP endpoints: `/healthz`, `/readyz`, `/metrics`.
//!
//! Healthy is who answers; ready is who stands by, or leads with filled caches.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;

const METRICS: &str = "/metrics";

/// Content type of the exposition format that `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most connections; a client that comes when there is no room comes again.
const CONNECTIONS: usize = 32;

/// Time that a connection has: a scrape and a probe take a new one after it.
const CONNECTION: Duration = Duration::from_secs(120);

/// Time for a request's headers.
const HEADERS: Duration = Duration::from_secs(60);

/// Whether the controller is ready; a clone tells the same.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether it is.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves on `address` until dropped; an error is one of binding the address.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
) -> std::io::Result<Infallible> {
    let listener = TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "serving health and metrics");
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // A text holds a line for every machine: one at a time is written.
    let writing = Arc::new(Semaphore::new(1));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the peer went away: neither ends the service.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = connections.clone().try_acquire_owned() else {
            continue;
        };
        let (metrics, readiness) = (metrics.clone(), readiness.clone());
        let writing = writing.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request: Request<Incoming>| {
                let (metrics, readiness) = (metrics.clone(), readiness.clone());
                let writing = writing.clone();
                async move {
                    let (method, path) = (request.method(), request.uri().path());
                    let _turn = match path {
                        METRICS => writing.acquire().await.ok(),
                        _ => None,
                    };
                    let answer = answer(method, path, &metrics, readiness.get());
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(CONNECTION, connection).await {
                debug!(%error, "a connection ended early");
            }
        });
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, ready: bool) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
    }
    match path {
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if ready => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the caches are not filled yet\n",
        ),
        METRICS => match metrics.text() {
            Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
            Err(_) => plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot write the metrics\n",
            ),
        },
        _ => plain(
            StatusCode::NOT_FOUND,
            "served: /healthz, /readyz, /metrics\n",
        ),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_caches_and_health_does_not() {
        let metrics = Metrics::new();
        let status = |path, ready| answer(&Method::GET, path, &metrics, ready).status();
        assert_eq!(status("/readyz", false), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("/readyz", true), StatusCode::OK);
        assert_eq!(status("/healthz", false), StatusCode::OK);
        assert_eq!(status("/metrics", false), StatusCode::OK);
        assert_eq!(status("/", true), StatusCode::NOT_FOUND);
        assert_eq!(
            answer(&Method::POST, "/healthz", &metrics, true).status(),
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
}
