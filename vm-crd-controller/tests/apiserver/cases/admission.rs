//! What is said to a user at once, while an object is applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use hyper::Request;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::Status;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vm_api::instancetype::VirtualMachineInstancetype;
use vm_api::v1::VirtualMachine;

use crate::bench::Bench;
use crate::controller::Controller;
use crate::space::{NAME, Space, template};
use crate::verdicts::{Answer, Case, Tally, cases};
use crate::webhooks::{Webhooks, listening};

/// A machine in which nothing fits.
fn broken() -> Value {
    json!({ "domain": { "devices": { "disks": [{ "name": "gone" }] } } })
}

async fn started(bench: &Bench, space: &Space) -> Result<Webhooks> {
    let webhooks = Webhooks::start(&bench.client).await?;
    listening(|| async {
        let spec = json!({ "runStrategy": "Halted", "template": { "spec": template(broken()) } });
        dry_run(space, "VirtualMachine", &spec).await.map(drop)?;
        Ok(())
    })
    .await?;
    Ok(webhooks)
}

/// What the API server says to an object with this spec, which it does not keep.
async fn dry_run(space: &Space, kind: &str, spec: &Value) -> Result<Value, kube::Error> {
    let plural = format!("{}s", kind.to_lowercase());
    let path = format!(
        "/apis/kubevirt.io/v1/namespaces/{}/{plural}?dryRun=All&fieldValidation=Strict",
        space.namespace
    );
    let object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": { "name": "dry" }, "spec": spec,
    });
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    space.client.request(request).await
}

/// Changes the case's machine, or its instance.
async fn merge<K>(api: &Api<K>, change: Value) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::default();
    api.patch(NAME, &params, &Patch::Merge(change)).await
}

fn refused<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> Result<Status> {
    match result {
        Err(kube::Error::Api(status)) => Ok(*status),
        other => Err(anyhow!("it is no refusal: {other:?}")),
    }
}

/// The verdicts, fields and defaults of a real KubeVirt, by way of schema and webhooks.
pub(crate) async fn as_kubevirt_judges(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let mut tally = Tally::default();
    for case in cases() {
        tally.add(&case, answer(&space, &case).await?);
    }
    webhooks.stop().await?;
    println!("{}", tally.finish().map_err(|said| anyhow!(said))?);
    Ok(())
}

async fn answer(space: &Space, case: &Case) -> Result<Answer> {
    match dry_run(space, &case.kind, &case.object).await {
        Ok(object) => Ok(Ok(object["spec"].clone())),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.map(|details| details.causes);
            let fields = causes.into_iter().flatten().map(|cause| cause.field);
            // The API server's remark that it did not come to look at rules of the schema.
            let fields = fields.filter(|field| field != "<nil>");
            Ok(Err(fields.collect::<BTreeSet<_>>()))
        }
        Err(error) => Err(error).context(format!("ask about {}", case.case)),
    }
}

pub(crate) async fn a_refusal_names_its_fields(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let spec = json!({ "runStrategy": "Halted", "template": { "spec": template(broken()) } });
    let status = refused(dry_run(&space, "VirtualMachine", &spec).await)?;
    webhooks.stop().await?;
    ensure!(
        (status.code, &*status.reason) == (422, "Invalid"),
        "{status:?}"
    );
    let said = "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: \
                spec.template.spec.domain.devices.disks[0].name: no volume is called `gone`";
    ensure!(status.message.starts_with(said), "{}", status.message);
    let causes = status.details.context("details")?.causes;
    let field = "spec.template.spec.domain.devices.disks[0].name";
    ensure!(
        causes.iter().any(|cause| cause.field == field),
        "{causes:?}"
    );
    Ok(())
}

pub(crate) async fn what_does_not_work_is_a_warning(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let interfaces = json!([{ "name": "default", "sriov": {} }]);
    let spec = template(json!({ "domain": { "devices": { "interfaces": interfaces } } }));
    let manifest = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": { "name": NAME, "namespace": space.namespace },
        "spec": { "runStrategy": "Halted", "template": { "spec": spec } },
    });
    let said = bench.kubectl_apply(&manifest)?;
    webhooks.stop().await?;
    let warning = "Warning: spec.template.spec.domain.devices.interfaces[0].sriov: is not \
                   supported yet: use masquerade or bridge";
    ensure!(said.contains(warning), "{said}");
    let board = space.vm().await?.spec.template.spec.context("a template")?;
    let board = board.domain.machine.context("a board")?;
    ensure!(board.r#type.as_deref() == Some("q35"), "{board:?}");
    Ok(())
}

