//! The one question asked of containerd's CRI service: is the runtime loaded?
//!
//! The two messages are stated here (from the CRI API's `api.proto`, `runtime.v1`), so that
//! building needs no protobuf compiler.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tower::service_fn;

/// How long containerd may take to answer.
const BOUND: Duration = Duration::from_secs(10);

/// How long to go on asking one that does not answer, and the pause in between.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

/// Whether containerd at `socket` answers as a CRI runtime and has `handler` among its runtimes.
pub(crate) async fn has_handler(socket: &Path, handler: &str) -> Result<bool> {
    let config = tokio::time::timeout(BOUND, config(socket))
        .await
        .context("containerd's CRI service does not answer")??;
    let runtimes = config["containerd"]["runtimes"]
        .as_object()
        .context("containerd's CRI service does not list its runtimes")?;
    Ok(runtimes.contains_key(handler))
}

/// As [`has_handler`], but a daemon that does not answer is asked again for a bounded time: it may be
/// busy, which says nothing about the runtime.
pub(crate) async fn settled(socket: &Path, handler: &str) -> Result<bool> {
    first_answer(PATIENCE, PAUSE, || has_handler(socket, handler)).await
}

/// The first answer within `patience`, else the last error.
async fn first_answer<F: Future<Output = Result<bool>>>(
    patience: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match ask().await {
            Err(error) if Instant::now() < deadline => {
                tracing::info!("asking containerd again: {error:#}");
                tokio::time::sleep(pause).await;
            }
            answer => return answer,
        }
    }
}

/// The CRI plugin's configuration in force.
async fn config(socket: &Path) -> Result<serde_json::Value> {
    let socket: PathBuf = socket.to_owned();
    let channel = Endpoint::from_static("http://containerd")
        .connect_with_connector(service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .context("connect to containerd's CRI service")?;
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .context("connect to containerd's CRI service")?;
    let method = http::uri::PathAndQuery::from_static("/runtime.v1.RuntimeService/Status");
    let codec = tonic_prost::ProstCodec::<StatusRequest, StatusResponse>::default();
    let request = tonic::Request::new(StatusRequest { verbose: true });
    let response = client
        .unary(request, method, codec)
        .await
        .context("ask containerd's CRI service for its status")?;
    let config = response
        .get_ref()
        .info
        .get("config")
        .context("CRI status has no configuration")?;
    serde_json::from_str(config).context("read the configuration in CRI's status")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Fails the first `failures` times, then says yes; and how often it was asked.
    async fn asked(failures: u32, patience: Duration) -> (Result<bool>, u32) {
        let times = Cell::new(0);
        let answer = first_answer(patience, Duration::ZERO, || async {
            times.set(times.get() + 1);
            if times.get() <= failures {
                bail!("busy");
            }
            Ok(true)
        })
        .await;
        (answer, times.get())
    }

    #[tokio::test]
    async fn a_busy_daemon_is_asked_again() {
        let (answer, times) = asked(3, LONG).await;
        assert!(answer.unwrap());
        assert_eq!(times, 4);
    }

    #[tokio::test]
    async fn one_that_never_answers_is_an_error() {
        let (answer, times) = asked(u32::MAX, Duration::ZERO).await;
        assert_eq!(answer.unwrap_err().to_string(), "busy");
        assert_eq!(times, 1);
    }
}
