//! The figures as bars, a picture for each group and unit.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use svg::Document;
use svg::node::element::{Rectangle, Text};

use super::report::{Figure, Report};

/// In SVG's pixels: a line, where the bars begin, how long the longest is, and the whole width.
const LINE: usize = 22;
const BARS: usize = 330;
const LONGEST: f64 = 300.0;
const WIDTH: usize = 720;

/// A blue and a grey that show on light and on dark pages.
const COLOUR: &str = "#3b82c4";
const WORDS: &str = "#808080";

/// Writes them to `directory`, named by group and unit.
pub(super) fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for figures in report.groups() {
        let [first, _, ..] = figures[..] else {
            continue;
        };
        if first.unit.is_empty() {
            continue;
        }
        let path = directory.join(file_name(first));
        svg::save(&path, &picture(&figures))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The first words of the group, and the unit.
fn file_name(figure: &Figure) -> String {
    let words = figure.group.split([',', ':', '(']).next();
    let name = format!("{} {}", words.unwrap_or_default().trim(), figure.unit);
    let letters = name
        .to_lowercase()
        .replace(|it: char| !it.is_alphanumeric(), "-");
    format!("{letters}.svg")
}

fn picture(figures: &[&Figure]) -> Document {
    let most = figures.iter().map(|it| it.value).fold(0.0, f64::max);
    let height = LINE * (figures.len() + 2);
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .set("fill", WORDS);
    if let Some(first) = figures.first() {
        let title = format!("{} [{}]", first.group, first.unit);
        document = document.add(Text::new(title).set("x", 8).set("y", LINE - 6));
    }
    for (index, figure) in figures.iter().enumerate() {
        let top = LINE * (index + 1);
        // What is below zero has no bar, only its figure.
        let length = figure.value.max(0.0) / most.max(f64::MIN_POSITIVE) * LONGEST;
        let words = top + LINE - 7;
        document = document
            .add(
                Text::new(&*figure.name)
                    .set("x", BARS - 8)
                    .set("y", words)
                    .set("text-anchor", "end"),
            )
            .add(
                Rectangle::new()
                    .set("x", BARS)
                    .set("y", top + 3)
                    .set("width", length)
                    .set("height", LINE - 6)
                    .set("fill", COLOUR),
            )
            .add(
                Text::new(format!("{:.1}", figure.value))
                    .set("x", BARS as f64 + length + 6.0)
                    .set("y", words),
            );
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_figures_say() {
        let mut report = Report::default();
        report.add("Start, medians", "a", 50.0, "ms");
        report.add("Start, medians", "a / b", 0.5, "");
        report.add("Start, medians", "b < c", 100.0, "ms");
        report.add("Start, medians", "b - c", -20.0, "ms");
        let directory = tempfile::tempdir().unwrap();
        write(&report, directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let svg = fs::read_to_string(directory.path().join("start-ms.svg")).unwrap();
        for part in [
            "width=\"0\"",
            "width=\"150\"",
            "width=\"300\"",
            "b &lt; c",
            ">100.0",
        ] {
            assert!(
                svg.replace('\n', "").contains(part),
                "{part} is not in {svg}"
            );
        }
    }
}
