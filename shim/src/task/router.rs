//! Routes each call of containerd to the container it names, and makes containers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim::{Task, TtrpcContext, TtrpcResult};
use tracing::Instrument;

use super::{Pod, to_the_end};
use crate::create;

/// The Task service of a pod's server.
pub(crate) struct Router {
    pod: Arc<Pod>,
}

impl Router {
    /// The service of `pod`.
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

/// What a method of the service returns, as `async_trait` writes it; that macro does not see the
/// methods that the macros below make.
pub(crate) type Answer<'c, T> = Pin<Box<dyn Future<Output = TtrpcResult<T>> + Send + 'c>>;

/// Calls that only ask: answered at once by what is there now.
macro_rules! ask {
    ($($method:ident: $request:ty => $response:ty;)*) => {$(
        fn $method<'a, 'b, 'c>(
            &'a self,
            context: &'b TtrpcContext,
            request: $request,
        ) -> Answer<'c, $response>
        where
            'a: 'c,
            'b: 'c,
        {
            Box::pin(async move { self.pod.now(&request.id)?.$method(context, request).await })
        }
    )*};
}

/// Calls that change something: they wait for a creation under way, and are done to their end.
macro_rules! change {
    ($($method:ident: $request:ty => $response:ty;)*) => {$(
        fn $method<'a, 'b, 'c>(
            &'a self,
            context: &'b TtrpcContext,
            request: $request,
        ) -> Answer<'c, $response>
        where
            'a: 'c,
            'b: 'c,
        {
            let span = tracing::info_span!(
                stringify!($method),
                container = request.id,
                otel.parent = trace_parent(context),
            );
            let (pod, context) = (self.pod.clone(), copy(context));
            let work = async move {
                let container = pod.settled(&request.id).await?;
                let answer = container.$method(&context, request).await;
                Ok(answer.inspect_err(|error| tracing::warn!(%error, "refused")))
            };
            Box::pin(async move { to_the_end(work.instrument(span)).await? })
        }
    )*};
}

/// The span of containerd's that the call belongs to, if containerd traces it.
fn trace_parent(context: &TtrpcContext) -> Option<&str> {
    Some(context.metadata.get("traceparent")?.first()?)
}

/// The context for a task that may outlive the call.
fn copy(context: &TtrpcContext) -> TtrpcContext {
    TtrpcContext {
        mh: context.mh,
        metadata: context.metadata.clone(),
        timeout_nano: context.timeout_nano,
        connection_data: context.connection_data.clone(),
    }
}

#[async_trait]
impl Task for Router {
    ask! {
        state: StateRequest => StateResponse;
        pids: PidsRequest => PidsResponse;
        stats: StatsRequest => StatsResponse;
        wait: WaitRequest => WaitResponse;
    }

    change! {
        start: StartRequest => StartResponse;
        kill: KillRequest => Empty;
        pause: PauseRequest => Empty;
        resume: ResumeRequest => Empty;
        checkpoint: CheckpointTaskRequest => Empty;
        exec: ExecProcessRequest => Empty;
        resize_pty: ResizePtyRequest => Empty;
        close_io: CloseIORequest => Empty;
        update: UpdateTaskRequest => Empty;
    }

    /// The server answers for itself also where it has no such container: a daemon that restarts
    /// asks for the container's processes next, and cleans up if there are none.
    async fn connect(
        &self,
        context: &TtrpcContext,
        request: ConnectRequest,
    ) -> TtrpcResult<ConnectResponse> {
        match self.pod.now(&request.id) {
            Ok(container) => container.connect(context, request).await,
            Err(_) => Ok(connected(0)),
        }
    }

    async fn create(
        &self,
        context: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> TtrpcResult<CreateTaskResponse> {
        let parent = trace_parent(context);
        let span = tracing::info_span!("create", container = request.id, otel.parent = parent);
        let pod = self.pod.clone();
        let work = async move {
            let begun = std::time::Instant::now();
            let created = create::create(&pod, request).await;
            match &created {
                Ok(pid) => tracing::info!(pid, elapsed = ?begun.elapsed(), "created"),
                Err(error) => tracing::error!(%error, elapsed = ?begun.elapsed(), "not created"),
            }
            created
        };
        let pid = to_the_end(work.instrument(span)).await?;
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn delete(
        &self,
        context: &TtrpcContext,
        request: DeleteRequest,
    ) -> TtrpcResult<DeleteResponse> {
        let parent = trace_parent(context);
        let span = tracing::info_span!("delete", container = request.id, otel.parent = parent);
        let (pod, context) = (self.pod.clone(), copy(context));
        let work = async move {
            let container = pod.settled(&request.id).await?;
            let (id, whole) = (request.id.clone(), request.exec_id.is_empty());
            let deleted = container.delete(&context, request).await;
            if whole && deleted.is_ok() {
                pod.forget(&id);
                tracing::info!("deleted");
            }
            Ok(deleted)
        };
        to_the_end(work.instrument(span)).await?
    }

    /// The last container's `Shutdown` ends the server; containerd sends one for each container.
    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> TtrpcResult<Empty> {
        if self.pod.is_empty() || request.now {
            let pod = self.pod.clone();
            to_the_end(async move {
                pod.events.flush(FLUSH_TIMEOUT).await;
                // Whoever hears that it is done calls nobody to remove the socket.
                let mut closed = pod.closed.subscribe();
                pod.gone.send_replace(true);
                let _ = closed.wait_for(|closed| *closed).await;
                Ok(())
            })
            .await?;
        }
        Ok(Empty::default())
    }
}

/// The answer to `Connect` for a container whose task is `pid`.
pub(crate) fn connected(pid: u32) -> ConnectResponse {
    ConnectResponse {
        shim_pid: std::process::id(),
        task_pid: pid,
        version: env!("CARGO_PKG_VERSION").into(),
        ..ConnectResponse::default()
    }
}

/// How long the last events may hold up the end of the server; containerd waits 3 s for it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
