//! The table of all documents, for readers and for programs.

use std::fmt::Write;

use serde::Serialize;

use super::document::Document;
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
        let cells = [self.place.to_string(), object, class.to_string(), details];
        format!("| {} |\n", cells.map(|cell| cell_text(&cell)).join(" | "))
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

    /// The whole table.
    pub(super) fn markdown(&self) -> String {
        let mut text = self.totals();
        text.push_str("\n| manifest | object | becomes | because |\n|---|---|---|---|\n");
        text.extend(self.rows.iter().map(Row::line));
        text
    }
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

| manifest | object | becomes | because |
|---|---|---|---|
| a.yaml | VirtualMachine a | works (not run) |  |
| b.yaml | VirtualMachine a | refused | when applied: wrong \\| odd. KubeVirt refuses it too: so it does |
| c.yaml | VirtualMachine a | not supported | `spec.x`: leave it out |
";
        assert_eq!(report.markdown(), expected);
    }
}
