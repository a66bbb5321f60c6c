//! The figures, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
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
        let name = name.into();
        self.figures.push(Figure {
            group,
            name,
            value,
            unit,
        });
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

    /// Prints the table.
    pub(super) fn print(&self) {
        let mut group = "";
        for figure in &self.figures {
            if figure.group != group {
                group = figure.group;
                println!("\n{group}");
            }
            let Figure {
                name, value, unit, ..
            } = figure;
            println!("  {name:<58} {value:>10.2} {unit}");
        }
    }

    /// Writes them as JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", path.display()))
    }
}
