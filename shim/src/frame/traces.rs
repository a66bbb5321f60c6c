//! The phases of a pod's life as spans of OpenTelemetry, one line each at the end of a file, as the
//! OTLP file exporter writes them (opentelemetry.io/docs/specs/otel/protocol/file-exporter). A
//! collector on the node reads them (`otlpjsonfile`), so that no machine pays for a network client.
//!
//! All spans of a pod are one trace, named by its sandbox; where containerd traces its calls, they
//! are parts of containerd's.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde_json::{Value, json};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The field of a span with containerd's `traceparent` (w3.org/TR/trace-context).
const PARENT: &str = "otel.parent";

/// The flag of a `traceparent` whose spans are recorded.
const RECORDED: u128 = 1;

/// OTLP's word for a span within a program.
const INTERNAL: u8 = 1;

/// The layer that writes them.
pub(super) struct Spans {
    path: PathBuf,
    trace: String,
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
    /// Writes to the end of `path` what happens to the pod with this sandbox.
    pub(super) fn new(path: &Path, sandbox: &str) -> Self {
        Self {
            path: path.to_owned(),
            trace: trace_of(sandbox),
            count: AtomicU32::new(1),
        }
    }

    fn kept(&self, parent: Option<(String, String)>, fields: Fields) -> Kept {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let own = || (self.trace.clone(), String::new());
        let (trace, parent) = parent.or(fields.parent).unwrap_or_else(own);
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

/// Trace and span of `00-TRACE-SPAN-FLAGS`, unless they are of a call that is not recorded.
fn parent_of(header: &str) -> Option<(String, String)> {
    let mut parts = header.split('-').skip(1);
    let mut number = |length: usize| {
        let part = parts.next().filter(|part| part.len() == length)?;
        let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u128::from_str_radix(part, 16).ok().filter(|_| is_hex)?;
        (value != 0).then(|| (part.to_owned(), value))
    };
    let ((trace, _), (span, _), (_, flags)) = (number(32)?, number(16)?, number(2)?);
    (flags & RECORDED != 0).then_some((trace, span))
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
    parent: Option<(String, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == PARENT {
            self.parent = parent_of(value);
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
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traces");
        let subscriber = Registry::default().with(Spans::new(&path, SANDBOX));
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
    fn a_trace_is_a_number_whatever_the_names() {
        for sandbox in ["", "pod-a", "ä", "zz", &"x".repeat(200)] {
            let trace = trace_of(sandbox);
            assert!(u128::from_str_radix(&trace, 16).unwrap() > 0 && trace.len() == 32);
        }
        for header in [
            "",
            "00-11111111111111111111111111111111-2222222222222222-00",
            "00-00000000000000000000000000000000-2222222222222222-01",
            "00",
            "00-1-2-01",
            &format!("00-{}-{}-01", "g".repeat(32), "1".repeat(16)),
        ] {
            assert_eq!(parent_of(header), None, "{header}");
        }
    }
}
