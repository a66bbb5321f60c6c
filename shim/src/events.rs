//! Task events to containerd: one queue per pod, so that the events of a container arrive in the
//! order in which they happened.
//!
//! While containerd restarts, the queue waits and tries again; an event that could not be
//! delivered for [`PATIENCE`] is logged and dropped. Without a containerd to tell (`TTRPC_ADDRESS`
//! unset) events go to the log alone.

use std::time::{Duration, SystemTime};

use containerd_shim::event::Event;
use containerd_shim::protos::protobuf::MessageFull;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Client, EventsClient};
use containerd_shim::protos::ttrpc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// How long an event is kept while containerd does not take it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause between attempts: the first, doubling up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// Events that may wait; a pod has a handful.
const LENGTH: usize = 256;

enum Entry {
    Event(Envelope),
    Flush(oneshot::Sender<()>),
}

/// The sending end, shared by all containers of the pod.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Entry>,
}

impl Publisher {
    /// A queue towards containerd's ttrpc socket at `address`, or to the log alone.
    pub(crate) fn new(namespace: String, address: Option<String>) -> Self {
        let (queue, entries) = mpsc::channel(LENGTH);
        tokio::spawn(deliver(entries, address));
        Self { namespace, queue }
    }

    /// Queues `event`; never waits.
    pub(crate) fn publish<E: Event + MessageFull>(&self, event: &E) {
        let topic = event.topic();
        let envelope = match pack(event, &self.namespace) {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::error!(topic, %error, "cannot encode an event");
                return;
            }
        };
        if self.queue.try_send(Entry::Event(envelope)).is_err() {
            tracing::error!(topic, "an event was dropped: containerd takes none");
        }
    }

    /// Waits until everything queued so far is delivered or dropped, at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let wait = async {
            if self.queue.send(Entry::Flush(done)).await.is_ok() {
                // An error means that the queue has ended: nothing is left to wait for.
                let _ = flushed.await;
            }
        };
        if timeout(limit, wait).await.is_err() {
            tracing::warn!("the last events were not delivered");
        }
    }
}

fn pack<E: Event + MessageFull>(
    event: &E,
    namespace: &str,
) -> Result<Envelope, containerd_shim::protos::protobuf::Error> {
    let any = Any {
        type_url: E::descriptor().full_name().to_owned(),
        value: event.write_to_bytes()?,
        ..Any::default()
    };
    Ok(Envelope {
        timestamp: Some(SystemTime::now().into()).into(),
        namespace: namespace.to_owned(),
        topic: event.topic(),
        event: Some(any).into(),
        ..Envelope::default()
    })
}

async fn deliver(mut entries: mpsc::Receiver<Entry>, address: Option<String>) {
    let mut connection = None;
    while let Some(entry) = entries.recv().await {
        match (entry, &address) {
            (Entry::Flush(done), _) => drop(done.send(())),
            (Entry::Event(envelope), Some(address)) => {
                tracing::debug!(topic = envelope.topic, "event");
                insist(&mut connection, address, envelope).await;
            }
            (Entry::Event(envelope), None) => {
                tracing::info!(topic = envelope.topic, "event, with no containerd to tell");
            }
        }
    }
}

/// Delivers `envelope`, trying again until it runs out of patience.
async fn insist(connection: &mut Option<EventsClient>, address: &str, envelope: Envelope) {
    let topic = envelope.topic.clone();
    let request = ForwardRequest {
        envelope: Some(envelope).into(),
        ..ForwardRequest::default()
    };
    let end = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let problem = match attempt(connection, address, &request).await {
            Ok(()) => return,
            Err(problem) => problem,
        };
        *connection = None;
        if Instant::now() + pause > end {
            tracing::error!(topic, problem, "an event was dropped");
            return;
        }
        tracing::debug!(topic, problem, "an event was not taken yet");
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn attempt(
    connection: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> Result<(), String> {
    let client = match connection {
        Some(client) => client,
        None => {
            let path = address.strip_prefix("unix://").unwrap_or(address);
            let client = timeout(ATTEMPT, Client::connect(&format!("unix://{path}")))
                .await
                .map_err(|_| format!("connecting to {path} takes too long"))?
                .map_err(|error| error.to_string())?;
            connection.insert(EventsClient::new(client))
        }
    };
    let context = ttrpc::context::with_duration(ATTEMPT);
    match timeout(ATTEMPT, client.forward(context, request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("containerd does not answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use containerd_shim::api::Empty;
    use containerd_shim::protos::events::task::{TaskExit, TaskStart};
    use containerd_shim::protos::shim_async::{Events, create_events};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Daemon(Mutex<Vec<Envelope>>);

    struct Service(Arc<Daemon>);

    #[async_trait]
    impl Events for Service {
        async fn forward(
            &self,
            _: &ttrpc::r#async::TtrpcContext,
            mut request: ForwardRequest,
        ) -> ttrpc::Result<Empty> {
            self.0.0.lock().unwrap().push(request.take_envelope());
            Ok(Empty::default())
        }
    }

    async fn serve(address: &str, daemon: &Arc<Daemon>) -> ttrpc::r#async::Server {
        let service = create_events(Arc::new(Service(daemon.clone())));
        let mut server = ttrpc::r#async::Server::new()
            .bind(address)
            .unwrap()
            .register_service(service);
        server.start().await.unwrap();
        server
    }

    #[tokio::test]
    async fn events_survive_a_restart_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let address = format!("unix://{}", path.display());
        let daemon = Arc::new(Daemon::default());
        let publisher = Publisher::new("k8s.io".into(), Some(address.clone()));

        let mut server = serve(&address, &daemon).await;
        publisher.publish(&TaskStart {
            container_id: "c".into(),
            ..TaskStart::default()
        });
        publisher.flush(Duration::from_secs(5)).await;
        server.shutdown().await.unwrap();
        drop(std::fs::remove_file(&path));

        publisher.publish(&TaskExit {
            id: "first".into(),
            ..TaskExit::default()
        });
        publisher.publish(&TaskExit {
            id: "second".into(),
            ..TaskExit::default()
        });
        sleep(Duration::from_millis(200)).await;
        let _server = serve(&address, &daemon).await;
        publisher.flush(Duration::from_secs(5)).await;

        let envelopes = daemon.0.lock().unwrap();
        let topics: Vec<_> = envelopes.iter().map(|e| e.topic.as_str()).collect();
        assert_eq!(topics, ["/tasks/start", "/tasks/exit", "/tasks/exit"]);
        assert_eq!(envelopes[0].namespace, "k8s.io");
        let any = envelopes[1].event.as_ref().unwrap();
        assert_eq!(any.type_url, "containerd.events.TaskExit");
    }

    #[tokio::test]
    async fn without_a_containerd_nothing_waits() {
        let publisher = Publisher::new("k8s.io".into(), None);
        for _ in 0..3 {
            publisher.publish(&TaskStart::default());
        }
        publisher.flush(Duration::from_secs(1)).await;
    }
}
