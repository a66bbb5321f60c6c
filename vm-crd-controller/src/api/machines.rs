//! Verbs on VirtualMachines: what [`lifecycle`](super::lifecycle) decides is written, as the very
//! version of the object that was read; when somebody was quicker, it is decided anew.

use hyper::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{info, warn};
use vm_api::v1::{VirtualMachine, VirtualMachineInstance};

use super::answer::{Answer, empty, json as json_answer};
use super::failure::{Failure, MACHINE};
use super::lifecycle::{self, Change, Seen};
use super::objects;
use super::options::{self, Restart, Start, Stop};
use crate::instancetype::{ExpandError, Types};

/// The name in which requests and run strategies are written: not the reconciler's, which would take
/// away what it has not written itself.
const FIELD_MANAGER: &str = "vm-crd-controller-api";

/// Attempts, each of which fails only because somebody else wrote the machine.
const ATTEMPTS: usize = 5;

/// Seconds that a guest has which is to have none: what the API server calls 0 would forget the pod
/// while it still runs.
const NO_GRACE: u32 = 1;

/// A verb that changes a machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    /// What it changes, whether only for show, and the time that the guest has.
    fn decide(self, seen: &Seen<'_>, body: &[u8]) -> Result<(Change, bool, Option<u32>), Failure> {
        let seconds = |grace: Option<i64>| {
            grace.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX).max(NO_GRACE))
        };
        match self {
            Self::Start => {
                let options: Start = options::read(body)?;
                Ok((lifecycle::start(seen, &options)?, options.dry_run.0, None))
            }
            Self::Stop => {
                let options: Stop = options::read(body)?;
                let grace = seconds(options.grace_period);
                Ok((lifecycle::stop(seen, &options)?, options.dry_run.0, grace))
            }
            Self::Restart => {
                let options: Restart = options::read(body)?;
                let grace = seconds(options.grace_period_seconds);
                Ok((
                    lifecycle::restart(seen, &options)?,
                    options.dry_run.0,
                    grace,
                ))
            }
        }
    }
}

/// Does `verb` on the machine `namespace`/`name`.
pub(super) async fn change(
    client: &Client,
    namespace: &str,
    name: &str,
    verb: Verb,
    body: &[u8],
) -> Result<Answer, Failure> {
    for _ in 0..ATTEMPTS {
        let vm = objects::machine(client, namespace, name).await?;
        let instance = objects::instance_of(client, &vm).await?;
        let seen = Seen {
            vm: &vm,
            instance: instance.as_ref(),
        };
        let (change, dry_run, grace) = verb.decide(&seen, body)?;
        match write(client, &vm, &change, dry_run).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => continue,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Failure::not_found(MACHINE, name));
            }
            Err(error) => return Err(Failure::internal(error)),
        }
        info!(namespace, name, ?verb, dry_run, "asked for by a user");
        if let (Some(instance), Some(seconds), false) = (&instance, grace, dry_run) {
            hurry(client, instance, seconds).await;
        }
        return Ok(empty(StatusCode::ACCEPTED));
    }
    let why = "it changes faster than it can be written: try again";
    Err(Failure::conflict(MACHINE, name, why))
}

async fn write(
    client: &Client,
    vm: &VirtualMachine,
    change: &Change,
    dry_run: bool,
) -> kube::Result<()> {
    let api: Api<VirtualMachine> =
        Api::namespaced(client.clone(), &vm.namespace().unwrap_or_default());
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        dry_run,
        ..PatchParams::default()
    };
    let name = vm.name_any();
    let mut patch = json!({
        "metadata": { "uid": vm.uid(), "resourceVersion": vm.resource_version() },
    });
    match change {
        Change::Runs(runs) => {
            patch["spec"] = if vm.spec.run_strategy.is_some() {
                json!({ "runStrategy": if *runs { "Always" } else { "Halted" } })
            } else {
                json!({ "running": runs })
            };
            api.patch(&name, &params, &Patch::Merge(patch)).await?;
        }
        Change::Requests(requests) => {
            patch["status"] = json!({ "stateChangeRequests": requests, "startFailure": null });
            api.patch_status(&name, &params, &Patch::Merge(patch))
                .await?;
        }
        Change::Hurry => {}
    }
    Ok(())
}

