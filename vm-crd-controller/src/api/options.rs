//! The bodies of requests, in KubeVirt's words. A field that nothing here does anything with is refused.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;

/// What a request may be told; each reads the fields that are its own.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Start {
    kind: Option<String>,
    api_version: Option<String>,
    /// The guest waits until it is told to go on.
    pub(super) paused: bool,
    /// Nothing is to be changed.
    pub(super) dry_run: DryRun,
}

/// What `stop` may be told.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Stop {
    kind: Option<String>,
    api_version: Option<String>,
    /// Seconds that the guest has to power off.
    pub(super) grace_period: Option<i64>,
    /// Nothing is to be changed.
    pub(super) dry_run: DryRun,
}

/// What `restart` may be told.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Restart {
    kind: Option<String>,
    api_version: Option<String>,
    /// 0: the guest has no time to power off.
    pub(super) grace_period_seconds: Option<i64>,
    /// Nothing is to be changed.
    pub(super) dry_run: DryRun,
}

/// What a request that only does something to a running machine may be told.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Plain {
    kind: Option<String>,
    api_version: Option<String>,
    /// Nothing is to be changed.
    pub(super) dry_run: DryRun,
}

/// What `freeze` may be told.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Freeze {
    /// After how long the file systems are thawed again, in Go's notation (`5m0s`).
    pub(super) unfreeze_timeout: Option<String>,
}

/// What `objectgraph` may be told.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Graph {
    kind: Option<String>,
    api_version: Option<String>,
    /// Whether objects that may be missing belong to it; they do unless it says no.
    pub(super) include_optional_nodes: Option<bool>,
    /// Which objects belong to it, by the labels that the graph gives them.
    pub(super) label_selector: Option<Selector>,
}

/// Labels that all must be there.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Selector {
    /// By key.
    pub(super) match_labels: std::collections::BTreeMap<String, String>,
}

/// `dryRun: [All]`, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Option<Vec<String>>")]
pub(super) struct DryRun(pub(super) bool);

impl TryFrom<Option<Vec<String>>> for DryRun {
    type Error = &'static str;

    fn try_from(words: Option<Vec<String>>) -> Result<Self, Self::Error> {
        match words.unwrap_or_default().as_slice() {
            [] => Ok(Self(false)),
            [all] if all == "All" => Ok(Self(true)),
            _ => Err("dryRun: the only value is All"),
        }
    }
}

/// Reads a body, which may be empty.
pub(super) fn read<O: DeserializeOwned + Default>(body: &[u8]) -> Result<O, Failure> {
    if body.trim_ascii().is_empty() {
        return Ok(O::default());
    }
    serde_json::from_slice::<Option<O>>(body)
        .map(Option::unwrap_or_default)
        .map_err(|error| Failure::bad_request(format!("the request's body: {error}")))
}

/// Whole seconds of a duration in Go's notation.
pub(super) fn seconds(duration: &str) -> Option<u32> {
    let duration = duration.trim();
    if duration == "0" {
        return Some(0);
    }
    let (mut rest, mut nanoseconds) = (duration, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [
            ("ns", 1.0),
            ("us", 1e3),
            ("µs", 1e3),
            ("ms", 1e6),
            ("s", 1e9),
            ("m", 60e9),
            ("h", 3600e9),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        nanoseconds += number * factor;
        rest = &rest[unit.len()..];
    }
    let seconds = (nanoseconds / 1e9).ceil();
    // What does not fit is no time that anybody waits for.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is within the bounds"
    )]
    (!duration.is_empty() && seconds <= f64::from(u32::MAX)).then_some(seconds as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_or_refused() {
        assert_eq!(read::<Start>(b"").unwrap(), Start::default());
        assert_eq!(read::<Start>(b"null\n").unwrap(), Start::default());
        let start: Start = read(br#"{"paused":true,"dryRun":["All"]}"#).unwrap();
        assert!(start.paused && start.dry_run.0);
        let stop: Stop = read(br#"{"kind":"StopOptions","gracePeriod":0}"#).unwrap();
        assert_eq!(stop.grace_period, Some(0));
        assert!(!stop.dry_run.0);
        for wrong in [
            r#"{"dryRun":["Some"]}"#,
            r#"{"paused":"yes"}"#,
            r#"{"pause":true}"#,
            "{",
        ] {
            let failure = read::<Start>(wrong.as_bytes()).unwrap_err();
            assert_eq!(failure.code, hyper::StatusCode::BAD_REQUEST, "{wrong}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let table = [
            ("5m0s", Some(300)),
            ("1h2m3.5s", Some(3724)),
            ("500ms", Some(1)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90", None),
            ("", None),
            ("-5s", None),
            ("5 s", None),
            ("99999999999h", None),
        ];
        for (text, expected) in table {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
