//! The trace of one start: what is traced, by which ids, and the spans that follow from a status.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};
use vm_api::TraceParent;
use vm_api::contract::{TRACE_ANNOTATION, TRACE_PARENT_ANNOTATION};
use vm_api::v1::{Phase, VirtualMachineInstance, VirtualMachineInstanceStatus};

use super::otlp::{nanoseconds, span};
use crate::machine::digest;

/// The span of the whole start, of which all others are parts.
const START: &str = "start";

/// OTLP's codes of a span's status.
const OK: u8 = 1;
const ERROR: u8 = 2;

/// The trace of an instance's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    uid: String,
    /// The span of the whole start.
    own: TraceParent,
    /// The span that it is part of, if the instance names one.
    parent: Option<TraceParent>,
}

impl Start {
    /// The trace of `instance`, if it asks for one or `all` are traced.
    pub fn of(instance: &VirtualMachineInstance, all: bool) -> Option<Self> {
        let annotations = instance.annotations();
        let parent = annotations.get(TRACE_PARENT_ANNOTATION);
        let parent: Option<TraceParent> = parent.and_then(|header| header.parse().ok());
        let asked = annotations.get(TRACE_ANNOTATION).map(String::as_str) == Some("true");
        if parent.is_none() && !asked && !all {
            return None;
        }
        let uid = instance.uid()?;
        let trace = parent.map_or_else(|| trace_of(&uid), |parent| parent.trace_number());
        let own = TraceParent::new(trace, digest(&[&uid, START]).max(1))?;
        Some(Self { uid, own, parent })
    }

    /// What the shim's spans are parts of.
    pub fn parent_of_pod(&self) -> TraceParent {
        self.own
    }

    /// The span of something that this controller did.
    pub fn step(&self, name: &'static str, begin: SystemTime, end: SystemTime) -> Value {
        let since = |time: SystemTime| {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            since.as_nanos().to_string()
        };
        self.part(name, since(begin), since(end))
    }

    /// The spans of a start that a written status, after `old`, tells the end of.
    pub fn spans(
        &self,
        instance: &VirtualMachineInstance,
        new: &VirtualMachineInstanceStatus,
    ) -> Vec<Value> {
        if instance.status.as_ref().is_some_and(has_ended) || !has_ended(new) {
            return Vec::new();
        }
        let entries = new.phase_transition_timestamps.iter();
        let phases: Vec<(Phase, &Time)> = entries
            .filter_map(|entry| Some((entry.phase?, entry.phase_transition_timestamp.as_ref()?)))
            .collect();
        let Some(end) = phases.iter().find(|(phase, _)| ends(*phase)) else {
            return Vec::new();
        };
        let begin = instance
            .metadata
            .creation_timestamp
            .as_ref()
            .unwrap_or(end.1);
        let mut whole = span(
            &self.own,
            self.parent.as_ref(),
            START,
            nanoseconds(begin),
            nanoseconds(end.1),
        );
        let text =
            |key: &str, value: String| json!({ "key": key, "value": { "stringValue": value } });
        whole["attributes"] = json!([
            text(
                "k8s.namespace.name",
                instance.namespace().unwrap_or_default()
            ),
            text("kubevirt.instance.name", instance.name_any()),
            text("kubevirt.instance.uid", self.uid.clone()),
            text("k8s.pod.name", crate::render::pod_name(instance)),
            text("k8s.node.name", new.node_name.clone().unwrap_or_default()),
        ]);
        whole["status"] = json!({ "code": if end.0 == Phase::Failed { ERROR } else { OK } });
        let parts = phases.windows(2).map_while(|pair| {
            let [(phase, since), (_, until)] = pair else {
                return None;
            };
            let name = phase.as_str();
            (!ends(*phase)).then(|| self.part(name, nanoseconds(since), nanoseconds(until)))
        });
        std::iter::once(whole).chain(parts).collect()
    }

    fn part(&self, name: &str, begin: String, end: String) -> Value {
        let id = digest(&[&self.uid, START, name]).max(1);
        let own = TraceParent::new(self.own.trace_number(), id).unwrap_or(self.own);
        span(&own, Some(&self.own), name, begin, end)
    }
}

/// A start ends when the guest runs, or when it never will.
fn ends(phase: Phase) -> bool {
    phase == Phase::Running || phase.is_final()
}

