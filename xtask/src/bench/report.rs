//! The figures, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    /// What it belongs to.
    pub(super) group: &'static str,
    pub(super) name: String,
    pub(super) value: f64,
    /// None for a ratio.
    pub(super) unit: &'static str,
    /// What `SPECIFICATION.md` promises of it.
    pub(super) promised: Option<Promise>,
}

/// A bound that a figure keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Promise {
    AtMost(f64),
    AtLeast(f64),
}

impl Promise {
    fn is_kept(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::AtLeast(least) => write!(f, "at least {least}"),
        }
    }
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn add(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.figures.push(Figure {
            group,
            name: name.into(),
            value,
            unit,
            promised: None,
        });
    }

    /// Has the last figure keep a promise.
    pub(super) fn promise(&mut self, promise: Promise) {
        if let Some(last) = self.figures.last_mut() {
            last.promised = Some(promise);
        }
    }

    /// Fails with the promises that were not kept.
    pub(super) fn check(&self) -> Result<()> {
        let broken = |figure: &&Figure| {
            let promised = figure.promised;
            promised.is_some_and(|promise| !promise.is_kept(figure.value))
        };
        let broken: String = self.figures.iter().filter(broken).map(in_words).collect();
        ensure!(broken.is_empty(), "not as promised:{broken}");
        Ok(())
    }

    /// The figures of each group and unit.
    pub(super) fn groups(&self) -> impl Iterator<Item = Vec<&Figure>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for figure in &self.figures {
            let group = groups.entry((figure.group, figure.unit)).or_default();
            group.push(figure);
        }
        groups.into_values()
    }

    /// Prints the table, groups in the order of their first figures.
    pub(super) fn print(&self) {
        let mut figures: Vec<_> = self.figures.iter().collect();
        let first = |group| self.figures.iter().position(|it| it.group == group);
        figures.sort_by_key(|figure| first(figure.group));
        let mut group = "";
        for figure in figures {
            if figure.group != group {
                group = figure.group;
                println!("\n{group}");
            }
            let Figure {
                name, value, unit, ..
            } = figure;
            let promised = figure.promised.map(|promise| format!("  ({promise})"));
            let promised = promised.unwrap_or_default();
            println!("  {name:<58} {value:>10.2} {unit}{promised}");
        }
    }

    /// Writes them as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }
}

/// A figure and what was promised of it, on a line of its own.
fn in_words(figure: &Figure) -> String {
    let Figure {
        group,
        name,
        value,
        unit,
        promised,
    } = figure;
    let promised = promised.map(|promise| promise.to_string());
    let promised = promised.unwrap_or_default();
    format!("\n  {group}: {name}: {value:.2} {unit}, {promised}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_is_not_kept_is_named() {
        let mut report = Report::default();
        report.add("Start", "shim", 51.0, "ms");
        report.add("Start", "machine", 49.0, "ms");
        report.promise(Promise::AtMost(50.0));
        report.add("Throughput", "read", 1.0, "");
        report.promise(Promise::AtLeast(0.98));
        report.check().unwrap();
        report.add("Memory", "shim", 3.5, "MiB");
        report.promise(Promise::AtMost(3.0));
        report.add("Memory", "none", f64::NAN, "MiB");
        report.promise(Promise::AtMost(3.0));
        let error = report.check().unwrap_err().to_string();
        let expected = "not as promised:\n  Memory: shim: 3.50 MiB, at most 3\n  \
                        Memory: none: NaN MiB, at most 3";
        assert_eq!(error, expected);
    }
}
