//! The Helm chart without a cluster: it installs what the plain manifests install, refuses what is wrong
//! by name, and its rules are rules.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::chart;
use crate::cluster::{self, ChartTools};
use crate::command;

/// Options beside the defaults that take part in a rendering.
type Options = &'static [&'static str];

const EVERYTHING: Options = &[
    "monitoring.serviceMonitor.install=true",
    "monitoring.prometheusRule.install=true",
    "monitoring.prometheusRule.severities.critical=page",
    "monitoring.prometheusRule.runbookURL=https://wiki.example/kubevirt",
    "monitoring.dashboard.install=true",
    "controller.image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "controller.log.level=debug",
    "controller.log.format=text",
    "controller.priorityClassName=",
    "controller.extraArgs[0]=--lease-seconds=30",
    "controller.tolerations[0].operator=Exists",
    "node.config=[log]\nlevel = \"debug\"\n",
    "node.tolerations=null",
    "node.image.repository=registry.example/kubevirt/node-installer",
    "node.image.tag=v1",
    "imagePullSecrets[0].name=registry",
    "traces.endpoint=http://otel-collector:4318",
    "traces.all=true",
];

/// Values that are wrong, and the word that the refusal names.
const WRONG: [(&str, &str); 9] = [
    ("controller.replicas=0", "replicas"),
    ("controller.replica=1", "replica"),
    ("controller.image.repository=Upper/Case", "repository"),
    ("controller.image.pullPolicy=Sometimes", "pullPolicy"),
    ("controller.log.format=xml", "format"),
    ("runtimeClass.overhead.kvm=lots", "kvm"),
    ("traces.endpoint=https://collector", "endpoint"),
    ("monitoring.serviceMonitor.interval=often", "interval"),
    ("node.tolerations[0].effect=Never", "effect"),
];

/// Everything that can be told of the chart without a cluster.
pub(super) fn check() -> Result<()> {
    let tools = cluster::chart_tools()?;
    chart::check()?;
    let directory = chart::directory();
    command::run(
        helm(&tools)
            .args(["lint", "--strict", "--namespace=kubevirt"])
            .arg(&directory),
    )?;
    for (options, overlay) in [
        (&[][..], ""),
        (&["runtimeClass.emulation=true"][..], "overlays/emulation"),
    ] {
        same_as_plain(&tools, options, overlay)
            .with_context(|| format!("the chart with {options:?} beside runtimeclass/{overlay}"))?;
    }
    everything_chosen(&tools)?;
    what_is_left_out(&tools)?;
    for (value, word) in WRONG {
        refused(&tools, "kubevirt", value, word)?;
    }
    refused(
        &tools,
        "elsewhere",
        "controller.replicas=1",
        "the namespace kubevirt",
    )?;
    let files = directory.join("files");
    command::run(
        Command::new(tools.prometheus_rules.join("prometheus-rules"))
            .args([files.join("rules.yaml"), files.join("dashboard.json")]),
    )
}

fn helm(tools: &ChartTools) -> Command {
    Command::new(tools.helm.join("helm"))
}

fn template(tools: &ChartTools, namespace: &str, options: &[&str]) -> Command {
    let mut command = helm(tools);
    command.args([
        "template",
        "kubevirt",
        "--kube-version=1.34.0",
        "--namespace",
        namespace,
    ]);
    command.arg(chart::directory());
    for option in options {
        command.args(["--set", option]);
    }
    command
}

/// Objects by kind and name.
type Objects = BTreeMap<String, Value>;

fn objects(text: &str) -> Result<Objects> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).context("read what was rendered")?;
    let mut found = Objects::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = format!("{} {}", object["kind"].as_str().unwrap_or_default(), name);
        ensure!(
            found.insert(key.clone(), object).is_none(),
            "{key} is there twice"
        );
    }
    Ok(found)
}

