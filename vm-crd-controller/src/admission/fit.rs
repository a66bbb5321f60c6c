//! Whether a machine goes together with its instance type and its preference: the one thing that is
//! looked up for a review.
//!
//! Whoever reaches the port can ask, hence few are looked up at the same time and none for long, and
//! nothing else of a namespace is looked at: what is to be inferred from a claim is not. What cannot be
//! had is no reason to refuse: the machine's condition tells of it later.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;
use vm_api::instancetype::Matcher;
use vm_api::strict;
use vm_api::v1::{
    API_VERSION, InstancetypeMatcher, InstancetypeStatusRef, PreferenceMatcher, VirtualMachine,
    VirtualMachineSpec, VirtualMachineStatus,
};

use super::judge::Cause;
use super::request::{Object, Request};
use crate::instancetype::{ExpandError, Problem, Types};

const KIND: &str = "VirtualMachine";

/// Machines that are looked up for at the same time.
const AT_ONCE: usize = 16;

/// Time for a place and the API server's answers; below the 3 s that it gives a webhook.
const BOUND: Duration = Duration::from_secs(2);

/// Looks up what machines refer to.
pub(super) struct Fit {
    types: Types,
    room: Semaphore,
}

/// What a machine refers to.
#[derive(Deserialize)]
struct References {
    instancetype: Option<InstancetypeMatcher>,
    preference: Option<PreferenceMatcher>,
}

/// What a machine's status remembers of that.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remembered {
    instancetype_ref: Option<InstancetypeStatusRef>,
    preference_ref: Option<InstancetypeStatusRef>,
}

impl Fit {
    pub(super) fn new(types: Types) -> Self {
        let room = Semaphore::new(AT_ONCE);
        Self { types, room }
    }

    /// The fields of the requested machine that do not go together with what it refers to.
    pub(super) async fn conflicts(&self, request: &Request<'_>) -> Vec<Cause> {
        let Some(object) = request.object() else {
            return Vec::new();
        };
        if !refers_by_name(&object) {
            return Vec::new();
        }
        match timeout(BOUND, self.expand(request, &object)).await {
            Ok(Err(ExpandError::Problem(Problem::Fields(errors)))) => {
                errors.iter().map(Cause::of_reference).collect()
            }
            Ok(Ok(())) => Vec::new(),
            Ok(Err(error)) => {
                debug!(%error, "what a machine refers to is not known");
                Vec::new()
            }
            Err(_) => {
                debug!("what a machine refers to was not found in time");
                Vec::new()
            }
        }
    }

    async fn expand(&self, request: &Request<'_>, object: &Object<'_>) -> Result<(), ExpandError> {
        // It is never closed.
        let _place = self.room.acquire().await;
        if let Some(vm) = machine(request, object) {
            self.types.expand(&vm).await?;
        }
        Ok(())
    }
}

/// Whether the machine refers to something, and to nothing that is to be inferred.
fn refers_by_name(object: &Object<'_>) -> bool {
    let Ok(References {
        instancetype,
        preference,
    }) = serde_json::from_str(object.spec().unwrap_or("{}"))
    else {
        return false;
    };
    let matchers = [
        instancetype.as_ref().map(Matcher::from),
        preference.as_ref().map(Matcher::from),
    ];
    let by_name = |matcher: &Matcher<'_>| matcher.infer_from_volume.is_none();
    matchers.iter().any(Option::is_some) && matchers.iter().flatten().all(by_name)
}

/// The machine, as far as it counts for what it refers to.
fn machine(request: &Request<'_>, object: &Object<'_>) -> Option<VirtualMachine> {
    let spec = strict::read::<VirtualMachineSpec>(object.spec().ok()?).ok()?;
    let remembered: Remembered = object.status();
    Some(VirtualMachine {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: ObjectMeta {
            namespace: Some(request.namespace.clone()?),
            ..ObjectMeta::default()
        },
        spec: spec.value,
        status: Some(VirtualMachineStatus {
            instancetype_ref: remembered.instancetype_ref,
            preference_ref: remembered.preference_ref,
            ..VirtualMachineStatus::default()
        }),
    })
}
