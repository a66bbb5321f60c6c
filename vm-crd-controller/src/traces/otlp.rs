//! Spans to a collector: OTLP over HTTP with JSON (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP").
//!
//! Whoever reconciles never waits for it: spans that a collector does not take in time are dropped, and
//! counted.

use std::str::FromStr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::{debug, warn};
use vm_api::TraceParent;

use crate::metrics::Metrics;

/// Where a collector takes traces, below its address.
const PATH: &str = "/v1/traces";

/// Spans that may wait; a start has five.
const ROOM: usize = 2048;

/// Spans that are sent at once.
const BATCH: usize = 256;

/// How long a span may wait for others to go with.
const LINGER: Duration = Duration::from_secs(1);

/// Longest time for a collector to answer.
const BOUND: Duration = Duration::from_secs(10);

/// OTLP's word for a span within a program.
const INTERNAL: u8 = 1;

/// A collector's address: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("no address: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(
                    "only http:// is spoken: name a collector of the cluster, and have it send on"
                        .to_owned(),
                );
            }
            _ => return Err("it must begin with http://".to_owned()),
        }
        let path = match uri.path().trim_end_matches('/') {
            whole if whole.ends_with(PATH) => whole.to_owned(),
            base => format!("{base}{PATH}"),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let whole = format!("http://{authority}{path}");
        let whole = whole
            .parse()
            .map_err(|error| format!("no address: {error}"))?;
        Ok(Self(whole))
    }
}

/// Sends spans; a clone sends to the same collector.
#[derive(Clone)]
pub struct Exporter {
    sender: Option<Sender<Value>>,
    all: bool,
    metrics: Metrics,
}

impl Exporter {
    /// Sends to `endpoint` from a task of its own, or nowhere. `all` starts are traced, or only those of
    /// instances that ask.
    pub fn start(endpoint: Option<Endpoint>, all: bool, metrics: Metrics) -> Self {
        let sender = endpoint.map(|endpoint| {
            let (sender, receiver) = channel(ROOM);
            tokio::spawn(send_all(endpoint, receiver, metrics.clone()));
            sender
        });
        Self {
            sender,
            all,
            metrics,
        }
    }

    /// Whether all starts are traced.
    pub fn all(&self) -> bool {
        self.all
    }

    /// Hands in spans.
    pub fn send(&self, spans: impl IntoIterator<Item = Value>) {
        let Some(sender) = &self.sender else {
            return;
        };
        for span in spans {
            if sender.try_send(span).is_err() {
                self.metrics.count_spans("dropped", 1);
            }
        }
    }
}

async fn send_all(endpoint: Endpoint, mut spans: Receiver<Value>, metrics: Metrics) {
    let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let mut batch = Vec::new();
    let mut told = false;
    while spans.recv_many(&mut batch, BATCH).await > 0 {
        tokio::time::sleep(LINGER).await;
        while batch.len() < BATCH
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        let count = batch.len() as u64;
        let sent = post(&client, &endpoint, std::mem::take(&mut batch)).await;
        match sent {
            Ok(()) => {
                debug!(count, "spans sent");
                metrics.count_spans("sent", count);
                told = false;
            }
            Err(error) => {
                metrics.count_spans("failed", count);
                if !told {
                    warn!(endpoint = %endpoint.0, error, "the collector takes no spans");
                }
                told = true;
            }
        }
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    endpoint: &Endpoint,
    spans: Vec<Value>,
) -> Result<(), String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.0.clone())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(document(spans).to_string()))
        .map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(BOUND, client.request(request)).await;
    let answer = answer.map_err(|_| format!("no answer within {BOUND:?}"))?;
    match answer.map_err(|error| error.to_string())?.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("it answers {status}")),
    }
}

fn document(spans: Vec<Value>) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", "vm-crd-controller"),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ] },
        "scopeSpans": [{ "spans": spans }],
    }] })
}

/// A span called `name` with the id of `own`, part of `parent`.
pub(super) fn span(
    own: &TraceParent,
    parent: Option<&TraceParent>,
    name: &str,
    begin: String,
    end: String,
) -> Value {
    json!({
        "traceId": own.trace(),
        "spanId": own.span(),
        "parentSpanId": parent.map_or_else(String::new, TraceParent::span),
        "name": name,
        "kind": INTERNAL,
        "startTimeUnixNano": begin,
        "endTimeUnixNano": end,
    })
}

/// A time of the API as OTLP has it.
pub(super) fn nanoseconds(time: &Time) -> String {
    time.0.as_nanosecond().max(0).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_is_completed_and_a_wrong_one_refused() {
        let read = |text: &str| text.parse::<Endpoint>().map(|it| it.0.to_string());
        for text in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(read(text).unwrap(), "http://c:4318/v1/traces");
        }
        assert_eq!(read("http://c/otlp").unwrap(), "http://c/otlp/v1/traces");
        assert!(
            read("https://c")
                .unwrap_err()
                .contains("collector of the cluster")
        );
        assert!(read("c:4318").is_err());
        assert!(read("").is_err());
    }

    #[tokio::test]
    async fn a_collector_gets_what_was_handed_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let metrics = Metrics::new();
        let exporter = Exporter::start(Some(endpoint.parse().unwrap()), false, metrics.clone());
        exporter.send([json!({ "name": "one" }), json!({ "name": "two" })]);
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with("}]}") {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "{text}");
            text += std::str::from_utf8(&chunk[..read]).unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(answer).await.unwrap();
        assert!(text.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{text}");
        let body: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(*spans, json!([{ "name": "one" }, { "name": "two" }]));
        let sent = "vm_crd_controller_trace_spans_total{result=\"sent\"} 2";
        while !metrics.text().unwrap().contains(sent) {
            tokio::task::yield_now().await;
        }
    }
}
