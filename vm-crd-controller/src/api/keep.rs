//! The Secret in which the certificates are kept, one for all replicas.
//!
//! Whoever finds it missing, broken or due makes it anew; of two who do so at once, the API server
//! takes one, and the other reads what that one wrote.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use time::OffsetDateTime;
use tracing::{debug, info};

use super::certificates::{CertificateError, Certificates};
use crate::cluster::FIELD_MANAGER;

/// Attempts to agree with other replicas, each of which fails only because one of them succeeded.
const ATTEMPTS: usize = 10;

/// Why the certificates are not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    /// The Secret can't be read or written.
    #[error("cannot {what} the Secret {namespace}/{name}, which keeps the certificates: {source}")]
    Secret {
        what: &'static str,
        namespace: String,
        name: String,
        source: Box<kube::Error>,
    },
    /// None can be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Others write it all the time.
    #[error("the Secret {namespace}/{name} changes faster than it can be read")]
    Restless { namespace: String, name: String },
}

/// The Secret.
pub(super) struct Keeper {
    pub(super) secrets: Api<Secret>,
    pub(super) name: String,
    namespace: String,
    /// Names by which clients call the server.
    pub(super) names: Vec<String>,
}

impl Keeper {
    /// The Secret `namespace`/`name` for the Service `service` of that namespace.
    pub(super) fn new(client: Client, namespace: &str, name: &str, service: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            names: ["", ".cluster.local"]
                .map(|end| format!("{service}.{namespace}.svc{end}"))
                .into(),
        }
    }

    /// The certificates that count now.
    pub(super) async fn current(&self) -> Result<Certificates, KeepError> {
        for _ in 0..ATTEMPTS {
            let found = self.secrets.get_opt(&self.name).await;
            let found = found.map_err(|error| self.error("read", error))?;
            let data = found.as_ref().and_then(|secret| secret.data.as_ref());
            let old = data.and_then(Certificates::from_data);
            let now = OffsetDateTime::now_utc();
            let new = Certificates::following(old.clone(), &self.names, now)?;
            if old.as_ref() == Some(&new) {
                return Ok(new);
            }
            match self.write(found, &new).await {
                Ok(()) => {
                    info!(secret = self.name, "made the server's certificate");
                    return Ok(new);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    debug!(secret = self.name, "another replica was quicker");
                }
                Err(error) => return Err(self.error("write", error)),
            }
        }
        Err(KeepError::Restless {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        })
    }

    async fn write(&self, found: Option<Secret>, new: &Certificates) -> kube::Result<()> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match found {
            // The version that was seen stands in it.
            Some(mut secret) => {
                secret.data = Some(new.to_data());
                let written = self.secrets.replace(&self.name, &params, &secret);
                written.await.map(drop)
            }
            None => {
                let secret = Secret {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    type_: Some("kubernetes.io/tls".to_owned()),
                    data: Some(new.to_data()),
                    ..Secret::default()
                };
                self.secrets.create(&params, &secret).await.map(drop)
            }
        }
    }

    fn error(&self, what: &'static str, source: kube::Error) -> KeepError {
        KeepError::Secret {
            what,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            source: Box::new(source),
        }
    }
}