fn has_ended(status: &VirtualMachineInstanceStatus) -> bool {
    let mut entries = status.phase_transition_timestamps.iter();
    entries.any(|entry| entry.phase.is_some_and(ends))
}

/// A UID is a UUID, of as many bits as a trace's id has; of another one, a digest.
fn trace_of(uid: &str) -> u128 {
    let digits: String = uid.chars().filter(|it| *it != '-').collect();
    match u128::from_str_radix(&digits, 16) {
        Ok(number) if digits.len() == 32 && number != 0 => number,
        _ => u128::from(digest(&[uid]).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0af76519-16cd-43dd-8448-eb211c80319c";
    const HEADER: &str = "00-11111111111111111111111111111111-2222222222222222-01";

    fn instance(annotation: Option<(&str, &str)>) -> VirtualMachineInstance {
        let annotations: serde_json::Map<_, _> = annotation
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .into_iter()
            .collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": UID, "annotations": annotations,
                "creationTimestamp": "2024-01-01T00:00:00Z",
            },
            "spec": { "domain": { "devices": {} } },
        }))
        .unwrap()
    }

    fn status(phases: &[(&str, u32)]) -> VirtualMachineInstanceStatus {
        let entries: Vec<_> = phases
            .iter()
            .map(|(phase, second)| {
                let time = format!("2024-01-01T00:00:{second:02}Z");
                json!({ "phase": phase, "phaseTransitionTimestamp": time })
            })
            .collect();
        serde_json::from_value(json!({ "nodeName": "node1", "phaseTransitionTimestamps": entries }))
            .unwrap()
    }

    #[test]
    fn only_who_asks_is_traced() {
        assert_eq!(Start::of(&instance(None), false), None);
        let no = instance(Some((TRACE_ANNOTATION, "false")));
        assert_eq!(Start::of(&no, false), None);
        let wrong = instance(Some((TRACE_PARENT_ANNOTATION, "00-1-2-01")));
        assert_eq!(Start::of(&wrong, false), None);
        for (annotation, all) in [(None, true), (Some((TRACE_ANNOTATION, "true")), false)] {
            let start = Start::of(&instance(annotation), all).unwrap();
            assert_eq!(start.own.trace(), UID.replace('-', ""));
            assert_eq!(start.parent, None);
            assert_eq!(
                Some(start),
                Start::of(&instance(annotation), all),
                "as before"
            );
        }
    }

    #[test]
    fn a_start_is_part_of_the_span_that_its_instance_names() {
        let start = Start::of(&instance(Some((TRACE_PARENT_ANNOTATION, HEADER))), false).unwrap();
        let pods = start.parent_of_pod();
        assert_eq!(pods.trace(), HEADER[3..35]);
        assert_ne!(pods.span(), HEADER[36..52]);
        assert_eq!(start.parent.unwrap().to_string(), HEADER);
    }

    #[test]
    fn the_status_that_tells_of_the_guest_gives_the_spans_once() {
        let mut instance = instance(Some((TRACE_ANNOTATION, "true")));
        let start = Start::of(&instance, false).unwrap();
        let pending = status(&[("Pending", 0)]);
        assert!(start.spans(&instance, &pending).is_empty());
        instance.status = Some(pending);
        let running = status(&[
            ("Pending", 0),
            ("Scheduling", 1),
            ("Scheduled", 2),
            ("Running", 5),
        ]);
        let spans = start.spans(&instance, &running);
        insta::assert_snapshot!(serde_json::to_string_pretty(&spans).unwrap());
        instance.status = Some(running.clone());
        assert!(start.spans(&instance, &running).is_empty());
        let over = status(&[
            ("Pending", 0),
            ("Scheduling", 1),
            ("Running", 5),
            ("Succeeded", 9),
        ]);
        assert!(start.spans(&instance, &over).is_empty());
    }

    #[test]
    fn a_start_that_fails_is_an_error() {
        let instance = instance(Some((TRACE_ANNOTATION, "true")));
        let start = Start::of(&instance, false).unwrap();
        let spans = start.spans(&instance, &status(&[("Pending", 0), ("Failed", 3)]));
        assert_eq!(spans[0]["status"], json!({ "code": ERROR }));
        assert_eq!(spans.len(), 2);
    }
}
