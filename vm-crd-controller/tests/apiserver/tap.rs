//! A way to the API server that a case watches over: it is asked before and after each request, and may
//! do something to the controller there.

use std::sync::Arc;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use kube::client::Body;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::bench::{Bench, CONTROLLER_TOKEN};

/// A request at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The API server has done it, and the controller does not know yet; else, it is still to be done.
    pub(crate) done: bool,
    pub(crate) method: Method,
    pub(crate) path: String,
}

impl Step {
    /// Whether it changes machines, instances or pods: neither the lease, nor an event, nor a certificate.
    pub(crate) fn is_write(&self) -> bool {
        let meant = ["/virtualmachine", "/pods"];
        !self.method.is_safe() && meant.iter().any(|word| self.path.contains(word))
    }
}

/// Whether the request, or its answer, goes on.
pub(crate) type GoesOn = bool;

/// What a case does at each step.
pub(crate) type Watcher = Arc<dyn Fn(Step) -> BoxFuture<'static, GoesOn> + Send + Sync>;

/// The way; it ends when dropped.
pub(crate) struct Tap {
    /// Where it begins.
    pub(crate) server: String,
    serving: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A request that was not let through.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

impl Tap {
    /// A way for the controller, watched over by `watcher`.
    pub(crate) async fn new(bench: &Bench, watcher: Watcher) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its number");
        let client = bench.client_of(CONTROLLER_TOKEN);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (client, watcher) = (client.clone(), Arc::clone(&watcher));
                let service =
                    service_fn(move |request| carry(client.clone(), Arc::clone(&watcher), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                // A controller that was killed leaves its connections broken.
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Self {
            server: format!("http://{address}"),
            serving,
        }
    }
}

async fn carry(
    client: Client,
    watcher: Watcher,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let path = parts.uri.path_and_query().map(ToString::to_string);
    let path = path.unwrap_or_default();
    let mut step = Step {
        done: false,
        method: parts.method.clone(),
        path: path.clone(),
    };
    if !watcher(step.clone()).await {
        return Err(Cut);
    }
    // The client says anew to whom and by whom.
    parts.uri = path.parse().map_err(|_| Cut)?;
    parts.headers.remove("host");
    parts.headers.remove("authorization");
    let request = Request::from_parts(parts, Body::from(body.to_vec()));
    let answer = client.send(request).await.map_err(|_| Cut)?;
    step.done = true;
    if watcher(step).await {
        Ok(answer)
    } else {
        Err(Cut)
    }
}
