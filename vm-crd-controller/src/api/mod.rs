//! The HTTPS server of every replica, leader or not: the group `subresources.kubevirt.io`, and the
//! admission webhooks.
//!
//! *Expected flow*: the API server's front proxy connects by its certificate → it names a user → the
//! API server is asked whether that user may → the machine's pod does it. *Guarantees*: users are
//! believed on the front proxy's word alone; every wait and every size has a bound. *Assumptions*:
//! the Service of the controller leads to this port.

mod access;
mod answer;
mod bundle;
mod certificates;
mod discovery;
mod failure;
mod front_proxy;
mod graph;
mod group;
mod guest;
mod identity;
mod instances;
mod keep;
mod lifecycle;
mod listener;
mod machines;
mod objects;
mod options;
mod per_address;
mod request;
mod routes;
mod socket;
mod streams;
mod table;

use std::convert::Infallible;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

pub use answer::{Answer, boxed, json, whole};
pub use failure::Failure;
pub use front_proxy::User;
pub use lifecycle::PAUSED_KEY;
pub use routes::{Call, Door, Routes};

use crate::admission::{Reviewer, Webhook};
use crate::args::Args;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::instancetype::Types;
use crate::metrics::Metrics;
use crate::verbs::Verbs;
use group::Group;
use keep::Keeper;
use listener::Listener;

/// The group of the subresources.
pub const GROUP: &str = "subresources.kubevirt.io";

/// Its versions, which mean the same; the preferred one first.
pub const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];

/// Serves until dropped; an error is one of binding the address.
pub async fn serve(client: Client, args: Args, metrics: Metrics) -> std::io::Result<Infallible> {
    let listener = TcpListener::bind(args.api_listen).await?;
    info!(address = %listener.local_addr()?, "serving the API");
    let (identity, changes) = watch::channel(None);
    let keeper = Keeper::new(
        client.clone(),
        &args.lease_namespace,
        &args.api_secret,
        &args.api_service,
    );
    let (events, writing) = Events::start(client.clone(), &args.identity, metrics.clone());
    // Asked seldom, and not only of who leads.
    let types = Types::unwatched(Cluster::new(client.clone(), metrics));
    let reviewer = Arc::new(Reviewer::new(args.username, types.clone()));
    let group = Arc::new(Group {
        client: client.clone(),
        types,
        verbs: Verbs::new(client.clone()),
        events,
        room: streams::Room::default(),
    });
    let listening = Listener::new(routes(group, &reviewer), changes).run(listener);
    tokio::select! {
        never = listening => match never {},
        () = identity::keep(client, keeper, identity) => {}
        _ = writing => {}
    }
    // Neither ends while it is polled.
    std::future::pending().await
}

/// Who answers where.
fn routes(group: Arc<Group>, reviewer: &Arc<Reviewer>) -> Routes {
    const GROUP_PATH: &str = "/apis/subresources.kubevirt.io";
    Routes::default()
        .at(Door::Anybody, "/healthz", listener::healthz)
        .at(
            Door::Anybody,
            "/mutate",
            reviewed(Webhook::Mutate, reviewer),
        )
        .at(
            Door::Anybody,
            "/validate",
            reviewed(Webhook::Validate, reviewer),
        )
        .at(Door::FrontProxy, "/apis", discovery::groups)
        .at(Door::FrontProxy, "/openapi/v2", discovery::openapi_v2)
        .below(Door::FrontProxy, "/openapi/v3", discovery::openapi_v3)
        .below(Door::FrontProxy, GROUP_PATH, move |call| {
            group.clone().answer(call)
        })
}

/// What answers at the path of a webhook.
fn reviewed(
    webhook: Webhook,
    reviewer: &Arc<Reviewer>,
) -> impl Fn(Call) -> BoxFuture<'static, Result<Answer, Failure>> + Send + Sync + 'static {
    let reviewer = Arc::clone(reviewer);
    move |call| {
        let reviewer = Arc::clone(&reviewer);
        async move { Ok(boxed(reviewer.review(webhook, &call.body).await)) }.boxed()
    }
}
