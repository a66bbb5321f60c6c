//! Logs of the server, written as lines of `key=value` like those of containerd's own shims into
//! the bundle's `log` fifo, from which containerd copies them to its own log.
//!
//! The fifo is opened for reading and writing, so a containerd that restarts breaks nothing; while
//! nobody reads and the fifo is full, lines are dropped rather than the pod held up.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::{Layer, Registry, filter::LevelFilter};

use super::traces::Spans;

/// Sends everything at `level` and above to `bundle`'s log fifo; without one, nowhere. The phases of
/// what is done go to `spans` too, whatever the level.
pub(super) fn init(bundle: &Path, level: Level, spans: Option<Spans>) {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fifo = rustix::fs::open(bundle.join("log"), flags, Mode::empty()).ok();
    let lines = fifo.map(|fifo| Lines {
        output: Mutex::new(File::from(fifo)),
        spans: level >= Level::DEBUG,
    });
    let level = LevelFilter::from_level(level);
    let subscriber = Registry::default()
        .with(lines.map(|lines| lines.with_filter(level)))
        .with(spans.map(|spans| spans.with_filter(LevelFilter::INFO)));
    // Set once per process; a second call would be a bug that tests find.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// The level named by the node's configuration, or a finer one if containerd debugs.
pub(super) fn level(configured: &str, debug: bool) -> Level {
    let level = configured.parse().unwrap_or(Level::INFO);
    if debug {
        level.max(Level::DEBUG)
    } else {
        level
    }
}

/// The time as RFC 3339 has it, in UTC with nanoseconds.
fn now() -> String {
    let now = OffsetDateTime::from(SystemTime::now());
    now.format(&Rfc3339).unwrap_or_default()
}

/// The layer that writes one line per event, and for debugging one per span that ends, with its
/// duration.
struct Lines {
    output: Mutex<File>,
    spans: bool,
}

/// What is kept of a span.
struct Kept {
    begun: Instant,
    pairs: Pairs,
}

/// ` key=value` pairs.
#[derive(Default)]
struct Pairs {
    message: String,
    rest: String,
}

impl Pairs {
    fn add(&mut self, key: &str, value: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+".contains(c);
        // Writing to a String cannot fail.
        let _ = if !value.is_empty() && value.chars().all(plain) {
            write!(self.rest, " {key}={value}")
        } else {
            write!(self.rest, " {key}={value:?}")
        };
    }
}

impl Pairs {
    /// Adds what the spans around it say.
    fn add_scope<'a, R: LookupSpan<'a>>(&mut self, scope: Scope<'a, R>) {
        for span in scope.from_root() {
            if let Some(outer) = span.extensions().get::<Kept>() {
                self.rest.push_str(&outer.pairs.rest);
            }
        }
    }
}

impl Visit for Pairs {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name if name.starts_with("log.") || name.starts_with("otel.") => {}
            name => self.add(name, value),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut pairs = Pairs::default();
            attributes.record(&mut pairs);
            let begun = Instant::now();
            span.extensions_mut().insert(Kept { begun, pairs });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<Kept>()
        {
            values.record(&mut kept.pairs);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        if let Some(scope) = context.event_scope(event) {
            pairs.add_scope(scope);
        }
        self.write(*event.metadata().level(), &pairs);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id).filter(|_| self.spans) else {
            return;
        };
        let Some(elapsed) = span.extensions().get::<Kept>().map(|it| it.begun.elapsed()) else {
            return;
        };
        let mut pairs = Pairs::default();
        "phase".clone_into(&mut pairs.message);
        pairs.add("name", span.name());
        pairs.add("elapsed", &format!("{elapsed:?}"));
        pairs.add_scope(span.scope());
        self.write(Level::DEBUG, &pairs);
    }
}

impl Lines {
    fn write(&self, level: Level, pairs: &Pairs) {
        let line = format!(
            "time=\"{}\" level={} msg={:?}{} runtime={}\n",
            now(),
            level.as_str().to_ascii_lowercase(),
            pairs.message,
            pairs.rest,
            super::RUNTIME,
        );
        // One write per line keeps lines whole; a full fifo drops it.
        if let Ok(mut output) = self.output.lock() {
            drop(output.write(line.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_only_ever_widens() {
        assert_eq!(level("info", false), Level::INFO);
        assert_eq!(level("info", true), Level::DEBUG);
        assert_eq!(level("trace", true), Level::TRACE);
        assert_eq!(level("warn", false), Level::WARN);
    }

    /// What is written at `level` while `work` is done.
    fn written(level: Level, work: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = Lines {
            output: Mutex::new(file.reopen().unwrap()),
            spans: level >= Level::DEBUG,
        };
        let subscriber =
            Registry::default().with(lines.with_filter(LevelFilter::from_level(level)));
        tracing::subscriber::with_default(subscriber, work);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn a_line_carries_message_fields_and_spans() {
        let text = written(Level::INFO, || {
            let _span = tracing::info_span!("create", pod = "p1").entered();
            tracing::info!(pid = 7, reason = "two words", "machine \"m\" created");
            tracing::debug!("not shown");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("time=\"20"), "{text}");
        assert!(
            text.contains(r#"level=info msg="machine \"m\" created""#),
            "{text}"
        );
        assert!(
            text.contains(r#" pid=7 reason="two words" pod=p1 runtime=io."#),
            "{text}"
        );
    }

    #[test]
    fn debugging_shows_how_long_each_phase_took() {
        let text = written(Level::DEBUG, || {
            let _create = tracing::info_span!("create", container = "c1").entered();
            tracing::info_span!("open-disks", disks = 2).in_scope(|| ());
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(r#"level=debug msg="phase" name=open-disks elapsed="#));
        assert!(
            lines[0].contains(" container=c1 disks=2 runtime="),
            "{text}"
        );
        assert!(lines[1].contains(" name=create elapsed="), "{text}");
    }
}
