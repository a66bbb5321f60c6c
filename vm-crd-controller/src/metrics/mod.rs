//! What the controller counts about itself, and what it tells about machines and instances by KubeVirt's
//! names, in the format of Prometheus.

mod instances;
mod machines;
mod objects;
#[cfg(test)]
mod tests;
mod transitions;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use objects::{Objects, Shown};
pub use transitions::Transitions;

/// Upper bounds of the durations of reconciliations, in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// The controller's metrics; a clone counts into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// What has KubeVirt's names, without a prefix of ours.
    kubevirt: Arc<Registry>,
    /// Machines and instances, while this replica leads.
    pub objects: Objects,
    /// How long instances take from phase to phase.
    pub transitions: Transitions,
    /// Reconciliations by kind and result.
    pub reconciliations: Family<Outcome, Counter>,
    /// How long they took.
    pub durations: Family<Kind, Histogram>,
    /// Writes to the API server by resource and verb; events have their own counter.
    pub writes: Family<Write, Counter>,
    /// Events by result.
    pub events: Family<EventOutcome, Counter>,
    /// Spans of traces by result.
    pub spans: Family<EventOutcome, Counter>,
    /// 1 while this replica leads.
    pub leading: Gauge<i64, std::sync::atomic::AtomicI64>,
}

/// Labels of a reconciliation.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Outcome {
    /// The kind.
    pub kind: &'static str,
    /// ok or error.
    pub result: &'static str,
}

/// Label of a kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    /// The kind.
    pub kind: &'static str,
}

/// Labels of a write.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Write {
    /// The resource, with its subresource.
    pub resource: &'static str,
    /// create, apply, patch or delete.
    pub verb: &'static str,
}

/// Label of what is sent elsewhere, an event or a span.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EventOutcome {
    /// created, repeated, sent, failed or dropped.
    pub result: &'static str,
}

impl Metrics {
    /// Metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("vm_crd_controller");
        let reconciliations = Family::default();
        let durations: Family<Kind, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let writes = Family::default();
        let events = Family::default();
        let spans = Family::default();
        let leading = Gauge::default();
        let started = Gauge::<f64, AtomicU64>::default();
        let now = k8s_openapi::jiff::Timestamp::now();
        started.set(now.as_duration().as_secs_f64());
        registry.register(
            "reconciliations",
            "Reconciliations by kind and result",
            reconciliations.clone(),
        );
        registry.register(
            "reconciliation_duration_seconds",
            "How long reconciliations took",
            durations.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server by resource and verb, events aside",
            writes.clone(),
        );
        registry.register("events", "Events by result", events.clone());
        registry.register("trace_spans", "Spans by result", spans.clone());
        registry.register("leading", "1 while this replica leads", leading.clone());
        registry.register("start_time_seconds", "When this process started", started);
        let mut kubevirt = Registry::default();
        kubevirt.register(
            "kubevirt_virt_controller_leading_status",
            "1 while this replica leads",
            leading.clone(),
        );
        let transitions = Transitions::new(&mut kubevirt);
        let objects = Objects::default();
        kubevirt.register_collector(Box::new(objects.clone()));
        Self {
            registry: Arc::new(registry),
            kubevirt: Arc::new(kubevirt),
            objects,
            transitions,
            reconciliations,
            durations,
            writes,
            events,
            spans,
            leading,
        }
    }

    /// All metrics as text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.registry)?;
        text::encode_registry(&mut out, &self.kubevirt)?;
        text::encode_eof(&mut out)?;
        Ok(out)
    }

    /// Counts spans.
    pub fn count_spans(&self, result: &'static str, count: u64) {
        self.spans
            .get_or_create(&EventOutcome { result })
            .inc_by(count);
    }

    /// Counts one write.
    pub fn count_write(&self, resource: &'static str, verb: &'static str) {
        self.writes.get_or_create(&Write { resource, verb }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
