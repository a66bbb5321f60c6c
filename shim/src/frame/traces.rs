//! The phases of a pod's life as spans of OpenTelemetry, one line each at the end of a file, as the
//! OTLP file exporter writes them (opentelemetry.io/docs/specs/otel/protocol/file-exporter). A
//! collector on the node reads them (`otlpjsonfile`), so that no machine pays for a network client.
//!
//! All spans of a pod are one trace, named by its sandbox. They are parts of the span that the pod's
//! annotation `kubevirt.io/traceparent` names, or else of containerd's where it traces its calls.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cri_glue::bundle::Bundle;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use vm_api::TraceParent;
use vm_api::contract::TRACE_PARENT_ANNOTATION;

/// The field of a span with containerd's `traceparent` (w3.org/TR/trace-context).
const PARENT: &str = "otel.parent";

/// OTLP's word for a span within a program.
const INTERNAL: u8 = 1;

/// The layer that writes them.
pub(super) struct Spans {
    path: PathBuf,
    trace: String,
    /// The span that the pod names.
    parent: Option<TraceParent>,
    count: AtomicU32,
}

/// What is kept of a span until it ends.
struct Kept {
    trace: String,
    id: String,
    parent: String,
    begun: SystemTime,
    attributes: Vec<Value>,
}

impl Spans {
    /// Writes to the end of `path` what happens to the pod with this sandbox, as parts of `parent`.
    pub(super) fn new(path: &Path, sandbox: &str, parent: Option<TraceParent>) -> Self {
        Self {
            path: path.to_owned(),
            trace: trace_of(sandbox),
            parent,
            count: AtomicU32::new(1),
        }
    }

    fn kept(&self, parent: Option<(String, String)>, fields: Fields) -> Kept {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let own = || (self.trace.clone(), String::new());
        let named = self.parent.or(fields.parent);
        let named = named.map(|parent| (parent.trace(), parent.span()));
        let (trace, parent) = parent.or(named).unwrap_or_else(own);
        Kept {
            trace,
            id: format!("{:08x}{number:08x}", std::process::id()),
            parent,
            begun: SystemTime::now(),
            attributes: fields.attributes,
        }
    }

    /// Appends the line. The file is opened anew each time, so that it can be rotated.
    fn write(&self, line: &Value) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.path)?;
        file.write_all(format!("{line}\n").as_bytes())
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = span.parent().and_then(|parent| {
            let parent = parent.extensions();
            let kept = parent.get::<Kept>()?;
            Some((kept.trace.clone(), kept.id.clone()))
        });
        span.extensions_mut().insert(self.kept(parent, fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<Kept>()
        {
            let mut fields = Fields::default();
            values.record(&mut fields);
            kept.attributes.append(&mut fields.attributes);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(kept) = span.extensions_mut().remove::<Kept>() else {
            return;
        };
        // Who traces finds out that the file cannot be written; machines run on.
        drop(self.write(&line(span.name(), kept)));
    }
}

/// The sandbox's id as containerd has it, cut to a trace's length; of another one, its bytes.
fn trace_of(sandbox: &str) -> String {
    let hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex(sandbox) {
        return sandbox[..32].to_ascii_lowercase();
    }
    let mut bytes = [0; 16];
    for (index, byte) in sandbox.bytes().enumerate() {
        bytes[index % 16] ^= byte;
    }
    format!("{:032x}", u128::from_be_bytes(bytes) | 1)
}

/// The span that the pod whose sandbox's bundle is `directory` names; what is none is as good as none.
pub(super) fn parent_of(directory: &Path) -> Option<TraceParent> {
    let bundle = Bundle::read(directory).ok()?;
    bundle.annotation(TRACE_PARENT_ANNOTATION)?.parse().ok()
}

fn line(name: &str, kept: Kept) -> Value {
    let nanoseconds = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_nanos().to_string()
    };
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", "containerd-shim-kubevirt-v1"),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ] },
        "scopeSpans": [{ "spans": [{
            "traceId": kept.trace,
            "spanId": kept.id,
            "parentSpanId": kept.parent,
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": nanoseconds(kept.begun),
            "endTimeUnixNano": nanoseconds(SystemTime::now()),
            "attributes": kept.attributes,
        }] }],
    }] })
}

