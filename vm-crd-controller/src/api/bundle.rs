//! The authority's certificates, told to those who call the server: the API server reads them from
//! the APIServices of the group and from the webhook configurations.
//!
//! Only the bundle is written, and only where it differs. A configuration that is not installed is
//! left out.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::{debug, info};

use super::{GROUP, VERSIONS};
use crate::cluster::FIELD_MANAGER;

/// Name of both webhook configurations.
const WEBHOOKS: &str = "vm-crd-controller";

/// Why the bundle was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the authority's certificates into {kind} {name}: {source}")]
pub(super) struct BundleError {
    kind: &'static str,
    name: String,
    source: kube::Error,
}

/// Writes `bundle` wherever it is looked for.
pub(super) async fn publish(client: &Client, bundle: &str) -> Result<(), BundleError> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    for version in VERSIONS {
        let name = format!("{version}.{GROUP}");
        let api: Api<APIService> = Api::all(client.clone());
        write(&api, "APIService", &name, |service| {
            let spec = service.spec.as_ref()?;
            let differs = spec.ca_bundle.as_ref() != Some(&wanted);
            differs.then(|| json!({ "spec": { "caBundle": wanted } }))
        })
        .await?;
    }
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    write(&api, "MutatingWebhookConfiguration", WEBHOOKS, |found| {
        let mut webhooks = found.webhooks.clone()?;
        let mut changed = false;
        for webhook in &mut webhooks {
            let bundle = &mut webhook.client_config.ca_bundle;
            changed |= bundle.replace(wanted.clone()).as_ref() != Some(&wanted);
        }
        changed.then(|| replacing(found.metadata.resource_version.as_deref(), json!(webhooks)))
    })
    .await?;
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    write(&api, "ValidatingWebhookConfiguration", WEBHOOKS, |found| {
        let mut webhooks = found.webhooks.clone()?;
        let mut changed = false;
        for webhook in &mut webhooks {
            let bundle = &mut webhook.client_config.ca_bundle;
            changed |= bundle.replace(wanted.clone()).as_ref() != Some(&wanted);
        }
        changed.then(|| replacing(found.metadata.resource_version.as_deref(), json!(webhooks)))
    })
    .await
}

/// A list is replaced as a whole, so only the version that was seen.
fn replacing(version: Option<&str>, webhooks: Value) -> Value {
    json!({ "metadata": { "resourceVersion": version }, "webhooks": webhooks })
}

async fn write<K>(
    api: &Api<K>,
    kind: &'static str,
    name: &str,
    patch: impl FnOnce(&K) -> Option<Value>,
) -> Result<(), BundleError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let failed = |source| BundleError {
        kind,
        name: name.to_owned(),
        source,
    };
    let Some(found) = api.get_opt(name).await.map_err(failed)? else {
        debug!(kind, name, "not installed: it needs no certificates");
        return Ok(());
    };
    let Some(patch) = patch(&found) else {
        return Ok(());
    };
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(name, &params, &Patch::Merge(patch)).await {
        Ok(_) => info!(kind, name, "told it the authority"),
        // Somebody else wrote it meanwhile: the next round looks again.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            debug!(kind, name, "it changed meanwhile");
        }
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}
