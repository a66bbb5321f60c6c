//! What a user who watches one namespace sees, in order: nothing is polled, so nothing is missed.
//!
//! Each kind of news has a stream of its own, because only the order within one is promised: two
//! controllers of KubeVirt's write side by side, and so may the event writer and a reconciler here.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::events::v1::Event;
use kube::runtime::watcher::{Config, Event as News, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vm_api::v1::{Condition, VirtualMachine, VirtualMachineInstance};

use crate::space::Space;

/// Event reasons of what KubeVirt's virt-controller does; all others are of virt-handler.
const OF_THE_CONTROLLER: [&str; 3] = ["SuccessfulCreate", "SuccessfulDelete", "FailedPvcNotFound"];

/// Conditions that are the same in every machine that runs.
const OF_ALL: [&str; 2] = ["LiveMigratable", "StorageLiveMigratable"];

/// The stream of the names of events that were seen.
const KNOWN_EVENTS: &str = "known";

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
        let events: Api<Event> = Api::namespaced(space.client.clone(), &space.namespace);
        let ready = Arc::new(Semaphore::new(0));
        let begun = [
            watches.spawn(follow(space.vms.clone(), &streams, &ready, machine)),
            watches.spawn(follow(space.vmis.clone(), &streams, &ready, instance)),
            watches.spawn(follow(events, &streams, &ready, event)),
        ];
        let count = u32::try_from(begun.len())?;
        // Nothing happens before everybody looks.
        let _ = ready.acquire_many(count).await?;
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
            .iter()
            .filter(|(stream, _)| *stream != KNOWN_EVENTS)
            .map(|(stream, words)| (stream.clone(), words.clone()))
            .collect()
    }
}

/// Records the news of `api` by `record`, which gets an object, and whether it is there.
fn follow<K>(
    api: Api<K>,
    streams: &Arc<Mutex<Streams>>,
    ready: &Arc<Semaphore>,
    record: fn(&mut Streams, &K, bool),
) -> impl Future<Output = ()> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (streams, ready) = (Arc::clone(streams), Arc::clone(ready));
    watcher(api, Config::default()).for_each(move |news| {
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            Ok(News::Apply(object) | News::InitApply(object)) => {
                record(&mut streams, &object, true);
            }
            Ok(News::Delete(object)) => record(&mut streams, &object, false),
            Ok(News::InitDone) => ready.add_permits(1),
            Ok(News::Init) | Err(_) => {}
        }
        futures::future::ready(())
    })
}

fn machine(streams: &mut Streams, vm: &VirtualMachine, there: bool) {
    if !there {
        return change(streams, "vm", "gone".to_owned());
    }
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

fn instance(streams: &mut Streams, vmi: &VirtualMachineInstance, there: bool) {
    if !there {
        return change(streams, "vmi", "gone".to_owned());
    }
    let status = vmi.status.clone().unwrap_or_default();
    if let Some(phase) = status.phase {
        change(streams, "vmi", phase.to_string());
    }
    change(streams, "vmi.conditions", conditions(&status.conditions));
}

/// Repetitions of an event are counted in it and no event of their own, here as in KubeVirt.
fn event(streams: &mut Streams, event: &Event, _: bool) {
    let name = event.metadata.name.clone().unwrap_or_default();
    let known = streams.entry(KNOWN_EVENTS.to_owned()).or_default();
    if known.contains(&name) {
        return;
    }
    known.push(name);
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