/// What the chart makes is what the manifests say, but for what only Helm needs.
fn same_as_plain(tools: &ChartTools, options: &[&str], overlay: &str) -> Result<()> {
    let rendered = command::output(&mut template(tools, "kubevirt", options))?;
    let root = chart::directory();
    let root = root.parent().unwrap_or(Path::new("."));
    let mut kustomize = Command::new(tools.kubernetes.join("kubectl"));
    let plain = command::output(kustomize.arg("kustomize").arg(root.join(overlay)))?;
    let mut charts = normal(objects(&rendered)?, true);
    let plain = normal(objects(&plain)?, false);
    ensure!(
        plain.len() > 10,
        "the manifests make only {:?}",
        plain.keys()
    );
    for (key, wanted) in &plain {
        let made = charts
            .remove(key)
            .with_context(|| format!("the chart has no {key}"))?;
        if let Some(place) = difference(wanted, &made, String::new()) {
            bail!("{key} differs at {place}");
        }
    }
    ensure!(charts.is_empty(), "only the chart has {:?}", charts.keys());
    Ok(())
}

/// Without what is not to be compared: the namespace, hooks, what keeps types, and the names that follow
/// from the configuration's content.
fn normal(objects: Objects, chart: bool) -> Objects {
    let mut found = Objects::new();
    for (key, mut object) in objects {
        let annotations = &object["metadata"]["annotations"];
        if key.starts_with("Namespace ") || annotations["helm.sh/hook"].is_string() {
            continue;
        }
        if annotations["helm.sh/resource-policy"] == "keep" {
            let annotations = object["metadata"]["annotations"].as_object_mut();
            annotations.map(|all| all.remove("helm.sh/resource-policy"));
            if object["metadata"]["annotations"] == json!({}) {
                object["metadata"]
                    .as_object_mut()
                    .map(|all| all.remove("annotations"));
            }
        }
        let configuration = "kubevirt-node-";
        let is_configuration = key.starts_with(&format!("ConfigMap {configuration}"));
        if is_configuration && chart {
            object["metadata"]
                .as_object_mut()
                .map(|all| all.remove("labels"));
        }
        found.insert(key, object);
    }
    let names: Vec<_> = found
        .keys()
        .filter_map(|key| key.strip_prefix("ConfigMap "))
        .collect();
    let [name] = names[..] else {
        return found;
    };
    let name = name.to_owned();
    let text = Value::Object(found.into_iter().collect()).to_string();
    let text = text.replace(&name, "kubevirt-node-CONTENT");
    serde_json::from_str(&text).unwrap_or_default()
}

