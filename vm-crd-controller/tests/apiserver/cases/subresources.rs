//! The subresource API as a client sees it, through the API server's aggregation layer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::{Method, Request};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::DeleteParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vm_api::v1::VirtualMachineInstance;

use crate::bench::{Bench, CONTROLLER_TOKEN, STRANGER_TOKEN};
use crate::controller::Controller;
use crate::network::ADDRESS;
use crate::space::{NAME, Space, template, until};

const GROUP: &str = "/apis/subresources.kubevirt.io/v1";

/// What a request was answered.
struct Answered {
    code: u16,
    body: Value,
}

impl Answered {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    fn is(&self, code: u16, message: &str) -> Result<()> {
        ensure!(
            self.code == code && self.message().contains(message),
            "{} {}, wanted {code} with {message:?}",
            self.code,
            self.body
        );
        Ok(())
    }
}

async fn ask(client: &Client, method: Method, path: &str, body: Value) -> Result<Answered> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    let answer = client.send(request.body(body.into_bytes().into())?).await?;
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await?;
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answered { code, body })
}

async fn get(client: &Client, path: &str) -> Result<Answered> {
    ask(client, Method::GET, path, Value::Null).await
}

/// A subresource of the case's machine or instance.
fn path(space: &Space, resource: &str, subresource: &str) -> String {
    format!(
        "{GROUP}/namespaces/{}/{resource}/{NAME}/{subresource}",
        space.namespace
    )
}

async fn vm(space: &Space, verb: &str, body: Value) -> Result<Answered> {
    let path = path(space, "virtualmachines", verb);
    ask(&space.client, Method::PUT, &path, body).await
}

async fn vmi(space: &Space, method: Method, subresource: &str) -> Result<Answered> {
    let path = path(space, "virtualmachineinstances", subresource);
    ask(&space.client, method, &path, Value::Null).await
}

/// Waits until the API server takes the group for available.
async fn available(bench: &Bench) -> Result<()> {
    until("the API is available", || async {
        for version in ["v1", "v1alpha3"] {
            let path = format!("/apis/subresources.kubevirt.io/{version}");
            let answer = get(&bench.client, &path).await?;
            ensure!(answer.code == 200, "{} {}", answer.code, answer.body);
        }
        Ok(())
    })
    .await
}

pub(crate) async fn discovered(bench: Arc<Bench>, _: String) -> Result<()> {
    available(&bench).await?;
    let group = get(&bench.client, "/apis/subresources.kubevirt.io").await?;
    ensure!(
        group.body["preferredVersion"]["version"] == "v1",
        "{}",
        group.body
    );
    let list = get(&bench.client, GROUP).await?;
    let resources = list.body["resources"].as_array().context("a list")?;
    let has = |name: &str| resources.iter().any(|resource| resource["name"] == name);
    ensure!(has("virtualmachineinstances/console") && !has("virtualmachines/migrate"));
    // Every user may ask for it.
    let stranger = bench.client_of(STRANGER_TOKEN);
    let version = get(&stranger, &format!("{GROUP}/version")).await?;
    let said = version.body["gitVersion"].as_str().unwrap_or_default();
    ensure!(said.starts_with("v1.9."), "{}", version.body);
    let api: Api<APIService> = Api::all(bench.client.clone());
    until("the APIService is available", || async {
        let service = api.get("v1.subresources.kubevirt.io").await?;
        let conditions = service.status.and_then(|status| status.conditions);
        let conditions = conditions.unwrap_or_default();
        ensure!(
            conditions
                .iter()
                .any(|c| c.type_ == "Available" && c.status == "True"),
            "{conditions:?}"
        );
        Ok(())
    })
    .await?;
    until("OpenAPI has the group", || async {
        let index = get(&bench.client, "/openapi/v3").await?;
        let path = "apis/subresources.kubevirt.io/v1";
        ensure!(index.body["paths"][path].is_object(), "it has it not");
        Ok(())
    })
    .await
}

