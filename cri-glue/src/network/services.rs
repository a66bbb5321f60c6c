//! What the guest is served as long as it runs.

use std::{convert::Infallible, future, io};

use super::{
    dhcp::DhcpServer,
    dhcp6::Dhcp6Server,
    relay::{Loopback6, Relay},
    router::Router,
};

/// The servers of one of the machine's interfaces, listening already: what the guest asks before
/// [`serve`](Self::serve) is answered then.
#[derive(Debug, Default)]
pub struct Services {
    pub(super) dhcp: Option<DhcpServer>,
    pub(super) dhcp6: Option<Dhcp6Server>,
    pub(super) router: Option<Router>,
    pub(super) relay: Option<Relay>,
}

impl Services {
    /// The guest behind the pod's `::1`, if it is there.
    pub fn loopback6(&self) -> Option<Loopback6> {
        self.relay.as_ref().map(|relay| relay.loopback().clone())
    }

    /// Serves the guest, for ever: abort the task when the machine has ended.
    ///
    /// # Errors
    /// Fails when a socket does, or outside of a tokio runtime with I/O and time.
    pub async fn serve(self) -> io::Result<Infallible> {
        tokio::select! {
            end = run(self.dhcp, DhcpServer::serve) => end,
            end = run(self.dhcp6, Dhcp6Server::serve) => end,
            end = run(self.router, Router::serve) => end,
            end = run(self.relay, Relay::serve) => end,
        }
    }
}

async fn run<S, F: Future<Output = io::Result<Infallible>>>(
    server: Option<S>,
    serve: impl FnOnce(S) -> F,
) -> io::Result<Infallible> {
    match server {
        Some(server) => serve(server).await,
        None => future::pending().await,
    }
}
