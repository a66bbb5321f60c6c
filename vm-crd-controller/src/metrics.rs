//! What the controller counts about itself, in the format of Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the durations of reconciliations, in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// The controller's metrics; a clone counts into the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Reconciliations by kind and result.
    pub reconciliations: Family<Outcome, Counter>,
    /// How long they took.
    pub durations: Family<Kind, Histogram>,
    /// Writes to the API server by resource and verb; events have their own counter.
    pub writes: Family<Write, Counter>,
    /// Events by result.
    pub events: Family<EventOutcome, Counter>,
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

/// Label of an event.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EventOutcome {
    /// created, repeated, failed or dropped.
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
        registry.register("leading", "1 while this replica leads", leading.clone());
        registry.register("start_time_seconds", "When this process started", started);
        Self {
            registry: Arc::new(registry),
            reconciliations,
            durations,
            writes,
            events,
            leading,
        }
    }

    /// All metrics as text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_by_resource_and_verb() {
        let metrics = Metrics::new();
        metrics.count_write("pods", "create");
        metrics.count_write("pods", "create");
        let text = metrics.text().unwrap();
        assert!(
            text.contains(
                "vm_crd_controller_api_writes_total{resource=\"pods\",verb=\"create\"} 2"
            ),
            "{text}"
        );
    }
}
