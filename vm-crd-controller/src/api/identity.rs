//! What the server is to its clients, kept up to date: its certificate, whom it takes for the front
//! proxy, and that its clients know its authority.
//!
//! Relies on two watches, of the Secret and of the API server's ConfigMap. A change of either is
//! served from the next connection on, in every replica, without a restart.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use time::OffsetDateTime;
use tokio::sync::watch;
use tracing::{info, warn};

use super::bundle;
use super::certificates::Certificates;
use super::front_proxy::{FrontProxy, NAME, NAMESPACE};
use super::keep::Keeper;

/// How often it is made sure that clients know the authority, and that no certificate is due.
const ROUND: Duration = Duration::from_secs(60);

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What the server is to its clients.
pub(super) struct Identity {
    /// For the handshake.
    pub(super) tls: Arc<ServerConfig>,
    /// Whose word about users counts; nobody's where the API server has no front proxy.
    pub(super) front: Option<FrontProxy>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error(transparent)]
    Certificate(#[from] super::certificates::CertificateError),
    #[error("TLS does not take the certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("TLS does not take the front proxy's authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Keeps `identity` up to date for ever.
pub(super) async fn keep(
    client: Client,
    keeper: Keeper,
    identity: watch::Sender<Option<Arc<Identity>>>,
) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let mut maps = std::pin::pin!(watch_object(maps, NAME).default_backoff());
    let secrets = watch_object(keeper.secrets.clone(), &keeper.name).default_backoff();
    let mut secrets = std::pin::pin!(secrets);
    let mut map = None;
    let mut served: Option<(Certificates, Option<FrontProxy>)> = None;
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            Some(seen) = maps.next() => match seen {
                Ok(seen) => map = Some(seen),
                Err(error) => {
                    warn!(%error, "cannot watch the ConfigMap {NAMESPACE}/{NAME}");
                    continue;
                }
            },
            Some(seen) = secrets.next() => if let Err(error) = seen {
                warn!(%error, "cannot watch the Secret {}", keeper.name);
                continue;
            },
            () = tokio::time::sleep(pause) => {}
        }
        // Who the front proxy is must be known before anybody is let in.
        let Some(map) = &map else {
            pause = ROUND;
            continue;
        };
        let certificates = match keeper.current().await {
            Ok(certificates) => certificates,
            Err(error) => {
                warn!(%error, "no certificate to serve with");
                pause = RETRY;
                continue;
            }
        };
        let front = FrontProxy::read(map.as_ref());
        let front = front
            .inspect_err(|error| warn!(%error, "requests of users cannot be served"))
            .ok();
        // Clients learn to trust a new authority before they meet it.
        let told = bundle::publish(&client, &certificates.bundle).await;
        if let Err(error) = &told {
            warn!(%error, "clients may not know the authority yet");
        }
        let wanted = (certificates, front);
        if served.as_ref() != Some(&wanted) && (told.is_ok() || served.is_none()) {
            match make(&wanted.0, wanted.1.clone()) {
                Ok(made) => {
                    identity.send_replace(Some(Arc::new(made)));
                    info!("serving with a new certificate or for a new front proxy");
                    served = Some(wanted.clone());
                }
                Err(error) => {
                    warn!(%error, "no certificate to serve with");
                    pause = RETRY;
                    continue;
                }
            }
        }
        pause = match told {
            Ok(()) => until_due(&wanted.0, &keeper.names),
            Err(_) => RETRY,
        };
    }
}

fn until_due(certificates: &Certificates, names: &[String]) -> Duration {
    let due = certificates.due(names).unwrap_or_default();
    let left = due.saturating_sub(OffsetDateTime::now_utc().unix_timestamp());
    Duration::from_secs(u64::try_from(left).unwrap_or(0)).clamp(RETRY, ROUND)
}

fn make(certificates: &Certificates, front: Option<FrontProxy>) -> Result<Identity, IdentityError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match &front {
        Some(front) => {
            let mut roots = rustls::RootCertStore::empty();
            for authority in &front.authorities {
                roots.add(authority.clone())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()?;
            config.with_client_cert_verifier(verifier)
        }
        None => config.with_no_client_auth(),
    };
    let (chain, key) = certificates.serving()?;
    let mut tls = config.with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity {
        tls: Arc::new(tls),
        front,
    })
}
