//! Reviews as the API server sends them, and the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::cluster::Cluster;
use crate::metrics::Metrics;

const OWN: &str = "system:serviceaccount:kubevirt:vm-crd-controller";
const USER: &str = "alice";

struct Asked {
    kind: &'static str,
    operation: &'static str,
    user: &'static str,
    object: Value,
    old: Value,
}

impl Asked {
    fn create(kind: &'static str, spec: Value) -> Self {
        Self {
            kind,
            operation: "CREATE",
            user: USER,
            object: json!({ "metadata": { "name": "tl" }, "spec": spec }),
            old: Value::Null,
        }
    }

    fn update(kind: &'static str, old: Value, spec: Value) -> Self {
        let old = json!({ "metadata": { "name": "tl" }, "spec": old });
        Self {
            operation: "UPDATE",
            old,
            ..Self::create(kind, spec)
        }
    }

    fn json(&self) -> Value {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "0c9a8d74-9cb7-44dd-b98e-09fd62def2f4",
                "kind": { "group": "kubevirt.io", "version": "v1", "kind": self.kind },
                "resource": { "group": "kubevirt.io", "version": "v1", "resource": "x" },
                "operation": self.operation,
                "namespace": "default",
                "userInfo": { "username": self.user, "groups": ["system:authenticated"] },
                "object": self.object,
                "oldObject": self.old,
                "dryRun": false,
            },
        })
    }

    fn ask(&self, webhook: Webhook) -> Value {
        asked(webhook, &self.json())
    }

    fn validate(&self) -> Value {
        self.ask(Webhook::Validate)
    }

    /// The object after the mutating webhook.
    fn mutated(&self) -> Value {
        let response = self.ask(Webhook::Mutate);
        assert_eq!(response["allowed"], true, "{response}");
        let mut object = self.object.clone();
        if let Some(patch) = response.get("patch") {
            assert_eq!(response["patchType"], "JSONPatch");
            let patch: Vec<u8> = serde_json::from_value(patch.clone()).unwrap();
            let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
        }
        object
    }
}

/// Runs `what` with a reviewer whose API server is not there.
fn with_reviewer<T>(what: impl AsyncFnOnce(&Reviewer) -> T) -> T {
    counting(&Arc::default(), what)
}

/// The same; `asked` counts the requests to the API server.
fn counting<T>(asked: &Arc<AtomicUsize>, what: impl AsyncFnOnce(&Reviewer) -> T) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().unwrap();
    runtime.block_on(async {
        let asked = Arc::clone(asked);
        let nobody = service_fn(move |_: hyper::Request<kube::client::Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<Response<Full<Bytes>>, _>(std::io::Error::other(
                "nobody is there",
            )))
        });
        let client = kube::Client::new(nobody, "default");
        let types = Types::unwatched(Cluster::new(client, Metrics::new()));
        what(&Reviewer::new(OWN.to_owned(), types)).await
    })
}

fn asked(webhook: Webhook, review: &Value) -> Value {
    let body = review.to_string();
    let answer = with_reviewer(async |reviewer| reviewer.answer(webhook, body.as_bytes()).await);
    let answer = answer.unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    answer["response"].clone()
}

