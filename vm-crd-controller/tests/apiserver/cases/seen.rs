//! What the controller shows besides objects: metrics, traces, and whether the product may go.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::Bench;
use crate::controller::Controller;
use crate::space::{NAME, Space, template, until};

/// What the controller answers to a scrape.
async fn scrape(controller: &Controller) -> Result<String> {
    let log = controller.log();
    let address = log
        .lines()
        .filter(|line| line.contains("serving health and metrics"))
        .find_map(|line| line.split("address=").nth(1))
        .context("it does not say where it serves")?;
    let mut stream = TcpStream::connect(address.trim().trim_matches('"')).await?;
    let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until the machine waits for its instance when it is deleted.
async fn held(space: &Space) -> Result<()> {
    until("the machine is held by its finalizer", || async {
        ensure!(!space.vm().await?.finalizers().is_empty(), "it is not");
        Ok(())
    })
    .await
}

pub(crate) async fn metrics_follow_a_machine(bench: Arc<Bench>, name: String) -> Result<()> {
    let controller = Controller::start(&bench, "metrics", &["--lease-seconds=4"]);
    let space = Space::new(&bench.client, &name).await?;
    let own = format!("name=\"{NAME}\",namespace=\"{}\"", space.namespace);
    let lines = |metrics: &str| -> Vec<String> {
        let about = metrics
            .lines()
            .filter(|line| line.contains(&space.namespace));
        about.map(str::to_owned).collect()
    };
    let pod = space.running("Always").await?;
    space.phase("Running").await?;
    until("a scrape tells of the machine that runs", || async {
        let metrics = scrape(&controller).await?;
        let told = lines(&metrics);
        let has = |begin: &str, part: &str| {
            told.iter()
                .any(|line| line.starts_with(begin) && line.contains(part))
        };
        ensure!(has("kubevirt_vm_info", "status=\"Running\""), "{told:#?}");
        ensure!(has("kubevirt_vmi_info", "phase=\"running\""), "{told:#?}");
        let vmi_pod = format!("vmi_pod=\"{}\"", pod.name_any());
        ensure!(has("kubevirt_vmi_info", &vmi_pod), "{told:#?}");
        ensure!(has("kubevirt_number_of_vms", "} 1"), "{told:#?}");
        let since = "kubevirt_vm_running_status_last_transition_timestamp_seconds";
        let zero = format!("{since}{{{own}}} 0.0");
        ensure!(has(since, &own) && !told.contains(&zero), "{told:#?}");
        let counted =
            "kubevirt_vmi_phase_transition_time_from_creation_seconds_count{phase=\"Running\"}";
        ensure!(metrics.contains(counted), "{metrics}");
        Ok(())
    })
    .await?;
    held(&space).await?;
    space.delete().await?;
    until("a scrape knows nothing of it any more", || async {
        let told = lines(&scrape(&controller).await?);
        ensure!(told.is_empty(), "{told:#?}");
        Ok(())
    })
    .await?;
    controller.stop();
    Ok(())
}

/// The next document that a collector gets.
async fn collect(collector: &TcpListener) -> Result<Value> {
    let (mut stream, _) = collector.accept().await?;
    let mut text = Vec::new();
    loop {
        let mut chunk = vec![0; 1 << 14];
        let read = stream.read(&mut chunk).await?;
        ensure!(read > 0, "it hangs up: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&chunk[..read]);
        let whole = String::from_utf8_lossy(&text);
        if let Some((_, body)) = whole.split_once("\r\n\r\n")
            && let Ok(document) = serde_json::from_str(body)
        {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.write_all(answer).await?;
            return Ok(document);
        }
    }
}

pub(crate) async fn traces_who_asks(bench: Arc<Bench>, name: String) -> Result<()> {
    let collector = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("--otlp-endpoint=http://{}", collector.local_addr()?);
    let controller = Controller::start(&bench, "traces", &["--lease-seconds=4", &endpoint]);
    // Who does not ask has no trace.
    let quiet = Space::new(&bench.client, &format!("{name}-quiet")).await?;
    let pod = quiet.running("Always").await?;
    ensure!(!pod.annotations().contains_key("kubevirt.io/traceparent"));
    held(&quiet).await?;
    quiet.delete().await?;

    let space = Space::new(&bench.client, &name).await?;
    space
        .create::<vm_api::v1::VirtualMachine>(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": { "name": NAME },
            "spec": { "runStrategy": "Always", "template": {
                "metadata": { "annotations": { "kubevirt.io/trace": "true" } },
                "spec": template(json!({})),
            } },
        }))
        .await?;
    let pod = space.pod().await?;
    space.node.run(&pod).await?;
    let vmi = space.phase("Running").await?;
    let trace = vmi.uid().context("a UID")?.replace('-', "");
    let parent = pod.annotations().get("kubevirt.io/traceparent");
    let parent: vm_api::TraceParent = parent.context("the pod has no trace")?.parse()?;
    ensure!(parent.trace() == trace, "{parent} is not of {trace}");
    let mut spans: Vec<Value> = Vec::new();
    while !spans.iter().any(|span| span["name"] == "start") {
        let document =
            tokio::time::timeout(std::time::Duration::from_secs(20), collect(&collector));
        let document = document
            .await
            .with_context(|| format!("only {spans:#?}"))??;
        let sent = document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array();
        spans.extend(sent.cloned().context("spans")?);
    }
    for name in ["create-pod", "Pending", "Scheduling", "Scheduled", "start"] {
        let named: Vec<_> = spans.iter().filter(|span| span["name"] == name).collect();
        let [span] = named[..] else {
            bail!("{name} is there {} times: {spans:#?}", named.len());
        };
        ensure!(span["traceId"] == trace, "{span:#}");
        let (id, above) = match name {
            "start" => (&span["spanId"], &span["parentSpanId"]),
            _ => (&span["parentSpanId"], &json!("")),
        };
        ensure!(
            *id == json!(parent.span()) && *above == json!(""),
            "{span:#}"
        );
    }
    ensure!(spans.len() == 5, "{spans:#?}");
    held(&space).await?;
    space.delete().await?;
    controller.stop();
    Ok(())
}

