//! What KubeVirt said, how an answer is compared with it, and the differences that are meant (the module
//! `differences`).

#[path = "differences.rs"]
mod differences;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use differences::{DEFAULTS, FIELDS, MORE, VERDICTS};

/// An object that KubeVirt was shown, and what it said.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) case: String,
    pub(crate) kind: String,
    pub(crate) object: Value,
    verdict: String,
    #[serde(default)]
    fields: BTreeSet<String>,
    #[serde(default)]
    defaults: BTreeMap<String, Value>,
}

/// Fields that a rejection names, or the spec that an acceptance filled in.
pub(crate) type Answer = Result<Value, BTreeSet<String>>;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    include_str!("../admission.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a case"))
        .collect()
}

/// What `new` has that `old` has not, where it begins.
fn added_to(old: &Value, new: &Value, path: &str, added: &mut BTreeMap<String, Value>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                let path = format!("{path}.{name}");
                match old.get(name) {
                    Some(old) => added_to(old, value, &path, added),
                    None => {
                        added.insert(path, value.clone());
                    }
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for (index, value) in new.iter().enumerate() {
                let old = old.get(index).unwrap_or(&Value::Null);
                added_to(old, value, &format!("{path}[{index}]"), added);
            }
        }
        _ if old != new => {
            added.insert(path.to_owned(), new.clone());
        }
        _ => {}
    }
}

/// UUIDs and serial numbers are drawn: it matters that they are there.
fn without_drawn(path: &str, value: &Value) -> Value {
    let mut value = value.clone();
    if path.ends_with(".firmware.uuid") || path.ends_with(".firmware.serial") {
        return "drawn".into();
    }
    if path.ends_with(".firmware") {
        for name in ["uuid", "serial"] {
            if let Some(value) = value.get_mut(name) {
                *value = "drawn".into();
            }
        }
    }
    value
}

/// Which rows of the tables were needed.
#[derive(Default)]
struct Needed(BTreeSet<String>);

impl Needed {
    fn note(&mut self, row: impl std::fmt::Debug) -> bool {
        self.0.insert(format!("{row:?}"));
        true
    }

    fn verdict(&mut self, case: &Case) -> bool {
        let row = VERDICTS.iter().find(|(name, _)| *name == case.case);
        row.is_some_and(|row| self.note(row))
    }

    fn field(&mut self, case: &Case, field: &str) -> bool {
        let row = FIELDS
            .iter()
            .find(|(name, path, _)| case.case.starts_with(name) && *path == field);
        row.is_some_and(|row| self.note(row))
    }

    fn more(&mut self, case: &Case, field: &str) -> bool {
        let row = MORE
            .iter()
            .find(|(name, path, _)| *name == case.case && *path == field);
        row.is_some_and(|row| self.note(row))
    }

    fn default(&mut self, case: &Case, path: &str) -> bool {
        let row = DEFAULTS
            .iter()
            .find(|(name, row, _)| (name.is_empty() || *name == case.case) && *row == path);
        row.is_some_and(|row| self.note(row))
    }

    fn superfluous(&self) -> Vec<String> {
        let verdicts = VERDICTS.iter().map(|row| format!("{row:?}"));
        let others = FIELDS
            .iter()
            .chain(MORE)
            .chain(DEFAULTS)
            .map(|row| format!("{row:?}"));
        let rows = verdicts.chain(others);
        rows.filter(|row| !self.0.contains(row)).collect()
    }
}

/// What came of all comparisons.
#[derive(Default)]
pub(crate) struct Tally {
    needed: Needed,
    wrong: Vec<String>,
    verdicts: usize,
    rejected: usize,
    fields: usize,
    accepted: usize,
    defaults: usize,
}

impl Tally {
    /// Compares an answer with KubeVirt's.
    pub(crate) fn add(&mut self, case: &Case, ours: Answer) {
        if ours.is_ok() != (case.verdict == "accept") {
            if !self.needed.verdict(case) {
                let line = format!("{}: {}, here {ours:?}", case.case, case.verdict);
                self.wrong.push(line);
            }
            return;
        }
        self.verdicts += 1;
        match ours {
            Err(ours) => self.rejection(case, &ours),
            Ok(filled) => self.acceptance(case, &filled),
        }
    }

    fn rejection(&mut self, case: &Case, ours: &BTreeSet<String>) {
        self.rejected += 1;
        let theirs = case.fields.iter();
        let theirs: BTreeSet<_> = theirs
            .filter(|field| !self.needed.field(case, field))
            .cloned()
            .collect();
        let ours = ours.iter();
        let ours: BTreeSet<_> = ours
            .filter(|field| !self.needed.more(case, field))
            .cloned()
            .collect();
        // Some rejections name none, such as those of the schema.
        if theirs.is_empty() || theirs == ours {
            self.fields += 1;
        } else {
            let line = format!("{}: names {theirs:?}, here {ours:?}", case.case);
            self.wrong.push(line);
        }
    }

    fn acceptance(&mut self, case: &Case, filled: &Value) {
        self.accepted += 1;
        let mut ours = BTreeMap::new();
        added_to(&case.object, filled, ".spec", &mut ours);
        let drawn = |(path, value): (&String, &Value)| (path.clone(), without_drawn(path, value));
        let ours: BTreeMap<_, _> = ours.iter().map(drawn).collect();
        let theirs = case.defaults.iter().map(drawn);
        let theirs: BTreeMap<_, _> = theirs
            .filter(|(path, _)| !self.needed.default(case, path))
            .collect();
        if theirs == ours {
            self.defaults += 1;
        } else {
            let line = format!("{}: fills in {theirs:?}, here {ours:?}", case.case);
            self.wrong.push(line);
        }
    }

    /// That all agree but for what is meant to differ, in one sentence; or what is not so.
    pub(crate) fn finish(self) -> Result<String, String> {
        let all = cases().len();
        if !self.wrong.is_empty() {
            return Err(self.wrong.join("\n"));
        }
        let superfluous = self.needed.superfluous();
        if !superfluous.is_empty() {
            return Err(format!("these do not differ:\n{}", superfluous.join("\n")));
        }
        if self.verdicts * 100 < all * 99 || all != 593 {
            return Err(format!("only {} of {all} are judged alike", self.verdicts));
        }
        Ok(format!(
            "of {all} objects, {} are judged alike; of {} rejections, {} name the same fields; of {} \
             accepted ones, {} have the same defaults",
            self.verdicts, self.rejected, self.fields, self.accepted, self.defaults
        ))
    }
}
