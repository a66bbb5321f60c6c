//! The part of containerd that a shim talks to: the socket for events.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use containerd_shim::api::Empty;
use containerd_shim::protos::events::task::TaskExit;
use containerd_shim::protos::protobuf::Message;
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Events, create_events};
use containerd_shim::protos::ttrpc::Result;
use containerd_shim::protos::ttrpc::r#async::{Server, TtrpcContext};

/// A daemon that remembers all events.
pub(crate) struct Daemon {
    events: Arc<Mutex<Vec<Envelope>>>,
    _server: Server,
}

struct Service(Arc<Mutex<Vec<Envelope>>>);

#[async_trait]
impl Events for Service {
    async fn forward(&self, _: &TtrpcContext, mut request: ForwardRequest) -> Result<Empty> {
        self.0.lock().unwrap().push(request.take_envelope());
        Ok(Empty::default())
    }
}

impl Daemon {
    /// A daemon that takes events at `socket`.
    pub(crate) async fn serve(socket: &Path) -> Self {
        let events = Arc::default();
        let service = create_events(Arc::new(Service(Arc::clone(&events))));
        let address = format!("unix://{}", socket.display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(service);
        server.start().await.unwrap();
        Self {
            events,
            _server: server,
        }
    }

    /// The topics of all events about container `id`, in their order.
    pub(crate) fn topics(&self, id: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let about = |event: &&Envelope| {
            let bytes = &event.event.as_ref().unwrap().value;
            bytes
                .windows(id.len())
                .any(|window| window == id.as_bytes())
        };
        events
            .iter()
            .filter(about)
            .map(|event| event.topic.clone())
            .collect()
    }

    /// The exit status that was told of container `id`.
    pub(crate) fn exit_status(&self, id: &str) -> Option<u32> {
        let events = self.events.lock().unwrap();
        let mut exits = events
            .iter()
            .filter(|event| event.topic == "/tasks/exit")
            .map(|event| TaskExit::parse_from_bytes(&event.event.as_ref().unwrap().value).unwrap());
        exits
            .find(|exit| exit.id == id)
            .map(|exit| exit.exit_status)
    }
}