pub(crate) async fn starts_and_stops(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    space.status("Stopped").await?;
    vm(&space, "start", json!({})).await?.is(202, "")?;
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Always"));
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    vm(&space, "start", Value::Null)
        .await?
        .is(409, "VM is already running")?;
    vm(&space, "stop", json!({})).await?.is(202, "")?;
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Halted"));
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    space.status("Stopped").await?;
    vm(&space, "stop", json!({}))
        .await?
        .is(409, "VM is not running")
}

pub(crate) async fn starts_paused(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    space.status("Stopped").await?;
    vm(&space, "start", json!({ "paused": true }))
        .await?
        .is(202, "")?;
    let instance = until("there is an instance", || space.vmi()).await?;
    ensure!(
        instance.spec.start_strategy.as_deref() == Some("Paused"),
        "{:?}",
        instance.spec
    );
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Always"));
    Ok(())
}

pub(crate) async fn restarts(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Manual", json!({})).await?;
    space.status("Stopped").await?;
    vm(&space, "restart", json!({}))
        .await?
        .is(409, "VM is not running")?;
    vm(&space, "start", json!({})).await?.is(202, "")?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    vm(&space, "restart", json!({})).await?.is(202, "")?;
    space.terminating(&pod).await?;
    space.node.finish(&pod, 0).await?;
    let next = space.another_pod(&pod).await?;
    space.node.run(&next).await?;
    space.status("Running").await?;
    vm(&space, "stop", json!({})).await?.is(202, "")?;
    space.terminating(&next).await?;
    space.node.finish(&next, 0).await?;
    space.status("Stopped").await?;
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Manual"));
    Ok(())
}

