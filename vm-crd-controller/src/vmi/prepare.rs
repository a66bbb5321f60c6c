//! Everything that must be right before an instance gets a pod: the checks that the whole product
//! shares, then the claims.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use vm_api::v1::{VirtualMachineInstance, VirtualMachineInstanceSpec};
use vm_api::{FieldError, support, validate};

use super::obstacle::Obstacle;
use crate::cluster::Cluster;
use crate::reconcile::{Doing, ReconcileError};
use crate::render::{self, Claims, RenderError};

/// The pod of `instance`, or what keeps it from having one.
pub(super) async fn pod(
    cluster: &Cluster,
    instance: &VirtualMachineInstance,
    placeholder: &str,
) -> Result<Result<Pod, Obstacle>, ReconcileError> {
    if let Err(obstacle) = check(&instance.spec) {
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
    Ok(
        render::pod(instance, &claims, placeholder).map_err(|error| match error {
            RenderError::Fields(errors) => Obstacle::Invalid(sentences(errors)),
            RenderError::Json(_) => Obstacle::Invalid(vec![error.to_string()]),
        }),
    )
}

/// What the whole product accepts, and what of it this version can do.
fn check(spec: &VirtualMachineInstanceSpec) -> Result<(), Obstacle> {
    let unsupported = support::instance(spec);
    if !unsupported.is_empty() {
        return Err(Obstacle::Unsupported(sentences(unsupported)));
    }
    let invalid = validate::instance(spec);
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