fn instance() -> Value {
    json!({
        "domain": {
            "memory": { "guest": "64Mi" },
            "devices": {
                "disks": [{ "name": "root", "disk": { "bus": "virtio" } }],
                "interfaces": [{ "name": "default", "masquerade": {} }],
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [{ "name": "root", "containerDisk": { "image": "a:1" } }],
    })
}

fn machine() -> Value {
    json!({ "runStrategy": "Always", "template": { "spec": instance() } })
}

#[test]
fn defaults_are_filled_in() {
    let filled = Asked::create("VirtualMachineInstance", instance()).mutated();
    let spec = &filled["spec"];
    assert_eq!(spec["architecture"], "amd64");
    assert_eq!(spec["domain"]["cpu"]["model"], "host-model");
    assert_eq!(
        spec["volumes"][0]["containerDisk"]["imagePullPolicy"],
        "IfNotPresent"
    );
    assert!(spec["domain"]["firmware"]["uuid"].is_string());
    assert_eq!(filled["metadata"]["name"], "tl");

    let filled = Asked::create("VirtualMachine", machine()).mutated();
    let template = &filled["spec"]["template"]["spec"];
    assert_eq!(template["domain"]["machine"]["type"], "q35");
    let firmware = template["domain"]["firmware"].clone();
    assert_ne!(firmware["uuid"], firmware["serial"]);
    assert_eq!(template["domain"].get("cpu"), None);
    // What is filled in is found right.
    let asked = Asked::create("VirtualMachine", filled["spec"].clone());
    assert_eq!(asked.validate()["allowed"], true);
    assert_eq!(asked.mutated(), asked.object, "once is enough");
}

#[test]
fn a_machine_stays_who_it_is() {
    let stored = Asked::create("VirtualMachine", machine()).mutated()["spec"].clone();
    let mut written = machine();
    written["runStrategy"] = "Halted".into();
    let updated = Asked::update("VirtualMachine", stored.clone(), written).mutated();
    let firmware = |spec: &Value| spec["template"]["spec"]["domain"]["firmware"].clone();
    assert_eq!(firmware(&updated["spec"]), firmware(&stored));
    // One that was stored without a name keeps that of its UID.
    let mut written = machine();
    written["runStrategy"] = "Halted".into();
    let updated = Asked::update("VirtualMachine", machine(), written).mutated();
    assert_eq!(firmware(&updated["spec"]), Value::Null);
}

#[test]
fn a_rejection_names_each_field() {
    let mut spec = machine();
    spec["template"]["spec"]["domain"]["devices"]["disks"][0]["name"] = "gone".into();
    spec["template"]["spec"]["domain"]["devices"]["sound"] = json!({ "name": "s", "model": "x" });
    let response = Asked::create("VirtualMachine", spec).validate();
    assert_eq!(response["allowed"], false);
    let status = &response["status"];
    assert_eq!(
        (&status["reason"], &status["code"]),
        (&json!("Invalid"), &json!(422))
    );
    let causes = status["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.template.spec.domain.devices.disks[0].name",
            "spec.template.spec.Sound",
        ]
    );
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "spec.template.spec.domain.devices.disks[0].name: no volume is called `gone`"
        ) && message.contains(", spec.template.spec.domain.devices.sound.model: `x` is none of"),
        "{message}"
    );
}

#[test]
fn what_does_not_work_is_a_warning() {
    let mut spec = instance();
    spec["domain"]["devices"]["interfaces"][0] = json!({ "name": "default", "sriov": {} });
    let response = Asked::create("VirtualMachineInstance", spec).validate();
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(
        response["warnings"],
        json!([
            "spec.domain.devices.interfaces[0].sriov: is not supported yet: use masquerade or bridge"
        ])
    );
    let hooks = json!({ "annotations": { "hooks.kubevirt.io/hookSidecars": "[]" } });
    let mut asked = Asked::create("VirtualMachineInstance", instance());
    asked.object["metadata"] = hooks.clone();
    let warning = "metadata.annotations.hooks.kubevirt.io/hookSidecars: is not supported yet: use \
                   cloud-init, or a pod of your own with sidecars";
    assert_eq!(asked.validate()["warnings"], json!([warning]));
    let mut spec = machine();
    spec["template"]["metadata"] = hooks;
    let response = Asked::create("VirtualMachine", spec).validate();
    let warning = format!("spec.template.{warning}");
    assert_eq!(response["warnings"], json!([warning]));
    let mut spec = machine();
    spec["template"]["spec"]["domain"]["memory"] = json!({});
    let response = Asked::create("VirtualMachine", spec).validate();
    assert_eq!(response["allowed"], true, "{response}");
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(
        warning.starts_with("spec.template.spec.domain.memory.guest: "),
        "{warning}"
    );
    let sound = Asked::create("VirtualMachine", machine()).validate();
    assert_eq!(sound.get("warnings"), None);
}

#[test]
fn whoever_makes_a_type_is_told_what_of_it_does_not_work() {
    let size = json!({ "cpu": { "guest": 1, "realtime": {} }, "memory": { "guest": "64Mi" } });
    let taste = json!({ "volumes": { "preferredStorageClassName": "fast" } });
    for (kind, spec, warning) in [
        (
            "VirtualMachineClusterInstancetype",
            size,
            "spec.cpu.realtime: is not supported yet: use dedicatedCpuPlacement with \
             isolateEmulatorThread",
        ),
        (
            "VirtualMachinePreference",
            taste,
            "spec.volumes.preferredStorageClassName: is not supported yet: make the claim \
             beforehand and use persistentVolumeClaim",
        ),
    ] {
        let mut review = Asked::create(kind, spec).json();
        review["request"]["kind"]["group"] = "instancetype.kubevirt.io".into();
        let response = asked(Webhook::Validate, &review);
        assert_eq!(response["allowed"], true, "{response}");
        assert_eq!(response["warnings"], json!([warning]));
    }
}