pub(crate) async fn stops_by_force(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space
        .machine("Always", json!({ "terminationGracePeriodSeconds": 300 }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    vm(&space, "stop", json!({ "gracePeriod": 0 }))
        .await?
        .is(202, "")?;
    until("the guest has no time left", || async {
        let pod = space.pods.get(&pod.name_any()).await?;
        let seconds = pod.metadata.deletion_grace_period_seconds;
        ensure!(seconds == Some(1), "it has {seconds:?}");
        Ok(())
    })
    .await?;
    space.node.finish(&pod, 137).await?;
    space.status("Stopped").await?;
    Ok(())
}

/// A machine's verbs do not reach an instance that has its name and is not its own.
pub(crate) async fn leaves_a_foreign_instance(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    let lone: VirtualMachineInstance = space
        .create(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": NAME }, "spec": template(json!({})),
        }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    space.phase("Running").await?;
    space.machine("Halted", json!({})).await?;
    let stop = vm(&space, "stop", json!({ "gracePeriod": 0 })).await?;
    stop.is(409, "VM is not running")?;
    let graph = get(
        &space.client,
        &path(&space, "virtualmachines", "objectgraph"),
    )
    .await?;
    ensure!(graph.code == 200, "{} {}", graph.code, graph.body);
    ensure!(
        !graph.body.to_string().contains(&pod.name_any()),
        "{}",
        graph.body
    );
    let left = space.pods.get(&pod.name_any()).await?;
    ensure!(left.metadata.deletion_timestamp.is_none(), "it was stopped");
    ensure!(space.vmi().await?.uid() == lone.uid(), "it was replaced");
    Ok(())
}

pub(crate) async fn wrong_states(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    vm(&space, "start", json!({}))
        .await?
        .is(404, "virtualmachine.kubevirt.io \"tl\" not found")?;
    let missing = "virtualmachineinstance.kubevirt.io \"tl\" not found";
    vmi(&space, Method::GET, "console")
        .await?
        .is(404, missing)?;
    vmi(&space, Method::PUT, "pause").await?.is(404, missing)?;
    space.machine("Halted", json!({})).await?;
    let halted = "RunStategy Halted does not support manual restart requests";
    vm(&space, "restart", json!({})).await?.is(409, halted)?;
    let port = path(&space, "virtualmachines", "portforward/22");
    get(&space.client, &port)
        .await?
        .is(409, "VMI is not started")?;
    vm(&space, "start", json!({ "pause": true }))
        .await?
        .is(400, "unknown field `pause`")?;
    vm(&space, "start", json!({})).await?.is(202, "")?;
    let pod = space.pod().await?;
    // Clients try again on 400, and on nothing else.
    let early = "phase is ";
    for stream in ["console", "vnc", "portforward/22", "vnc/screenshot"] {
        vmi(&space, Method::GET, stream).await?.is(400, early)?;
    }
    vmi(&space, Method::PUT, "pause")
        .await?
        .is(409, "VM is not running")?;
    vmi(&space, Method::PUT, "unpause")
        .await?
        .is(409, "VMI is not running")?;
    vmi(&space, Method::GET, "guestosinfo")
        .await?
        .is(409, "VMI is not running")?;
    space.node.run(&pod).await?;
    space.status("Running").await?;
    vmi(&space, Method::GET, "console")
        .await?
        .is(400, "websocket")?;
    vmi(&space, Method::GET, "portforward/x")
        .await?
        .is(400, "a port is a number")?;
    vmi(&space, Method::GET, "pause")
        .await?
        .is(405, "use PUT")?;
    // There is no kubelet behind this pod.
    vmi(&space, Method::PUT, "reset")
        .await?
        .is(500, "cannot enter the pod")
}

pub(crate) async fn refused_by_name(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    for verb in [
        "migrate",
        "addvolume",
        "removevolume",
        "memorydump",
        "removememorydump",
    ] {
        let named = format!("virtualmachines/{verb} is not supported");
        vm(&space, verb, json!({})).await?.is(405, &named)?;
    }
    vmi(&space, Method::GET, "usbredir")
        .await?
        .is(405, "USB redirection")?;
    vmi(&space, Method::GET, "vsock").await?.is(405, "vsock")?;
    vmi(&space, Method::PUT, "backup")
        .await?
        .is(405, "not supported")?;
    vmi(&space, Method::GET, "sev/fetchcertchain")
        .await?
        .is(405, "SEV")
}

pub(crate) async fn who_may_not(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    let stranger = bench.client_of(STRANGER_TOKEN);
    let start = path(&space, "virtualmachines", "start");
    let answer = ask(&stranger, Method::PUT, &start, json!({})).await?;
    answer.is(
        403,
        "User \"stranger\" cannot update resource \"virtualmachines/start\"",
    )?;
    // Who may see the screen may not take the picture of it, which has a name of its own.
    allow(&space, "virtualmachineinstances/vnc").await?;
    let shot = path(&space, "virtualmachineinstances", "vnc/screenshot");
    until("the right to vnc is known", || async {
        let vnc = path(&space, "virtualmachineinstances", "vnc");
        get(&stranger, &vnc).await?.is(404, "not found")
    })
    .await?;
    get(&stranger, &shot)
        .await?
        .is(403, "virtualmachineinstances/vnc/screenshot")?;
    // The built-in role has KubeVirt's: there is no controller here that would aggregate it.
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Halted"));
    Ok(())
}

/// Lets the stranger get a subresource in the namespace.
async fn allow(space: &Space, resource: &str) -> Result<()> {
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "stranger" },
        "rules": [{ "apiGroups": ["subresources.kubevirt.io"], "resources": [resource], "verbs": ["get"] }],
    });
    space.create::<Role>(role).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "stranger" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "stranger" },
        "subjects": [{ "kind": "User", "name": "stranger", "apiGroup": "rbac.authorization.k8s.io" }],
    });
    space.create::<RoleBinding>(binding).await?;
    Ok(())
}

