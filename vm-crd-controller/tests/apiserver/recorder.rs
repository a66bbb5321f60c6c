//! What a user who watches one namespace sees, in order: nothing is polled, so nothing is missed.
//!
//! Each kind of news has a stream of its own, because only the order within one is promised: two
//! controllers of KubeVirt's write side by side, and so may the event writer and a reconciler here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use tokio::task::JoinSet;
use vm_api::v1::{Condition, VirtualMachine, VirtualMachineInstance};

use crate::space::Space;

/// Event reasons of what KubeVirt's virt-controller does; all others are of virt-handler.
const OF_THE_CONTROLLER: [&str; 3] = ["SuccessfulCreate", "SuccessfulDelete", "FailedPvcNotFound"];

/// Conditions that are the same in every machine that runs.
const OF_ALL: [&str; 2] = ["LiveMigratable", "StorageLiveMigratable"];

/// Words by stream.
pub(crate) type Streams = BTreeMap<String, Vec<String>>;

/// Records until dropped.
pub(crate) struct Recorder {
    streams: Arc<Mutex<Streams>>,
    _watches: JoinSet<()>,
}

impl Recorder {
    /// Begins to record what happens in `space`.
    pub(crate) async fn start(space: &Space) -> Result<Self> {
        let streams = Arc::default();
        let mut watches = JoinSet::new();
        let params = WatchParams::default();
        let vms = space.vms.watch(&params, "0").await?.boxed();
        watches.spawn(follow(vms, Arc::clone(&streams), machine));
        let vmis = space.vmis.watch(&params, "0").await?.boxed();
        watches.spawn(follow(vmis, Arc::clone(&streams), instance));
        let events: Api<Event> = Api::namespaced(space.client.clone(), &space.namespace);
        let events = events.watch(&params, "0").await?.boxed();
        watches.spawn(follow(events, Arc::clone(&streams), event));
        Ok(Self {
            streams,
            _watches: watches,
        })
    }

    /// What was seen so far.
    pub(crate) fn seen(&self) -> Streams {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn follow<K: std::fmt::Debug>(
    mut watch: futures::stream::BoxStream<'static, kube::Result<WatchEvent<K>>>,
    streams: Arc<Mutex<Streams>>,
    record: fn(&mut Streams, &WatchEvent<K>),
) {
    while let Some(Ok(news)) = watch.next().await {
        record(
            &mut streams.lock().unwrap_or_else(PoisonError::into_inner),
            &news,
        );
    }
}

fn machine(streams: &mut Streams, news: &WatchEvent<VirtualMachine>) {
    match news {
        WatchEvent::Added(vm) | WatchEvent::Modified(vm) => {
            let Some(status) = &vm.status else { return };
            if let Some(word) = status.printable_status {
                change(streams, "vm", word.to_string());
            }
            let word = |flag: Option<bool>| if flag == Some(true) { "True" } else { "False" };
            let made = format!("{}/{}", word(status.created), word(status.ready));
            change(streams, "vm.made", made);
            let requests = status.state_change_requests.iter();
            let requests: Vec<_> = requests.map(|request| request.action.as_str()).collect();
            change(streams, "vm.requests", joined(&requests));
            change(streams, "vm.conditions", conditions(&status.conditions));
        }
        WatchEvent::Deleted(_) => change(streams, "vm", "gone".to_owned()),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
    }
}

fn instance(streams: &mut Streams, news: &WatchEvent<VirtualMachineInstance>) {
    match news {
        WatchEvent::Added(vmi) | WatchEvent::Modified(vmi) => {
            let status = vmi.status.clone().unwrap_or_default();
            if let Some(phase) = status.phase {
                change(streams, "vmi", phase.to_string());
            }
            change(streams, "vmi.conditions", conditions(&status.conditions));
        }
        WatchEvent::Deleted(_) => change(streams, "vmi", "gone".to_owned()),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => {}
    }
}

/// Repetitions of an event are counted in it and no event of their own, here as in KubeVirt.
fn event(streams: &mut Streams, news: &WatchEvent<Event>) {
    let WatchEvent::Added(event) = news else {
        return;
    };
    let regarding = event.regarding.clone().unwrap_or_default();
    let reason = event.reason.clone().unwrap_or_default();
    let stream = match regarding.kind.as_deref() {
        Some("VirtualMachine") => "events.vm",
        Some("VirtualMachineInstance") if OF_THE_CONTROLLER.contains(&reason.as_str()) => {
            "events.vmi.controller"
        }
        Some("VirtualMachineInstance") => "events.vmi.handler",
        _ => return,
    };
    let warning = event.type_.as_deref() == Some("Warning");
    let word = format!("{reason}{}", if warning { "!" } else { "" });
    streams.entry(stream.to_owned()).or_default().push(word);
}

/// Only changes are words.
fn change(streams: &mut Streams, stream: &str, word: String) {
    let words = streams.entry(stream.to_owned()).or_default();
    if words.last() != Some(&word) {
        words.push(word);
    }
}

/// `Ready` for a condition Ready that is True, its reason for one that is not, and the types of others
/// with their reasons.
fn conditions(conditions: &[Condition]) -> String {
    let mut conditions: Vec<_> = conditions.iter().collect();
    conditions.sort_by_key(|condition| &condition.r#type);
    let words: Vec<_> = conditions
        .into_iter()
        .filter(|condition| !OF_ALL.contains(&condition.r#type.as_str()))
        .map(
            |condition| match (condition.r#type.as_str(), &condition.reason) {
                ("Ready", Some(reason)) if condition.status != "True" => reason.clone(),
                (kind, Some(reason)) => format!("{kind}({reason})"),
                (kind, None) => kind.to_owned(),
            },
        )
        .collect();
    joined(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn joined(words: &[&str]) -> String {
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join("&")
    }
}