#[test]
fn an_instance_is_changed_by_the_controller_alone() {
    let mut changed = instance();
    changed["domain"]["memory"]["guest"] = "128Mi".into();
    let mut asked = Asked::update("VirtualMachineInstance", instance(), changed);
    let response = asked.validate();
    assert_eq!(
        response["status"]["message"],
        "update of VMI object is restricted"
    );
    assert_eq!(response["status"]["code"], 422);
    asked.user = OWN;
    assert_eq!(asked.validate()["allowed"], true);
    // It is never filled in after its creation.
    asked.user = USER;
    assert_eq!(asked.mutated(), asked.object);
}

#[test]
fn labels_finalizers_and_deletion_pass_whatever_the_spec_is() {
    let broken = || json!({ "domain": { "devices": { "disks": [{ "name": "gone" }] } } });
    for (kind, spec) in [
        ("VirtualMachineInstance", broken()),
        (
            "VirtualMachine",
            json!({ "template": { "spec": broken() } }),
        ),
    ] {
        let mut asked = Asked::update(kind, spec.clone(), spec);
        asked.object["metadata"]["labels"] = json!({ "a": "b" });
        asked.old["metadata"]["finalizers"] = json!(["x"]);
        assert_eq!(asked.validate()["allowed"], true, "{kind}");
        assert_eq!(asked.mutated(), asked.object);
        asked.object["spec"]["hostname"] = "other".into();
        assert_eq!(asked.validate()["allowed"], false, "{kind}");
        asked.object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(asked.validate()["allowed"], true, "{kind}");
        assert_eq!(asked.mutated(), asked.object);
    }
    let mut review = Asked::create("VirtualMachine", broken()).json();
    review["request"]["subResource"] = "status".into();
    assert_eq!(asked_of(&review)["allowed"], true);
    review["request"]["subResource"] = Value::Null;
    assert_eq!(asked_of(&review)["allowed"], false);
    review["request"]["operation"] = "DELETE".into();
    assert_eq!(asked_of(&review)["allowed"], true);
}

fn asked_of(review: &Value) -> Value {
    asked(Webhook::Validate, review)
}

#[test]
fn labels_of_the_controller_are_its_own() {
    let mut asked = Asked::create("VirtualMachineInstance", instance());
    asked.object["metadata"]["labels"] = json!({ "kubevirt.io/created-by": "x" });
    let response = asked.validate();
    assert_eq!(
        response["status"]["details"]["causes"][0]["field"],
        "metadata.labels"
    );
    let mut asked = Asked::update("VirtualMachineInstance", instance(), instance());
    asked.old["metadata"]["labels"] = json!({ "kubevirt.io/nodeName": "n" });
    let message = asked.validate()["status"]["message"].clone();
    assert!(
        message.as_str().unwrap().ends_with("kubevirt.io/nodeName"),
        "{message}"
    );
}

#[test]
fn a_spec_that_cannot_be_read_is_refused_and_left_as_it_is() {
    let asked = Asked::create("VirtualMachineInstance", json!({ "domain": [] }));
    assert_eq!(asked.mutated(), asked.object);
    let response = asked.validate();
    assert_eq!(
        response["status"]["details"]["causes"][0]["field"],
        "spec.domain"
    );
    let many: Vec<_> = (0..30_000).map(|_| json!({ "name": "a" })).collect();
    let asked = Asked::create("VirtualMachineInstance", json!({ "volumes": many }));
    assert_eq!(asked.mutated(), asked.object);
    let response = asked.validate();
    assert_eq!(response["status"]["details"]["causes"][0]["field"], "spec");
}