/// The first place in which two values differ.
fn difference(wanted: &Value, made: &Value, place: String) -> Option<String> {
    match (wanted, made) {
        (Value::Object(a), Value::Object(b)) => {
            let more = b.keys().filter(|key| !a.contains_key(*key));
            let mut keys = a.keys().chain(more);
            keys.find_map(|key| difference(&wanted[key], &made[key], format!("{place}/{key}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(index, (a, b))| difference(a, b, format!("{place}/{index}")))
        }
        // kustomize breaks lines of folded text anew.
        (Value::String(a), Value::String(b)) if a.split_whitespace().eq(b.split_whitespace()) => {
            None
        }
        (a, b) if a == b => None,
        (a, b) => Some(format!("{place}: {a} in the manifests, {b} in the chart")),
    }
}

/// With every option used, each is to be seen.
fn everything_chosen(tools: &ChartTools) -> Result<()> {
    let text = command::output(&mut template(tools, "kubevirt", EVERYTHING))?;
    let objects = objects(&text)?;
    let at = |key: &str, pointer: &str| {
        let object = objects
            .get(key)
            .with_context(|| format!("no {key} was rendered"))?;
        let value = object.pointer(pointer);
        Ok::<_, anyhow::Error>(value.cloned().unwrap_or_default())
    };
    let pod = "/spec/template/spec";
    let controller = "Deployment vm-crd-controller";
    let node = "DaemonSet kubevirt-node";
    let image = at(controller, &format!("{pod}/containers/0/image"))?;
    let digest = "kubevirt.local/controller@sha256:0123456789abcdef";
    ensure!(
        image.as_str().is_some_and(|it| it.starts_with(digest)),
        "{image}"
    );
    let arguments = at(controller, &format!("{pod}/containers/0/args"))?.to_string();
    for argument in [
        "--placeholder-image=registry.example/kubevirt/node-installer:v1",
        "--log-format=text",
        "--otlp-endpoint=http://otel-collector:4318",
        "--trace-all",
        "--lease-seconds=30",
    ] {
        ensure!(
            arguments.contains(argument),
            "{argument} is not in {arguments}"
        );
    }
    let environment = at(controller, &format!("{pod}/containers/0/env"))?.to_string();
    ensure!(
        environment.contains("RUST_LOG") && environment.contains("POD_NAME"),
        "{environment}"
    );
    for (key, pointer, wanted) in [
        (controller, format!("{pod}/priorityClassName"), Value::Null),
        (
            controller,
            format!("{pod}/tolerations/0/operator"),
            json!("Exists"),
        ),
        (
            controller,
            format!("{pod}/imagePullSecrets/0/name"),
            json!("registry"),
        ),
        (
            node,
            format!("{pod}/imagePullSecrets/0/name"),
            json!("registry"),
        ),
        (node, format!("{pod}/tolerations"), Value::Null),
        (
            "PrometheusRule kubevirt",
            "/spec/groups/2/rules/0/labels/severity".to_owned(),
            json!("page"),
        ),
        (
            "PrometheusRule kubevirt",
            "/spec/groups/2/rules/0/annotations/runbook_url".to_owned(),
            json!("https://wiki.example/kubevirt#alert-the-controller-is-down"),
        ),
        (
            "ServiceMonitor vm-crd-controller",
            "/spec/endpoints/0/port".to_owned(),
            json!("metrics"),
        ),
        (
            "Job kubevirt-uninstall",
            "/metadata/annotations/helm.sh~1hook".to_owned(),
            json!("pre-delete"),
        ),
    ] {
        let seen = at(key, &pointer)?;
        ensure!(
            seen == wanted,
            "{key} has {seen} at {pointer}, not {wanted}"
        );
    }
    let dashboard = at("ConfigMap kubevirt-dashboard", "/data/kubevirt.json")?;
    let dashboard: Value = serde_json::from_str(dashboard.as_str().unwrap_or_default())?;
    ensure!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 5)
    );
    let configured = objects.iter().any(|(key, object)| {
        key.starts_with("ConfigMap kubevirt-node-")
            && object["data"]["config.toml"] == "[log]\nlevel = \"debug\"\n"
    });
    ensure!(configured, "the nodes' configuration is not the one given");
    Ok(())
}

/// Parts that a user may do without are there, and are not if so chosen.
fn what_is_left_out(tools: &ChartTools) -> Result<()> {
    for (option, kind) in [
        ("crds.install", "CustomResourceDefinition"),
        ("webhooks.install", "ValidatingWebhookConfiguration"),
        ("webhooks.install", "MutatingWebhookConfiguration"),
        ("apiServices.install", "APIService"),
        ("uninstall.hook", "Job"),
    ] {
        for wanted in [true, false] {
            let chosen = format!("{option}={wanted}");
            let text = command::output(&mut template(tools, "kubevirt", &[&chosen]))?;
            let kind = format!("{kind} ");
            let there = objects(&text)?.keys().any(|key| key.starts_with(&kind));
            ensure!(there == wanted, "with {chosen}: {kind}is there: {there}");
        }
    }
    Ok(())
}

fn refused(tools: &ChartTools, namespace: &str, value: &str, word: &str) -> Result<()> {
    match command::output(&mut template(tools, namespace, &[value])) {
        Ok(_) => bail!("the chart takes {value} in the namespace {namespace}"),
        Err(error) if error.to_string().contains(word) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{word} is not named")),
    }
}