/// An instance type that is there is looked into; one that is not may still come.
pub(crate) async fn a_machine_goes_together_with_its_type(
    bench: Arc<Bench>,
    name: String,
) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let kind = "VirtualMachineInstancetype";
    let _: VirtualMachineInstancetype = space
        .create(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind,
            "metadata": { "name": "small" },
            "spec": { "cpu": { "guest": 1 }, "memory": { "guest": "192Mi" } },
        }))
        .await?;
    let spec = |named: &str| {
        json!({
            "runStrategy": "Halted", "template": { "spec": template(json!({})) },
            "instancetype": { "name": named, "kind": kind },
        })
    };
    let conflict = refused(dry_run(&space, "VirtualMachine", &spec("small")).await)?;
    let field = "spec.template.spec.domain.memory.guest";
    let causes = conflict.details.context("details")?.causes;
    let named: Vec<_> = causes.iter().map(|cause| &*cause.field).collect();
    ensure!(named == [field], "{causes:?}");
    let mut fitting = spec("small");
    fitting["template"]["spec"]["domain"]["memory"] = Value::Null;
    dry_run(&space, "VirtualMachine", &fitting).await?;
    dry_run(&space, "VirtualMachine", &spec("absent")).await?;
    // One that was stored before its type came stays changeable but for its spec, until that fits.
    let _: VirtualMachine = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": NAME }, "spec": spec("absent"),
        }))
        .await?;
    let _: VirtualMachineInstancetype = space
        .create(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind,
            "metadata": { "name": "absent" },
            "spec": { "cpu": { "guest": 1 }, "memory": { "guest": "192Mi" } },
        }))
        .await?;
    let patch = |change: Value| merge(&space.vms, change);
    patch(json!({ "metadata": { "labels": { "team": "web" } } })).await?;
    let always = json!({ "spec": { "runStrategy": "Always" } });
    refused(patch(always.clone()).await)?;
    let open = json!({ "domain": { "memory": null } });
    patch(json!({ "spec": { "template": { "spec": open } } })).await?;
    patch(always).await?;
    space.vms.delete(NAME, &DeleteParams::default()).await?;
    webhooks.stop().await
}

pub(crate) async fn an_instance_stays_as_it_is(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let controller = Controller::start(&bench, "beside-webhooks", &[]);
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    let patch = |change: Value| merge(&space.vmis, change);
    let status = refused(patch(json!({ "spec": { "hostname": "other" } })).await)?;
    ensure!(
        status
            .message
            .ends_with("update of VMI object is restricted"),
        "{status:?}"
    );
    patch(json!({ "metadata": { "labels": { "mine": "yes" } } })).await?;
    let reserved = json!({ "metadata": { "labels": { "kubevirt.io/nodeName": "mine" } } });
    let status = refused(patch(reserved).await)?;
    ensure!(
        status.message.contains("kubevirt.io/nodeName"),
        "{status:?}"
    );
    space.delete().await?;
    controller.stop();
    webhooks.stop().await
}

pub(crate) async fn nothing_stops_without_the_webhooks(
    bench: Arc<Bench>,
    name: String,
) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    webhooks.fall_silent();
    let controller = Controller::start(&bench, "without-webhooks", &[]);
    space.machine("Always", broken()).await?;
    let said = space
        .condition("Synchronized", "False", "InvalidSpec")
        .await?;
    let path = "spec.domain.devices.disks[0].name";
    let message = said.message.unwrap_or_default();
    ensure!(message.contains(path), "{message}");
    let disks = json!([{ "name": "root" }]);
    let mended = json!({ "domain": { "devices": { "disks": disks } } });
    space
        .patch(json!({ "template": { "spec": mended } }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    space.delete().await?;
    controller.stop();
    webhooks.stop().await
}

/// Replica sets, pools, instance types and preferences are judged at once, too.
pub(crate) async fn replicas_and_types(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    let webhooks = started(&bench, &space).await?;
    let labels = json!({ "labels": { "app": "web" } });
    let instance = json!({ "metadata": labels, "spec": template(json!({})) });
    let machine =
        json!({ "metadata": labels, "spec": { "runStrategy": "Always", "template": instance } });
    let other = json!({ "matchLabels": { "app": "other" } });
    let own = json!({ "matchLabels": { "app": "web" } });
    let spread = json!({ "preferredCPUTopology": "spread",
        "spreadOptions": { "across": "CoresThreads", "ratio": 4 } });
    let nothing = json!({ "cpu": { "guest": 0 }, "memory": { "guest": "1Gi" } });
    let table = [
        (
            "kubevirt.io/v1",
            "VirtualMachineInstanceReplicaSet",
            json!({ "selector": other, "template": instance }),
            "spec.selector",
        ),
        (
            "pool.kubevirt.io/v1alpha1",
            "VirtualMachinePool",
            json!({ "selector": own, "virtualMachineTemplate": machine, "maxUnavailable": "some" }),
            "spec.maxUnavailable",
        ),
        (
            "instancetype.kubevirt.io/v1beta1",
            "VirtualMachineInstancetype",
            nothing,
            "spec.cpu.guest",
        ),
        (
            "instancetype.kubevirt.io/v1beta1",
            "VirtualMachinePreference",
            json!({ "cpu": spread }),
            "spec.cpu.spreadOptions.ratio",
        ),
    ];
    let mut wrong = Vec::new();
    for (version, kind, spec, field) in table {
        let path = format!(
            "/apis/{version}/namespaces/{}/{}s?dryRun=All",
            space.namespace,
            kind.to_lowercase()
        );
        let object = json!({ "apiVersion": version, "kind": kind,
            "metadata": { "name": "dry" }, "spec": spec });
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(object.to_string().into_bytes())?;
        let answer = space.client.request::<Value>(request).await;
        let named = match &answer {
            Err(kube::Error::Api(status)) => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                causes.into_iter().any(|cause| cause.field == field)
            }
            _ => false,
        };
        if !named {
            wrong.push(format!("{kind}, {field}: {answer:?}"));
        }
    }
    webhooks.stop().await?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