pub(crate) async fn expanded(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    let answer = get(
        &space.client,
        &path(&space, "virtualmachines", "expand-spec"),
    )
    .await?;
    ensure!(
        answer.code == 200 && answer.body["kind"] == "VirtualMachine",
        "{}",
        answer.body
    );
    ensure!(answer.body["metadata"]["name"] == NAME, "{}", answer.body);
    let body = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": { "name": "x" },
        "spec": { "running": false, "template": { "spec": { "domain": {} } } },
    });
    let expand = format!("{GROUP}/namespaces/{}/expand-vm-spec", space.namespace);
    let answer = ask(&space.client, Method::PUT, &expand, body).await?;
    ensure!(
        answer.code == 200 && answer.body["spec"]["running"] == false,
        "{}",
        answer.body
    );
    let wrong = ask(&space.client, Method::PUT, &expand, json!({ "spec": 1 })).await?;
    wrong.is(400, "the request's body is no machine")?;
    // With an instance type, it is what the type makes of it.
    let _: vm_api::instancetype::VirtualMachineInstancetype = space
        .create(json!({
            "apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
            "metadata": { "name": "small" },
            "spec": { "cpu": { "guest": 2 }, "memory": { "guest": "192Mi" } },
        }))
        .await?;
    let typed = |memory: Value| {
        json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": { "name": "x" },
            "spec": {
                "running": false,
                "instancetype": { "name": "small", "kind": "VirtualMachineInstancetype" },
                "template": { "spec": { "domain": { "memory": memory } } },
            },
        })
    };
    let answer = ask(&space.client, Method::PUT, &expand, typed(Value::Null)).await?;
    let spec = &answer.body["spec"];
    let domain = &spec["template"]["spec"]["domain"];
    ensure!(
        spec["instancetype"].is_null()
            && domain["cpu"]["sockets"] == 2
            && domain["memory"]["guest"] == "192Mi",
        "{}",
        answer.body
    );
    let own = typed(json!({ "guest": "1Gi" }));
    let conflict = ask(&space.client, Method::PUT, &expand, own).await?;
    conflict.is(400, "spec.template.spec.domain.memory.guest: conflicts")
}

pub(crate) async fn graphed(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    let answer = get(
        &space.client,
        &path(&space, "virtualmachines", "objectgraph"),
    )
    .await?;
    let instance = &answer.body["children"][0];
    ensure!(
        instance["objectReference"]["kind"] == "VirtualMachineInstance",
        "{}",
        answer.body
    );
    let named = &instance["children"][0]["objectReference"]["name"];
    ensure!(*named == pod.name_any(), "{}", answer.body);
    Ok(())
}

pub(crate) async fn dry_runs(bench: Arc<Bench>, name: String) -> Result<()> {
    available(&bench).await?;
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    vm(&space, "start", json!({ "dryRun": ["All"] }))
        .await?
        .is(202, "")?;
    ensure!(space.vm().await?.spec.run_strategy.as_deref() == Some("Halted"));
    vm(&space, "start", json!({ "dryRun": ["Some"] }))
        .await?
        .is(400, "the only value is All")
}

