//! Warnings about pods, as kubelet and others write them: what a pod that does not get on is told by
//! nothing else.
//!
//! To find the events of one pod, the API server reads all of its namespace. So they are read for all
//! pods of a namespace at once, as seldom as [`FRESH`] and [`SHARE`] say, however many ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::Mutex;

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(2);

/// The pause after reading a namespace, as a multiple of the time that it took.
const SHARE: u32 = 20;

/// How long a namespace is remembered that nobody asks about.
const FORGET: Duration = Duration::from_secs(120);

/// Events in one answer of the API server.
const PAGE: u32 = 500;

/// What went wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// In one word.
    pub reason: Option<String>,
    /// In one sentence.
    pub message: Option<String>,
}

/// Warnings of the namespaces that somebody asks about; a clone knows the same.
#[derive(Clone)]
pub struct Warnings {
    client: Client,
    namespaces: Arc<Mutex<HashMap<String, Arc<Mutex<Known>>>>>,
}

/// The warnings of one namespace.
#[derive(Default)]
struct Known {
    /// Newest by the pod's UID.
    newest: HashMap<String, (Option<Timestamp>, Warning)>,
    /// When they were read, and how long that took.
    read: Option<(Instant, Duration)>,
}

impl Warnings {
    /// None so far.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            namespaces: Arc::default(),
        }
    }

    /// The newest one about the pod with `uid`.
    pub async fn about(&self, namespace: &str, uid: &str) -> kube::Result<Option<Warning>> {
        let known = self.of(namespace).await;
        let mut known = known.lock().await;
        if known.is_stale(Instant::now()) {
            let begin = Instant::now();
            known.newest = self.read(namespace).await?;
            known.read = Some((Instant::now(), begin.elapsed()));
        }
        Ok(known.newest.get(uid).map(|(_, warning)| warning.clone()))
    }

    async fn of(&self, namespace: &str) -> Arc<Mutex<Known>> {
        let mut namespaces = self.namespaces.lock().await;
        // One that is being read is locked, and asked about.
        namespaces.retain(|_, known| known.try_lock().map_or(true, |known| known.is_asked_for()));
        Arc::clone(namespaces.entry(namespace.to_owned()).or_default())
    }

    async fn read(
        &self,
        namespace: &str,
    ) -> kube::Result<HashMap<String, (Option<Timestamp>, Warning)>> {
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        let mut params = ListParams::default()
            .fields("involvedObject.kind=Pod,type=Warning")
            .limit(PAGE);
        let mut newest = HashMap::new();
        loop {
            let page = events.list(&params).await?;
            for event in page.items {
                take_in(&mut newest, event);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(newest),
            }
        }
    }
}

impl Known {
    fn is_stale(&self, now: Instant) -> bool {
        self.read.is_none_or(|(at, took)| {
            now.saturating_duration_since(at) >= FRESH.max(took.saturating_mul(SHARE))
        })
    }

    fn is_asked_for(&self) -> bool {
        self.read.is_none_or(|(at, _)| at.elapsed() < FORGET)
    }
}

fn take_in(newest: &mut HashMap<String, (Option<Timestamp>, Warning)>, event: Event) {
    let seen = last_seen(&event);
    let Some(uid) = event.involved_object.uid else {
        return;
    };
    if newest.get(&uid).is_none_or(|(before, _)| *before <= seen) {
        let warning = Warning {
            reason: event.reason,
            message: event.message,
        };
        newest.insert(uid, (seen, warning));
    }
}

/// When an event was last observed, however its writer says so.
fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    series
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_warning_about_each_pod_is_kept() {
        let mut newest = HashMap::new();
        for (uid, reason, time) in [
            ("a", "Failed", "2026-01-01T00:00:02Z"),
            ("a", "Older", "2026-01-01T00:00:01Z"),
            ("b", "Other", "2026-01-01T00:00:03Z"),
        ] {
            let event = json!({ "metadata": {}, "reason": reason, "lastTimestamp": time,
                "involvedObject": { "uid": uid } });
            take_in(&mut newest, serde_json::from_value(event).unwrap());
        }
        let reason = |uid: &str| newest[uid].1.reason.clone().unwrap();
        assert_eq!(
            (reason("a"), reason("b")),
            ("Failed".into(), "Other".into())
        );
    }

    #[test]
    fn a_namespace_that_takes_long_is_read_seldom() {
        let now = Instant::now();
        let known = |took| Known {
            read: Some((now, took)),
            ..Known::default()
        };
        assert!(Known::default().is_stale(now));
        let quick = known(Duration::from_millis(5));
        assert!(!quick.is_stale(now + FRESH / 2));
        assert!(quick.is_stale(now + FRESH));
        let slow = known(Duration::from_secs(1));
        assert!(!slow.is_stale(now + FRESH));
        assert!(slow.is_stale(now + Duration::from_secs(20)));
    }
}
