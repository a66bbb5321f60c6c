//! Whether what was seen is what KubeVirt showed, but for the differences that are written down.

use anyhow::{Context, Result, bail};

use crate::recorder::Streams;

/// What KubeVirt showed, and how ours may differ.
const RECORDED: &str = include_str!("recorded.txt");

/// A word of a stream.
#[derive(Clone, Copy, Debug)]
struct Word {
    text: &'static str,
    /// It is KubeVirt's too.
    theirs: bool,
    /// It need not be seen here.
    optional: bool,
}

impl Word {
    fn read(word: &'static str) -> Self {
        let of = |text, theirs, optional| Self {
            text,
            theirs,
            optional,
        };
        match word.rsplit_once(['?', '+']) {
            Some((text, reason)) if reason.len() == 1 => of(text, word.contains('?'), true),
            _ => of(word, true, false),
        }
    }
}

/// Compares all streams of a scenario.
pub(super) fn compare(scenario: &str, seen: &Streams) -> Result<()> {
    let expected = streams_of(scenario)?;
    let mut wrong = Vec::new();
    for (stream, words) in &expected {
        let seen = seen.get(*stream).map(Vec::as_slice).unwrap_or_default();
        if !follows(seen, words) {
            let recorded: Vec<_> = words.iter().filter(|word| word.theirs).collect();
            let recorded: Vec<_> = recorded.iter().map(|word| word.text).collect();
            wrong.push(format!(
                "{stream}\n  seen:     {}\n  KubeVirt: {}",
                seen.join(" "),
                recorded.join(" ")
            ));
        }
    }
    for (stream, words) in seen {
        let told = expected.iter().any(|(expected, _)| expected == stream);
        if !told && words.iter().any(|word| word != "-") {
            wrong.push(format!(
                "{stream}\n  seen:     {}\n  KubeVirt: nothing",
                words.join(" ")
            ));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "{scenario} is not as KubeVirt showed it:\n{}",
            wrong.join("\n")
        );
    }
    Ok(())
}

fn streams_of(scenario: &str) -> Result<Vec<(&'static str, Vec<Word>)>> {
    let sections = RECORDED.split("\n# ").skip(1);
    let section = sections
        .filter_map(|section| section.split_once('\n'))
        .find(|(title, _)| title.split(':').next() == Some(scenario));
    let (_, lines) = section.with_context(|| format!("nothing is recorded of {scenario}"))?;
    let lines = lines.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (stream, words) = line.split_once(": ").with_context(|| line.to_owned())?;
            Ok((stream, words.split(' ').map(Word::read).collect()))
        })
        .collect()
}

/// Whether `seen` is `expected` without some of its optional words.
fn follows(seen: &[String], expected: &[Word]) -> bool {
    match (seen.split_first(), expected.split_first()) {
        (None, None) => true,
        (Some(_), None) => false,
        (None, Some((word, rest))) => word.optional && follows(seen, rest),
        (Some((first, later)), Some((word, rest))) => {
            (first == word.text && follows(later, rest)) || (word.optional && follows(seen, rest))
        }
    }
}

/// The comparison notices what is missing, what is too much, and a wrong order.
pub(super) fn notices_differences() -> Result<()> {
    let words: Vec<_> = ["A", "B?q", "C", "D+k"]
        .into_iter()
        .map(Word::read)
        .collect();
    let table = [
        (vec!["A", "B", "C", "D"], true),
        (vec!["A", "C"], true),
        (vec!["A", "B"], false),
        (vec!["C", "A"], false),
        (vec!["A", "C", "E"], false),
        (vec![], false),
    ];
    for (seen, expected) in table {
        let seen: Vec<_> = seen.into_iter().map(str::to_owned).collect();
        if follows(&seen, &words) != expected {
            bail!("{seen:?} should follow: {expected}");
        }
    }
    Ok(())
}