/// A span's fields.
#[derive(Default)]
struct Fields {
    attributes: Vec<Value>,
    parent: Option<TraceParent>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == PARENT {
            self.parent = value.parse().ok();
        } else {
            let value = json!({ "stringValue": value });
            self.attributes
                .push(json!({ "key": field.name(), "value": value }));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const SANDBOX: &str = "0af7651916cd43dd8448eb211c80319c0af7651916cd43dd8448eb211c80319c";

    /// The spans that are written while `work` is done, in the order of their ends.
    fn written(work: impl FnOnce()) -> Vec<Value> {
        written_of_pod(None, work)
    }

    /// The same of a pod that names a span.
    fn written_of_pod(parent: Option<TraceParent>, work: impl FnOnce()) -> Vec<Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traces");
        let subscriber = Registry::default().with(Spans::new(&path, SANDBOX, parent));
        tracing::subscriber::with_default(subscriber, work);
        let text = std::fs::read_to_string(path).unwrap();
        let span = |line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone()
        };
        text.lines().map(span).collect()
    }

    #[test]
    fn the_phases_of_a_pod_are_one_trace() {
        let spans = written(|| {
            let _create = tracing::info_span!("create", container = "c1").entered();
            tracing::info_span!("open-disks").in_scope(|| ());
        });
        let [disks, create] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!(disks["name"], "open-disks");
        assert_eq!(disks["traceId"], SANDBOX[..32]);
        assert_eq!(create["traceId"], SANDBOX[..32]);
        assert_eq!(create["parentSpanId"], "");
        assert_eq!(disks["parentSpanId"], create["spanId"]);
        let attribute = json!({ "key": "container", "value": { "stringValue": "c1" } });
        assert_eq!(create["attributes"], json!([attribute]));
        let time =
            |span: &Value, key: &str| -> u128 { span[key].as_str().unwrap().parse().unwrap() };
        assert!(time(create, "startTimeUnixNano") <= time(disks, "startTimeUnixNano"));
        assert!(time(disks, "endTimeUnixNano") <= time(create, "endTimeUnixNano"));
    }

    #[test]
    fn what_containerd_asks_for_is_part_of_its_trace() {
        let header = "00-11111111111111111111111111111111-2222222222222222-01";
        let spans = written(|| {
            let _create = tracing::info_span!("create", otel.parent = header).entered();
            tracing::info_span!("open-disks").in_scope(|| ());
        });
        assert!(spans.iter().all(|span| span["traceId"] == header[3..35]));
        assert_eq!(spans[1]["parentSpanId"], "2222222222222222");
        assert_eq!(spans[1]["attributes"], json!([]));
    }

    #[test]
    fn the_span_that_a_pod_names_is_the_parent_whatever_containerd_asks() {
        let header = "00-11111111111111111111111111111111-2222222222222222-01";
        let pods = "00-33333333333333333333333333333333-4444444444444444-01";
        let spans = written_of_pod(Some(pods.parse().unwrap()), || {
            let create = tracing::info_span!(
                "create",
                otel.parent = header,
                bytes = tracing::field::Empty
            );
            create.record("bytes", 7);
            tracing::info_span!(parent: &create, "open-disks").in_scope(|| ());
        });
        assert!(
            spans.iter().all(|span| span["traceId"] == pods[3..35]),
            "{spans:?}"
        );
        let create = &spans[1];
        assert_eq!(create["parentSpanId"], "4444444444444444");
        let attribute = json!({ "key": "bytes", "value": { "stringValue": "7" } });
        assert_eq!(create["attributes"], json!([attribute]));
    }

    #[test]
    fn a_trace_is_a_number_whatever_the_names() {
        for sandbox in ["", "pod-a", "ä", "zz", &"x".repeat(200)] {
            let trace = trace_of(sandbox);
            assert!(u128::from_str_radix(&trace, 16).unwrap() > 0 && trace.len() == 32);
        }
    }
}
