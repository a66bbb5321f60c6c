//! When what happened to a pod, as its node wrote it down.

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::NODE;
use super::pods::Kind;
use crate::cluster::{self, ClusterName};
use crate::command;

/// The moments of a pod's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    /// Kubelet asks for the sandbox.
    pub(super) asked: OffsetDateTime,
    /// The sandbox is there: namespaces, network, its own container.
    pub(super) sandbox: OffsetDateTime,
    /// The container is there: for a machine, QEMU with a guest that has not begun.
    pub(super) created: OffsetDateTime,
    /// It was told to run.
    pub(super) started: OffsetDateTime,
    /// Its own words came out.
    pub(super) ready: OffsetDateTime,
}

impl Moments {
    /// Of a pod with this UID that has said its words.
    pub(super) fn of(cluster: &ClusterName, kind: Kind, uid: &str) -> Result<Self> {
        let log = on_node(cluster, "cat /var/log/containerd.log")?;
        let find = |words: &[&str]| {
            let mut lines = log.lines();
            let line = lines.find(|line| words.iter().all(|word| line.contains(word)));
            line.with_context(|| format!("containerd's log has no line with {words:?}"))
        };
        let asked = find(&["RunPodSandbox for", uid])?;
        let sandbox = find(&["RunPodSandbox for", uid, "returns sandbox id"])?;
        let id = last_quoted(sandbox)?;
        let within = format!("CreateContainer within sandbox \\\"{id}");
        let created = find(&[&within, "returns container id"])?;
        let id = last_quoted(created)?;
        let start = format!("StartContainer for \\\"{id}");
        let started = find(&[&start, "returns successfully"])?;
        let words = kind.ready();
        let said = on_node(
            cluster,
            &format!("grep -rh '{words}' /var/log/pods/*_{uid}/ | head -1"),
        )?;
        Ok(Self {
            asked: stamp(asked)?,
            sandbox: stamp(sandbox)?,
            created: stamp(created)?,
            started: stamp(started)?,
            ready: parse(said.split(' ').next().unwrap_or_default())?,
        })
    }

    /// Milliseconds from one moment to another.
    pub(super) fn between(from: OffsetDateTime, to: OffsetDateTime) -> f64 {
        (to - from).as_seconds_f64() * 1000.0
    }

    /// Milliseconds from the first moment to the last.
    pub(super) fn whole(&self) -> f64 {
        Self::between(self.asked, self.ready)
    }
}

fn on_node(cluster: &ClusterName, script: &str) -> Result<String> {
    command::output(cluster::on_node(cluster, NODE)?.args(["sh", "-c", script]))
}

/// The time of a line of containerd's log.
fn stamp(line: &str) -> Result<OffsetDateTime> {
    let rest = line.split("time=\"").nth(1).context("a line has no time")?;
    parse(rest.split('"').next().unwrap_or_default())
}

fn parse(text: &str) -> Result<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).with_context(|| format!("{text:?} is no time"))
}

/// The last `\"word\"` of a line.
fn last_quoted(line: &str) -> Result<&str> {
    line.rsplit("\\\"").nth(1).context("a line names nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_containerds_log_are_read() {
        let line = r#"time="2026-01-02T03:04:05.678901234Z" level=info msg="RunPodSandbox for name:\"a\" uid:\"u\" returns sandbox id \"abc\"""#;
        assert_eq!(last_quoted(line).unwrap(), "abc");
        let second = line.replace("05.678", "06.179");
        let (first, second) = (stamp(line).unwrap(), stamp(&second).unwrap());
        assert!((Moments::between(first, second) - 501.0).abs() < 1e-6);
        assert!(stamp("no time").is_err());
    }
}