/// Without the front proxy's certificate, nobody is believed, whatever they say that they are.
pub(crate) async fn not_by_the_front_door(bench: Arc<Bench>, _: String) -> Result<()> {
    available(&bench).await?;
    let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> =
        Api::namespaced(bench.client.clone(), "kubevirt");
    let slice = slices
        .list(&Default::default())
        .await?
        .items
        .pop()
        .context("a slice")?;
    let port = slice
        .ports
        .and_then(|ports| ports.first()?.port)
        .context("a port")?;
    let port = u16::try_from(port)?;
    let said = |path: &'static str| by_tls(port, path);
    ensure!(said("/healthz").await?.starts_with("HTTP/1.1 200"));
    let refused = said("/apis/subresources.kubevirt.io/v1/version").await?;
    ensure!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    ensure!(said("/metrics").await?.starts_with("HTTP/1.1 404"));
    // And not without TLS at all.
    let mut plain = TcpStream::connect((ADDRESS, port)).await?;
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    ensure!(!answer.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

/// What a client without certificate is answered, which claims to be an administrator.
async fn by_tls(port: u16, path: &str) -> Result<String> {
    let mut config = kube::Config::new(format!("https://{}:{port}", ADDRESS).parse()?);
    config.accept_invalid_certs = true;
    let client = Client::try_from(config)?;
    let request = Request::get(path)
        .header("x-remote-user", "admin")
        .header("x-remote-group", "system:masters");
    let answer = client.send(request.body(Vec::new().into())?).await?;
    Ok(format!("HTTP/1.1 {}", answer.status().as_u16()))
}

pub(crate) async fn the_policy_keeps_exec_to_verbs(bench: Arc<Bench>, name: String) -> Result<()> {
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Always", json!({})).await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let controller = bench.client_of(CONTROLLER_TOKEN);
    let enter = |container: &str, words: &[&str]| {
        let words: String = words
            .iter()
            .map(|word| format!("&command={word}"))
            .collect();
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/exec?container={container}&stdout=true{words}",
            space.namespace,
            pod.name_any()
        );
        let controller = controller.clone();
        async move { ask(&controller, Method::POST, &path, Value::Null).await }
    };
    let only = "only by a verb on the machine";
    enter("compute", &["sh"]).await?.is(422, only)?;
    enter("compute", &["sh", "vm:status"])
        .await?
        .is(422, only)?;
    enter("side", &["vm:status"])
        .await?
        .is(422, "only machines that it made")?;
    // What is left fails at the kubelet that is not there.
    let allowed = enter("compute", &["vm:status"]).await?;
    ensure!(allowed.code != 422, "{}", allowed.body);
    // Nor may it make itself a token of another service account of its namespace.
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "stolen", "annotations": { "kubernetes.io/service-account.name": "kubevirt-node" },
        },
    });
    let secrets = "/api/v1/namespaces/kubevirt/secrets";
    let answer = ask(&controller, Method::POST, secrets, token).await?;
    answer.is(422, "only the Secret with its certificates")
}

pub(crate) async fn two_replicas_serve_while_one_leads(
    bench: Arc<Bench>,
    name: String,
) -> Result<()> {
    let leader = Controller::start(&bench, "serving-1", &[]);
    let other = Controller::start(&bench, "serving-2", &[]);
    let space = Space::new(&bench.client, &name).await?;
    space.machine("Halted", json!({})).await?;
    space.status("Stopped").await?;
    // Each of them, on its own.
    for (controller, paused) in [(&leader, true), (&other, false)] {
        bench.lead_to(&[controller.api_port().await]).await;
        available(&bench).await?;
        let dry = json!({ "paused": paused, "dryRun": ["All"] });
        until("it serves", || async {
            vm(&space, "start", dry.clone()).await?.is(202, "")
        })
        .await?;
    }
    leader.stop();
    other.stop();
    Ok(())
}

pub(crate) async fn certificates_are_made_anew(bench: Arc<Bench>, _: String) -> Result<()> {
    let controller = Controller::start(&bench, "renewing", &[]);
    bench.lead_to(&[controller.api_port().await]).await;
    available(&bench).await?;
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), "kubevirt");
    let name = "vm-crd-controller-tls";
    let old = secrets.get(name).await?.data;
    let services: Api<APIService> = Api::all(bench.client.clone());
    let bundle = || async {
        let service = services.get("v1.subresources.kubevirt.io").await?;
        service
            .spec
            .and_then(|spec| spec.ca_bundle)
            .context("a bundle")
    };
    let before = bundle().await?;
    secrets.delete(name, &DeleteParams::default()).await?;
    until("another authority is told", || async {
        ensure!(bundle().await? != before, "it is the old one");
        Ok(())
    })
    .await?;
    ensure!(secrets.get(name).await?.data != old);
    // The same process serves with it. What was open under the old one may break once.
    tokio::time::sleep(Duration::from_millis(500)).await;
    available(&bench).await?;
    controller.stop();
    Ok(())
}