/// Leaves the guest of `instance` no more than `seconds`. The machine is on its way to stop already:
/// what fails here only leaves it more time.
async fn hurry(client: &Client, instance: &VirtualMachineInstance, seconds: u32) {
    let result = async {
        let Some(pod) = objects::pod(client, instance).await? else {
            return Ok(());
        };
        let params = DeleteParams {
            grace_period_seconds: Some(seconds),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        match pods.delete(&pod.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Failure::internal(error)),
        }
    };
    if let Err(failure) = result.await {
        warn!(
            error = failure.message,
            instance = instance.name_any(),
            "the guest keeps its time to power off"
        );
    }
}

/// The machine `namespace`/`name` with what its instance type and preference say.
pub(super) async fn expanded(
    types: &Types,
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Answer, Failure> {
    let found: Option<kube::api::DynamicObject> = raw(client, namespace, name).await?;
    let vm = found.ok_or_else(|| Failure::not_found(MACHINE, name))?;
    expand(types, json!(vm)).await
}

/// The machine in `body`, the same.
pub(super) async fn expanded_body(
    types: &Types,
    namespace: &str,
    body: &[u8],
) -> Result<Answer, Failure> {
    expand(types, machine_in(namespace, body)?).await
}

/// The machine that a request's body holds, in the request's namespace.
fn machine_in(namespace: &str, body: &[u8]) -> Result<Value, Failure> {
    let wrong = |error| Failure::bad_request(format!("the request's body is no machine: {error}"));
    let mut vm: Value = serde_json::from_slice(body).map_err(wrong)?;
    let typed = VirtualMachine::deserialize(&vm).map_err(wrong)?;
    match typed.metadata.namespace.as_deref() {
        Some(other) if other != namespace && !other.is_empty() => {
            return Err(Failure::bad_request(format!(
                "VM namespace {other} does not match the one of the request, {namespace}"
            )));
        }
        _ => vm["metadata"]["namespace"] = json!(namespace),
    }
    Ok(vm)
}

/// A machine that refers to nothing is answered as it was written: reading it into types of ours could
/// lose a field.
async fn expand(types: &Types, vm: Value) -> Result<Answer, Failure> {
    let refers = |field: &str| !vm["spec"][field].is_null();
    if !refers("instancetype") && !refers("preference") {
        return Ok(json_answer(StatusCode::OK, &vm));
    }
    let typed: VirtualMachine = serde_json::from_value(vm)
        .map_err(|error| Failure::bad_request(format!("the machine cannot be read: {error}")))?;
    match types.expand(&typed).await {
        Ok(expanded) => Ok(json_answer(StatusCode::OK, &json!(expanded))),
        Err(ExpandError::Problem(problem)) => Err(Failure::bad_request(problem.to_string())),
        Err(error @ ExpandError::Cluster(_)) => Err(Failure::internal(error.to_string())),
    }
}

async fn raw<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, Failure>
where
    K: kube::Resource<DynamicType = kube::api::ApiResource>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    K: kube::Resource<Scope = kube::core::DynamicResourceScope>,
{
    let kind = kube::api::ApiResource::erase::<VirtualMachine>(&());
    let api: Api<K> = Api::namespaced_with(client.clone(), namespace, &kind);
    api.get_opt(name)
        .await
        .map_err(|error| Failure::internal(format!("cannot read {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_holds_a_machine_of_its_namespace() {
        let body = br#"{"kind":"VirtualMachine","metadata":{"name":"tl"},
            "spec":{"template":{},"running":true,"unknownToUs":1}}"#;
        let vm = machine_in("n", body).unwrap();
        assert_eq!(vm["metadata"]["namespace"], "n");
        assert_eq!(vm["spec"]["unknownToUs"], 1, "nothing is lost");
        let code = |body: &[u8]| machine_in("n", body).unwrap_err().code.as_u16();
        assert_eq!(code(b"{"), 400);
        assert_eq!(
            code(br#"{"metadata":{"namespace":"other"},"spec":{"template":{}}}"#),
            400
        );
    }
}