#[test]
fn thousands_of_mistakes_are_counted() {
    let probes: Vec<_> = (0..200)
        .map(|index| json!({ "name": format!("N{index}") }))
        .collect();
    let response = Asked::create("VirtualMachineInstance", json!({ "volumes": probes })).validate();
    let causes = response["status"]["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 33);
    let last = causes[32]["message"].as_str().unwrap();
    assert!(
        last.starts_with("and ") && last.ends_with(" more"),
        "{last}"
    );
}

/// Whether a machine with these references passes, and how often the API server is asked for it.
fn looked_up(references: Value, status: Value) -> (bool, usize) {
    let mut spec = machine();
    for (field, value) in references.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let mut sent = Asked::create("VirtualMachine", spec);
    sent.object["status"] = status;
    let (asked, body) = (Arc::default(), sent.json().to_string());
    let answer = counting(&asked, async |reviewer| {
        reviewer.answer(Webhook::Validate, body.as_bytes()).await
    });
    let answer: Value = serde_json::from_slice(&answer.unwrap()).unwrap();
    let allowed = answer["response"]["allowed"] == true;
    (allowed, asked.load(Ordering::Relaxed))
}

#[test]
fn only_what_a_machine_names_is_looked_up_and_it_may_be_missing() {
    let none = json!({});
    let table = [
        (json!({}), none.clone(), 0),
        (
            json!({ "instancetype": { "name": "small" } }),
            none.clone(),
            1,
        ),
        (
            json!({ "preference": { "name": "linux" } }),
            none.clone(),
            1,
        ),
        (
            json!({ "instancetype": { "inferFromVolume": "root" } }),
            none.clone(),
            0,
        ),
        (
            json!({ "instancetype": { "name": "small" }, "preference": { "inferFromVolume": "root" } }),
            none.clone(),
            0,
        ),
        // Names that are none would be another path.
        (
            json!({ "instancetype": { "name": "?watch=1" } }),
            none.clone(),
            0,
        ),
        (
            json!({ "preference": { "name": "a/../b" } }),
            none.clone(),
            0,
        ),
        (
            json!({ "instancetype": { "name": "a", "revisionName": "../pods/a" } }),
            none,
            0,
        ),
        (
            json!({ "instancetype": { "name": "small" } }),
            json!({ "instancetypeRef": { "name": "small",
                "kind": "virtualmachineclusterinstancetype",
                "controllerRevisionRef": { "name": "a?b" } } }),
            0,
        ),
        // A status that is none hides nothing.
        (
            json!({ "instancetype": { "name": "small" } }),
            json!([1]),
            1,
        ),
        (
            json!({ "instancetype": { "name": "small" } }),
            json!({ "volumeRequests": vec![json!({}); 1000] }),
            1,
        ),
    ];
    for (references, status, lookups) in table {
        let (allowed, asked) = looked_up(references.clone(), status);
        assert!(allowed, "{references}");
        assert_eq!(asked, lookups, "{references}");
    }
}

#[test]
fn other_kinds_pass() {
    assert_eq!(Asked::create("Pod", json!({})).validate()["allowed"], true);
}

#[test]
fn what_is_no_review_gets_a_status_of_http() {
    with_reviewer(no_review_gets_a_status);
}

async fn no_review_gets_a_status(reviewer: &Reviewer) {
    let large = vec![b' '; MAXIMUM_BYTES + 1];
    for (body, status) in [
        (&b"{}"[..], StatusCode::BAD_REQUEST),
        (b"\xff", StatusCode::BAD_REQUEST),
        (&large, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let response = reviewer.review(Webhook::Validate, body).await;
        assert_eq!(response.status(), status);
    }
    let body = Asked::create("VirtualMachine", machine())
        .json()
        .to_string();
    let response = reviewer.review(Webhook::Validate, body.as_bytes()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(serde_json::from_slice::<Value>(&body).is_ok());
}

/// All places in `value`, as JSON pointers.
fn places(value: &Value, at: &str) -> Vec<String> {
    let below: Vec<_> = match value {
        Value::Object(map) => map.iter().map(|(key, it)| (key.clone(), it)).collect(),
        Value::Array(list) => {
            let items = list.iter().enumerate();
            items.map(|(index, it)| (index.to_string(), it)).collect()
        }
        _ => Vec::new(),
    };
    let below = below.into_iter();
    let mut all: Vec<_> = below
        .flat_map(|(key, it)| places(it, &format!("{at}/{key}")))
        .collect();
    all.push(at.to_owned());
    all
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["-1", "99999999999999999999Ei", "a,b", "..", ""])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn bytes_are_answered_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for webhook in [Webhook::Mutate, Webhook::Validate] {
            with_reviewer(async |reviewer| reviewer.review(webhook, &body).await);
        }
    }

    #[test]
    fn a_review_with_something_else_in_it_is_answered(
        place: prop::sample::Index, value in anything(), update: bool, machine_kind: bool
    ) {
        let (kind, spec) = if machine_kind {
            ("VirtualMachine", machine())
        } else {
            ("VirtualMachineInstance", instance())
        };
        let sent = if update {
            Asked::update(kind, spec.clone(), spec)
        } else {
            Asked::create(kind, spec)
        };
        let mut json = sent.json();
        let all = places(&json["request"]["object"], "/request/object");
        *json.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        // Objects of the API server are objects.
        prop_assume!(json["request"]["object"].is_object());
        let mutated = asked(Webhook::Mutate, &json);
        prop_assert_eq!(&mutated["allowed"], true);
        if let Some(patch) = mutated.get("patch") {
            let patch: Vec<u8> = serde_json::from_value(patch.clone()).unwrap();
            let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
            json_patch::patch(&mut json["request"]["object"], &patch).unwrap();
            let again = asked(Webhook::Mutate, &json);
            prop_assert_eq!(again.get("patch"), None, "once is enough");
        }
        let said = asked(Webhook::Validate, &json);
        let message = said["status"]["message"].as_str().unwrap_or_default();
        prop_assert!(!message.contains(char::is_control), "{message:?}");
    }
}
