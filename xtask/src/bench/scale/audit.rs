//! What one user asked of the API server, from the audit log: each request is a line, written when it
//! is done.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Verbs that change nothing.
const READS: [&str; 3] = ["get", "list", "watch"];

/// Asking a machine for what only it knows: no kubelet is there to answer.
const ASK: &str = "get pods/exec";

/// What the controller does for the product as a whole: its certificate, and where that is told.
const OF_THE_PRODUCT: [&str; 4] = [
    "apiservices",
    "configmaps",
    "secrets",
    "webhookconfigurations",
];

/// Requests by what they are: `create pods`, `patch virtualmachines/status`.
#[derive(Clone, Default)]
pub(super) struct Requests {
    log: PathBuf,
    user: &'static str,
    /// Bytes of the log that were read.
    read: u64,
    counts: BTreeMap<String, u64>,
}

/// A line of the log, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct ObjectRef {
    resource: Option<String>,
    subresource: Option<String>,
}

impl Requests {
    /// Requests of `user` in `log`.
    pub(super) fn of(log: PathBuf, user: &'static str) -> Self {
        Self {
            log,
            user,
            ..Self::default()
        }
    }

    /// Those since this was asked last.
    pub(super) fn since_last(&mut self) -> Result<Self> {
        self.read_on()?;
        let counts = std::mem::take(&mut self.counts);
        Ok(Self {
            counts,
            ..Self::default()
        })
    }

    /// How many there were since [`Self::since_last`], as [`Self::work`] counts.
    pub(super) fn work_so_far(&mut self) -> Result<u64> {
        self.read_on()?;
        Ok(self.work())
    }

    /// How many there are, those of the lease and asks of machines aside.
    pub(super) fn work(&self) -> u64 {
        self.counts.values().sum::<u64>() - self.lease() - self.asks()
    }

    /// Asks of machines.
    pub(super) fn asks(&self) -> u64 {
        self.number(|request| request == ASK)
    }

    /// Those by which the controller leads.
    pub(super) fn lease(&self) -> u64 {
        self.number(|request| request.ends_with(" leases"))
    }

    /// Each kind and its number, those of the lease aside.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self
            .counts
            .iter()
            .map(|(request, number)| (request.as_str(), *number));
        all.filter(|(request, _)| !request.ends_with(" leases"))
    }

    /// Writes of other kinds than `besides`; events, the lease and the product's own aside.
    pub(super) fn writes_beside(&self, besides: &[&str]) -> u64 {
        self.number(|request| {
            let verb = request.split(' ').next().unwrap_or_default();
            let aside = request.ends_with(" leases")
                || request.ends_with(" events")
                || OF_THE_PRODUCT.iter().any(|of| request.ends_with(of));
            !READS.contains(&verb) && !aside && !besides.contains(&request)
        })
    }

    fn number(&self, is_meant: impl Fn(&str) -> bool) -> u64 {
        let meant = self.counts.iter().filter(|(request, _)| is_meant(request));
        meant.map(|(_, number)| number).sum()
    }

    fn read_on(&mut self) -> Result<()> {
        let log = &self.log;
        let mut file = File::open(log).with_context(|| format!("open {}", log.display()))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line)?;
            // Half a line is read again when it is whole.
            if !line.ends_with('\n') {
                return Ok(());
            }
            self.read += read as u64;
            let entry: Line = serde_json::from_str(&line).context("a line of the audit log")?;
            if entry.user.username == self.user {
                *self.counts.entry(entry.what()).or_default() += 1;
            }
        }
    }
}

impl Line {
    fn what(self) -> String {
        let mut what = self.verb;
        if let Some(object) = self.object_ref {
            what = format!("{what} {}", object.resource.unwrap_or_default());
            if let Some(subresource) = object.subresource {
                what = format!("{what}/{subresource}");
            }
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn requests_are_counted_once_and_by_kind() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut requests = Requests::of(log.path().to_owned(), "me");
        let mut write = |verb: &str, user: &str, object: &str| {
            let line = format!(r#"{{"verb":"{verb}","user":{{"username":"{user}"}}{object}}}"#);
            writeln!(log, "{line}").unwrap();
        };
        let pods = r#","objectRef":{"resource":"pods"}"#;
        write("create", "me", pods);
        write("create", "you", pods);
        write("list", "me", pods);
        write("update", "me", r#","objectRef":{"resource":"leases"}"#);
        write("create", "me", r#","objectRef":{"resource":"events"}"#);
        write(
            "patch",
            "me",
            r#","objectRef":{"resource":"vms","subresource":"status"}"#,
        );
        write("get", "me", "");
        let first = requests.since_last().unwrap();
        assert_eq!(first.work(), 5);
        assert_eq!(first.lease(), 1);
        assert_eq!(first.writes_beside(&[]), 2);
        assert_eq!(first.writes_beside(&["create pods"]), 1);
        let kinds: Vec<_> = first.kinds().map(|(kind, _)| kind.to_owned()).collect();
        assert_eq!(
            kinds,
            [
                "create events",
                "create pods",
                "get",
                "list pods",
                "patch vms/status"
            ]
        );
        assert_eq!(requests.since_last().unwrap().work(), 0);
    }
}
