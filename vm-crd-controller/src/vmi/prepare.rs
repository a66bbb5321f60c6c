//! Everything that must be right before an instance gets a pod: the checks that the whole product
//! shares, then the claims; then the pod itself.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use tracing::info;
use vm_api::v1::VirtualMachineInstance;
use vm_api::{FieldError, support, validate};

use super::obstacle::Obstacle;
use crate::cluster::{Cluster, resource};
use crate::reconcile::{Doing, ReconcileError};
use crate::refusal::{Refusal, refusal};
use crate::render::{self, Claims, ImageForm, RenderError};

/// The claims of `instance`, or what keeps it from having a pod.
pub(super) async fn claims(
    cluster: &Cluster,
    instance: &VirtualMachineInstance,
) -> Result<Result<Claims, Obstacle>, ReconcileError> {
    if let Err(obstacle) = check(instance) {
        return Ok(Err(obstacle));
    }
    let names = match render::claim_names(&instance.spec) {
        Ok(names) => names,
        Err(errors) => return Ok(Err(Obstacle::Invalid(sentences(errors)))),
    };
    let namespace = instance.namespace().unwrap_or_default();
    let mut claims = Claims::new();
    for (volume, name) in names {
        match cluster
            .claim(&namespace, &name)
            .await
            .doing("read a claim")?
        {
            Some(claim) => {
                claims.insert(name, (&claim).into());
            }
            None => {
                return Ok(Err(Obstacle::ClaimMissing {
                    namespace,
                    claim: name,
                    volume,
                }));
            }
        }
    }
    if let Err(obstacle) = make_state_claim(cluster, instance).await? {
        return Ok(Err(obstacle));
    }
    Ok(Ok(claims))
}

/// The pod of `instance`, or what keeps it from having one.
pub(super) fn pod(
    instance: &VirtualMachineInstance,
    claims: &Claims,
    placeholder: &str,
    form: ImageForm,
) -> Result<Pod, Obstacle> {
    render::pod(instance, claims, placeholder, form).map_err(|error| match error {
        RenderError::Fields(errors) => Obstacle::Invalid(sentences(errors)),
        RenderError::Json(_) => Obstacle::Invalid(vec![error.to_string()]),
    })
}

/// Makes the claim for what the machine keeps beside its disks, unless it is there.
async fn make_state_claim(
    cluster: &Cluster,
    instance: &VirtualMachineInstance,
) -> Result<Result<(), Obstacle>, ReconcileError> {
    let claim = match render::state_claim(instance) {
        Ok(Some(claim)) => claim,
        Ok(None) => return Ok(Ok(())),
        Err(error) => return Ok(Err(Obstacle::Invalid(sentences(vec![error])))),
    };
    let namespace = instance.namespace().unwrap_or_default();
    let found = cluster.claim(&namespace, &claim.name_any()).await;
    if let Some(found) = found.doing("read the claim for the machine's state")? {
        return Ok(is_free(&found, &claim));
    }
    match cluster.create_unwatched(&claim, resource::CLAIMS).await {
        Ok(_) => {
            info!(
                claim = claim.name_any(),
                "claim for the machine's state created"
            );
            Ok(Ok(()))
        }
        Err(error) => match refusal(&error) {
            Refusal::Mend(message) => Ok(Err(Obstacle::StateRefused(message))),
            Refusal::Leaving => Ok(Ok(())),
            Refusal::Passing => Err(error).doing("create the claim for the machine's state"),
        },
    }
}

/// Whether the claim that is there may hold what `claim` would: the machine's own, or one that the
/// user made; not one that will go with an earlier machine of the name.
fn is_free(found: &PersistentVolumeClaim, claim: &PersistentVolumeClaim) -> Result<(), Obstacle> {
    let owners = |claim: &PersistentVolumeClaim| {
        let owners = claim.owner_references().iter();
        owners.map(|owner| owner.uid.clone()).collect::<Vec<_>>()
    };
    let (theirs, ours) = (owners(found), owners(claim));
    let another = !theirs.is_empty() && !theirs.iter().any(|uid| ours.contains(uid));
    if another || found.metadata.deletion_timestamp.is_some() {
        return Err(Obstacle::StateGoing(found.name_any()));
    }
    Ok(())
}

/// What the whole product accepts, and what of it this version can do.
fn check(instance: &VirtualMachineInstance) -> Result<(), Obstacle> {
    let annotations = support::annotations(instance.metadata.annotations.as_ref());
    let mut unsupported = sentences(support::instance(&instance.spec));
    unsupported.extend(annotations.iter().map(ToString::to_string));
    if !unsupported.is_empty() {
        return Err(Obstacle::Unsupported(unsupported));
    }
    let invalid = validate::instance(&instance.spec);
    if !invalid.is_empty() {
        return Err(Obstacle::Invalid(sentences(invalid)));
    }
    Ok(())
}

fn sentences(errors: Vec<FieldError>) -> Vec<String> {
    errors
        .into_iter()
        .map(|error| error.under("spec").to_string())
        .collect()
}
