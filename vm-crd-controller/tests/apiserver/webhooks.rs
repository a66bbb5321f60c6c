//! The admission webhooks as the API server calls them: the product's own configurations and its own
//! answers, at an address on loopback.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use vm_crd_controller::admission::{Reviewer, Webhook};
use vm_crd_controller::cluster::Cluster;
use vm_crd_controller::instancetype::Types;
use vm_crd_controller::metrics::Metrics;

use crate::bench::CONTROLLER_USER;
use crate::space::until;

const MANIFEST: &str = include_str!("../../../runtimeclass/controller/webhooks.yaml");

/// Name of both configurations: other than the product's, which its controller keeps.
const NAME: &str = "webhooks-of-the-test";

/// A server of webhooks, which the API server knows.
pub(crate) struct Webhooks {
    client: Client,
    serving: JoinHandle<()>,
}

impl Webhooks {
    /// Starts the server and tells the API server of it.
    pub(crate) async fn start(client: &Client) -> Result<Self> {
        let pair = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
        let tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let types = Types::unwatched(Cluster::new(client.clone(), Metrics::new()));
        let reviewer = Arc::new(Reviewer::new(CONTROLLER_USER.to_owned(), types));
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), reviewer));
        let bundle = ByteString(pair.cert.pem().into_bytes());
        let here = |config: &mut WebhookClientConfig| {
            let path = config.service.take().and_then(|service| service.path);
            let path = path.unwrap_or_default();
            config.url = Some(format!("https://127.0.0.1:{port}{path}"));
            config.ca_bundle = Some(bundle.clone());
        };
        let mut mutating: MutatingWebhookConfiguration = manifest("Mutating")?;
        for webhook in mutating.webhooks.iter_mut().flatten() {
            here(&mut webhook.client_config);
        }
        let mut validating: ValidatingWebhookConfiguration = manifest("Validating")?;
        for webhook in validating.webhooks.iter_mut().flatten() {
            here(&mut webhook.client_config);
        }
        mutating.metadata.name = Some(NAME.to_owned());
        validating.metadata.name = Some(NAME.to_owned());
        let new = PostParams::default();
        Api::all(client.clone()).create(&new, &mutating).await?;
        Api::all(client.clone()).create(&new, &validating).await?;
        Ok(Self {
            client: client.clone(),
            serving,
        })
    }

    /// Ends the server and leaves the API server in the belief that it is there.
    pub(crate) fn fall_silent(&self) {
        self.serving.abort();
    }

    /// Ends both.
    pub(crate) async fn stop(self) -> Result<()> {
        self.serving.abort();
        forget(&self.client).await
    }
}

/// Makes the API server forget the webhooks of a case, if it has any.
pub(crate) async fn forget(client: &Client) -> Result<()> {
    let gone = DeleteParams::default();
    let its = ListParams::default().fields(&format!("metadata.name={NAME}"));
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    mutating.delete_collection(&gone, &its).await?;
    validating.delete_collection(&gone, &its).await?;
    Ok(())
}

fn manifest<T: DeserializeOwned>(kind: &str) -> Result<T> {
    let document = MANIFEST
        .split("\n---\n")
        .find(|document| document.contains(&format!("kind: {kind}WebhookConfiguration")))
        .context("no such document")?;
    Ok(serde_saphyr::from_str(document)?)
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, reviewer: Arc<Reviewer>) {
    // They end with the listener.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, reviewer) = (tls.clone(), Arc::clone(&reviewer));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| answer(&reviewer, request));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    reviewer: &Reviewer,
    request: Request<Incoming>,
) -> Result<hyper::Response<http_body_util::Full<hyper::body::Bytes>>, Infallible> {
    let webhook = match request.uri().path() {
        "/mutate" => Webhook::Mutate,
        "/validate" => Webhook::Validate,
        _ => {
            let mut missing = hyper::Response::default();
            *missing.status_mut() = StatusCode::NOT_FOUND;
            return Ok(missing);
        }
    };
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(reviewer.review(webhook, &body).await)
}

/// Waits until what is created by `try_one` is refused: a new configuration takes its time.
pub(crate) async fn listening<F>(mut try_one: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    until("the webhooks are asked", || {
        let tried = try_one();
        async move {
            match tried.await {
                Ok(()) => anyhow::bail!("it was taken"),
                Err(_) => Ok(()),
            }
        }
    })
    .await
}
