//! Events about machines and instances, written beside the work and never in its way.
//!
//! A note goes into a bounded queue that one task empties. The same note about the same object
//! within [`SERIES`] becomes a series of one event instead of many events, as far as it is among the
//! last that were written. A note that finds the queue full is dropped and counted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::cluster::FIELD_MANAGER;
use crate::metrics::{EventOutcome, Metrics};
use crate::refusal::{Refusal, refusal};

/// Notes that wait at most.
const QUEUE: usize = 1024;

/// Time within which the same note counts as a repetition. The API server keeps events for an hour.
const SERIES: Duration = Duration::from_secs(600);

/// Events that are remembered at least, to know a repetition; as many as client-go remembers are
/// remembered at most.
const GENERATION: usize = 2048;

/// Bytes of a message that the API server takes.
const MESSAGE_LIMIT: usize = 1024;

/// What happened to an object, for its owner to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something went wrong.
    pub warning: bool,
    /// Why, in one word of KubeVirt's.
    pub reason: Cow<'static, str>,
    /// What, in one sentence.
    pub message: String,
}

impl Note {
    /// A note about the ordinary course.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// A note about something that went wrong.
    pub fn warning(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Where notes are handed in.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Note)>,
    metrics: Metrics,
}

impl Events {
    /// Starts the task that writes events in the name of `identity`; it ends when all handles are
    /// dropped and the queue is empty.
    pub fn start(
        client: Client,
        identity: &str,
        metrics: Metrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, mut notes) = mpsc::channel::<(ObjectReference, Note)>(QUEUE);
        let mut writer = Writer {
            client,
            identity: identity.to_owned(),
            known: Recent::default(),
        };
        let counters = metrics.clone();
        let task = tokio::spawn(async move {
            while let Some((regarding, note)) = notes.recv().await {
                let result = match writer.write(&regarding, &note).await {
                    Ok(result) => result,
                    Err(error) if refusal(&error) == Refusal::Leaving => "dropped",
                    Err(error) => {
                        warn!(reason = %note.reason, %error, "cannot write an event");
                        "failed"
                    }
                };
                counters
                    .events
                    .get_or_create(&EventOutcome { result })
                    .inc();
            }
        });
        (Self { queue, metrics }, task)
    }

    /// Hands in notes about one object.
    pub fn publish(&self, regarding: &ObjectReference, notes: impl IntoIterator<Item = Note>) {
        for note in notes {
            debug!(
                namespace = regarding.namespace,
                name = regarding.name,
                reason = %note.reason,
                message = note.message,
                "event"
            );
            if self.queue.try_send((regarding.clone(), note)).is_err() {
                self.metrics
                    .events
                    .get_or_create(&EventOutcome { result: "dropped" })
                    .inc();
            }
        }
    }
}

struct Writer {
    client: Client,
    identity: String,
    known: Recent,
}

impl std::hash::Hash for Note {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.reason.hash(state);
        self.message.hash(state);
    }
}

/// An event that was written.
#[derive(Clone)]
struct Known {
    name: String,
    count: i32,
    last: Instant,
}

/// UID of an object, and what was said about it.
type Key = (String, Note);

/// Events that were written lately: at least the last [`GENERATION`], at most twice as many, however
/// many objects there are.
#[derive(Default)]
struct Recent {
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
}

impl Recent {
    /// The event that said this within [`SERIES`] before `now`.
    fn get(&self, key: &Key, now: Instant) -> Option<&Known> {
        let known = self.young.get(key).or_else(|| self.old.get(key))?;
        (now.saturating_duration_since(known.last) < SERIES).then_some(known)
    }

    fn insert(&mut self, key: Key, known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

impl Writer {
    async fn write(
        &mut self,
        regarding: &ObjectReference,
        note: &Note,
    ) -> kube::Result<&'static str> {
        let now = Instant::now();
        let namespace = regarding.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let key = (regarding.uid.clone().unwrap_or_default(), note.clone());
        if let Some(known) = self.known.get(&key, now).cloned() {
            let series = EventSeries {
                count: known.count + 1,
                last_observed_time: MicroTime(Timestamp::now()),
            };
            let patch = Patch::Merge(json!({ "series": series }));
            match events
                .patch(&known.name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => {
                    let again = Known {
                        count: known.count + 1,
                        last: now,
                        ..known
                    };
                    self.known.insert(key, again);
                    return Ok("repeated");
                }
                // Events expire: then it is a new one.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = event(regarding, note, &self.identity, Timestamp::now());
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        self.known.insert(
            key,
            Known {
                name,
                count: 1,
                last: now,
            },
        );
        Ok("created")
    }
}

fn event(regarding: &ObjectReference, note: &Note, identity: &str, now: Timestamp) -> Event {
    let object = regarding.name.as_deref().unwrap_or(FIELD_MANAGER);
    Event {
        metadata: ObjectMeta {
            // The form of client-go's recorder: unique per object and nanosecond.
            name: Some(format!("{object}.{:x}", now.as_nanosecond())),
            namespace: Some(
                regarding
                    .namespace
                    .clone()
                    .unwrap_or_else(|| "default".to_owned()),
            ),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding.clone()),
        reason: Some(note.reason.to_string()),
        action: Some(note.reason.to_string()),
        note: Some(shorten(&note.message).to_owned()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(identity.to_owned()),
        ..Event::default()
    }
}

fn shorten(message: &str) -> &str {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let end = (0..=MESSAGE_LIMIT)
        .rev()
        .find(|&index| message.is_char_boundary(index));
    &message[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "ü".repeat(600);
        assert_eq!(shorten(&message).len(), 1024);
        assert_eq!(shorten("short"), "short");
        let odd = format!("a{message}");
        assert_eq!(shorten(&odd).len(), 1023);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_last_is_known() {
        let now = Instant::now();
        let mut recent = Recent::default();
        let key = |number: usize| (number.to_string(), Note::normal("Created", ""));
        for number in 0..5 * GENERATION {
            let known = Known {
                name: number.to_string(),
                count: 1,
                last: now,
            };
            recent.insert(key(number), known);
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * GENERATION);
        let last = key(5 * GENERATION - 1);
        assert!(recent.get(&last, now).is_some());
        assert!(recent.get(&key(4 * GENERATION), now).is_some());
        assert!(recent.get(&key(0), now).is_none(), "it was long ago");
        assert!(recent.get(&last, now + SERIES).is_none(), "it is over");
    }

    #[test]
    fn an_event_says_what_about_whom() {
        let regarding = ObjectReference {
            name: Some("tl".to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectReference::default()
        };
        let note = Note::warning("FailedCreate", "no room");
        let event = event(&regarding, &note, "pod-1", Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.name.as_deref(), Some("tl.0"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.note.as_deref(), Some("no room"));
    }
}
