//! The table of all documents, for readers and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::document::Document;
use super::known;
use super::source::Place;
use super::verdict::{Class, Field, Kubevirt, Stage, Verdict};

/// A line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    place: Place,
    kind: String,
    name: String,
    verdict: Verdict,
}

/// All documents.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// In the order of their places.
    pub(super) rows: Vec<Row>,
    /// Documents that are part of an object.
    pub(super) fragments: usize,
    /// Documents that leave something out.
    pub(super) elided: usize,
}

impl Row {
    /// Of a document.
    pub(super) fn new(document: &Document, verdict: Verdict) -> Self {
        Self {
            place: document.place.clone(),
            kind: document.kind().to_owned(),
            name: document.name().to_owned(),
            verdict,
        }
    }

    fn line(&self) -> String {
        let (class, details) = (self.verdict.class(), details(&self.verdict));
        let object = match (self.kind.as_str(), self.name.as_str()) {
            ("", _) => "–".to_owned(),
            (kind, "") => kind.to_owned(),
            (kind, name) => format!("{kind} {name}"),
        };
        line(&[self.place.to_string(), object, class.to_string(), details])
    }
}

impl Report {
    /// How many documents are in a class.
    pub(super) fn count(&self, class: Class) -> usize {
        let of_class = |row: &&Row| row.verdict.class() == class;
        self.rows.iter().filter(of_class).count()
    }

    /// The number of each class.
    pub(super) fn totals(&self) -> String {
        let mut text = String::from("| class | documents |\n|---|---|\n");
        for class in Class::ALL {
            match self.count(class) {
                0 => {}
                count => _ = writeln!(text, "| {class} | {count} |"),
            }
        }
        let all = self.rows.len();
        let parts = self.fragments + self.elided;
        _ = writeln!(text, "| all whole documents | {all} |");
        _ = writeln!(text, "| parts of objects, not looked at | {parts} |");
        text
    }

    /// All tables: the numbers, the fields that do not work, the documents. `fold` puts documents of
    /// the same kind with the same verdict in one line.
    pub(super) fn markdown(&self, fold: bool) -> String {
        let mut text = self.totals();
        text.push_str(&self.not_supported());
        if fold {
            text.push_str("\n| kind | becomes | because | names |\n|---|---|---|---|\n");
            text.extend(self.folded());
        } else {
            text.push_str("\n| manifest | object | becomes | because |\n|---|---|---|---|\n");
            text.extend(self.rows.iter().map(Row::line));
        }
        text
    }

    /// What does not work, and how many documents ask for it.
    fn not_supported(&self) -> String {
        let mut asked = BTreeMap::<_, usize>::new();
        for row in &self.rows {
            let Verdict::NotSupported { fields } = &row.verdict else {
                continue;
            };
            let each: BTreeSet<_> = fields
                .iter()
                .map(|field| (known::short(&field.path), field.message.as_str()))
                .collect();
            for field in each {
                *asked.entry(field).or_default() += 1;
            }
        }
        if asked.is_empty() {
            return String::new();
        }
        let mut text =
            String::from("\n| not supported | documents | why, or what to do |\n|---|---|---|\n");
        for ((path, message), count) in asked {
            text.push_str(&line(&[
                format!("`{path}`"),
                count.to_string(),
                message.to_owned(),
            ]));
        }
        text
    }

    fn folded(&self) -> impl Iterator<Item = String> {
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for row in &self.rows {
            let key = (row.verdict.class(), &row.kind, details(&row.verdict));
            names.entry(key).or_default().push(row.name.as_str());
        }
        names.into_iter().map(|((class, kind, details), names)| {
            line(&[kind.clone(), class.to_string(), details, names.join(", ")])
        })
    }
}

/// A line of a table.
fn line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell_text(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// `document` with `tables` in place of what a section of that name holds.
pub(super) fn put(document: &str, section: &str, tables: &str) -> Result<String> {
    let begin = format!("<!-- manifests: {section} -->\n");
    let (before, rest) = document
        .split_once(&begin)
        .with_context(|| format!("there is no line {}", begin.trim()))?;
    let (_, after) = rest
        .split_once("<!-- end -->")
        .with_context(|| format!("the section {section} has no line <!-- end -->"))?;
    Ok(format!("{before}{begin}\n{tables}\n<!-- end -->{after}"))
}

fn details(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Works => String::new(),
        Verdict::Runs { seen } => seen.clone(),
        Verdict::NotSupported { fields } => sentences(fields),
        Verdict::Needs { what } => what.join("; "),
        Verdict::Unschedulable { why } | Verdict::Failed { why } => why.clone(),
        Verdict::Refused {
            stage,
            fields,
            kubevirt,
        } => {
            let stage = match stage {
                Stage::Apply => "when applied",
                Stage::Start => "when started",
            };
            let kubevirt = match kubevirt {
                Kubevirt::Refuses(why) => format!("KubeVirt refuses it too: {why}"),
                Kubevirt::Unknown => "what KubeVirt says is not known".to_owned(),
            };
            format!("{stage}: {}. {kubevirt}", sentences(fields))
        }
    }
}

fn sentences(fields: &[Field]) -> String {
    let all: Vec<_> = fields.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// Text in a cell.
fn cell_text(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_has_a_line_and_each_class_a_number() {
        let row = |file: &str, verdict| Row {
            place: Place {
                file: file.to_owned(),
                block: 0,
                document: 1,
                heading: None,
            },
            kind: "VirtualMachine".to_owned(),
            name: "a".to_owned(),
            verdict,
        };
        let says = Kubevirt::Refuses("so it does".to_owned());
        let report = Report {
            rows: vec![
                row("a.yaml", Verdict::Works),
                row("b.yaml", Verdict::refused("wrong | odd", says)),
                row("c.yaml", Verdict::not_supported("spec.x", "leave it out")),
            ],
            fragments: 2,
            elided: 1,
        };
        let expected = "\
| class | documents |
|---|---|
| works (not run) | 1 |
| refused | 1 |
| not supported | 1 |
| all whole documents | 3 |
| parts of objects, not looked at | 3 |

| not supported | documents | why, or what to do |
|---|---|---|
| `spec.x` | 1 | leave it out |

| manifest | object | becomes | because |
|---|---|---|---|
| a.yaml | VirtualMachine a | works (not run) |  |
| b.yaml | VirtualMachine a | refused | when applied: wrong \\| odd. KubeVirt refuses it too: so it does |
| c.yaml | VirtualMachine a | not supported | `spec.x`: leave it out |
";
        assert_eq!(report.markdown(false), expected);
        let folded = report.markdown(true);
        assert!(
            folded.contains("| VirtualMachine | works (not run) |  | a |"),
            "{folded}"
        );
    }

    #[test]
    fn a_section_of_a_document_is_replaced() {
        let document = "a\n<!-- manifests: guide -->\nold\n<!-- end -->\nb\n";
        let expected = "a\n<!-- manifests: guide -->\n\nnew\n\n<!-- end -->\nb\n";
        assert_eq!(put(document, "guide", "new\n").unwrap(), expected);
        assert!(put(document, "examples", "new\n").is_err());
    }
}