pub(crate) async fn keeps_the_product(bench: Arc<Bench>, name: String) -> Result<()> {
    let controller = Controller::start(&bench, "keeps", &["--lease-seconds=4"]);
    let maps: Api<ConfigMap> = Api::namespaced(bench.client.clone(), "kubevirt");
    let space = Space::new(&bench.client, &name).await?;
    space.running("Always").await?;
    let said = |key: &'static str| {
        let maps = maps.clone();
        async move {
            let map = maps.get("kubevirt-in-use").await?;
            let data = map.data.unwrap_or_default();
            Ok::<_, anyhow::Error>(data.get(key).cloned().unwrap_or_default())
        }
    };
    until("it says that machines run", || async {
        let running = said("running").await?;
        ensure!(running == "true", "it says {running}");
        Ok(())
    })
    .await?;
    let crds: Api<CustomResourceDefinition> = Api::all(bench.client.clone());
    let namespaces: Api<Namespace> = Api::all(bench.client.clone());
    let dry = DeleteParams {
        dry_run: true,
        ..DeleteParams::default()
    };
    // The policy knows its parameter a moment later.
    until("nobody takes the product away", || async {
        for deleted in [
            crds.delete("virtualmachines.kubevirt.io", &dry)
                .await
                .map(drop),
            namespaces.delete("kubevirt", &dry).await.map(drop),
        ] {
            let error = deleted.err().context("it may go")?.to_string();
            ensure!(
                error.contains("kubevirt.io/force-uninstall=true"),
                "{error}"
            );
        }
        Ok(())
    })
    .await?;
    let force = |value: Value| {
        let annotations = json!({ "kubevirt.io/force-uninstall": value });
        let patch = json!({ "metadata": { "annotations": annotations } });
        let maps = maps.clone();
        async move {
            let patch = Patch::Merge(patch);
            maps.patch("kubevirt-in-use", &PatchParams::default(), &patch)
                .await
        }
    };
    force(json!("true")).await?;
    until("whoever forces it may", || async {
        crds.delete("virtualmachines.kubevirt.io", &dry).await?;
        Ok(())
    })
    .await?;
    force(Value::Null).await?;
    held(&space).await?;
    space.delete().await?;
    controller.stop();
    Ok(())
}
