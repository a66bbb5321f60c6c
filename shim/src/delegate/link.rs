//! The connection to a running inner shim: calls in the protocol version that it serves, and the
//! news of its death.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::TtrpcContext;
use containerd_shim::api::{ConnectRequest, ConnectResponse};
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::shim_async::Client;
use containerd_shim::protos::ttrpc::context::Context;
use containerd_shim::protos::ttrpc::error::get_rpc_status;
use containerd_shim::protos::ttrpc::{self, Code};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::Answer;
use super::leftover;
use crate::task::Process;

/// The header in which the Task service expects containerd's namespace.
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

/// Longest time for connecting and for the first answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected inner shim.
pub(super) struct Link {
    client: Client,
    service: &'static str,
    namespace: String,
    /// Its address.
    pub(super) address: String,
    /// Its process.
    pub(super) process: Arc<Process>,
    dead: watch::Receiver<bool>,
}

impl Link {
    /// Connects to the shim of `answer`.
    pub(super) async fn connect(answer: Answer, namespace: &str) -> ttrpc::Result<Self> {
        let late = |_| get_rpc_status(Code::DEADLINE_EXCEEDED, "it does not answer");
        let client = timeout(CONNECT_TIMEOUT, Client::connect(&answer.address))
            .await
            .map_err(late)??;
        let (namespace, service) = (namespace.to_owned(), answer.service);
        let context = context(&namespace, HashMap::new(), Some(CONNECT_TIMEOUT));
        let question = ConnectRequest::default();
        let response: ConnectResponse =
            call(&client, service, "Connect", context, &question).await?;
        let process = Process::open(response.shim_pid).map_err(|error| {
            get_rpc_status(Code::NOT_FOUND, format!("its process is gone: {error}"))
        })?;
        let process = Arc::new(process);
        let (sender, dead) = watch::channel(false);
        let watched = process.clone();
        tokio::spawn(async move {
            let exit = watched.exited().await;
            tracing::info!(
                pid = watched.pid(),
                status = exit.status,
                "the node's own shim ended"
            );
            sender.send_replace(true);
        });
        Ok(Self {
            client,
            service,
            namespace,
            address: answer.address,
            process,
            dead,
        })
    }

    /// Passes on a call of containerd, with what it told beside the request.
    pub(super) async fn forward<Q: Message, A: Message>(
        &self,
        method: &str,
        outer: &TtrpcContext,
        request: &Q,
    ) -> ttrpc::Result<A> {
        let limit = u64::try_from(outer.timeout_nano)
            .ok()
            .filter(|limit| *limit > 0);
        self.call(
            method,
            outer.metadata.clone(),
            request,
            limit.map(Duration::from_nanos),
        )
        .await
    }

    /// Calls `method`; ends with the shim's death at the latest.
    pub(super) async fn call<Q: Message, A: Message>(
        &self,
        method: &str,
        metadata: HashMap<String, Vec<String>>,
        request: &Q,
        limit: Option<Duration>,
    ) -> ttrpc::Result<A> {
        let context = context(&self.namespace, metadata, limit);
        let answer = tokio::select! {
            answer = call(&self.client, self.service, method, context, request) => Some(answer),
            () = self.died() => None,
        };
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if !self.is_dead() => Err(error),
            _ => Err(get_rpc_status(
                Code::UNAVAILABLE,
                "the node's own shim, which ran this container, has died",
            )),
        }
    }

    /// Whether the shim's process has ended.
    pub(super) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    /// Waits for the end of the shim's process.
    pub(super) async fn died(&self) {
        // The sender goes only after it has told.
        let _ = self.dead.clone().wait_for(|dead| *dead).await;
    }

    /// Ends the shim's process, and removes the socket that it leaves behind.
    pub(super) fn kill(&self) {
        if let Err(error) = self.process.signal(Signal::KILL) {
            tracing::error!(pid = self.process.pid(), %error, "cannot end the node's own shim");
        }
        leftover::remove_socket(&self.address);
    }
}

fn context(
    namespace: &str,
    metadata: HashMap<String, Vec<String>>,
    limit: Option<Duration>,
) -> Context {
    let limit = limit
        .and_then(|limit| i64::try_from(limit.as_nanos()).ok())
        .unwrap_or(0);
    let mut context = Context {
        metadata,
        timeout_nano: limit,
    };
    context.set(NAMESPACE_HEADER.to_owned(), vec![namespace.to_owned()]);
    context
}

/// One call. The generated client cannot be used: it knows only one version's service name.
async fn call<Q: Message, A: Message>(
    client: &Client,
    service: &str,
    method: &str,
    context: Context,
    request: &Q,
) -> ttrpc::Result<A> {
    let broken = |error| ttrpc::Error::Others(format!("{method}: {error}"));
    let request = ttrpc::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: request.write_to_bytes().map_err(broken)?,
        timeout_nano: context.timeout_nano,
        metadata: ttrpc::context::to_pb(context.metadata),
        ..ttrpc::Request::default()
    };
    let response = client.request(request).await?;
    A::parse_from_bytes(&response.payload).map_err(broken)
}
