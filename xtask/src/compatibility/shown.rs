//! Which test shows a field: `vm-api/tests/shown.tsv`, a line each of kind, path and tests.
//!
//! A path that ends in `.**` means all fields below it that have no line of their own. A test is
//! `file::function`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::source::Source;

/// The file.
const FILE: &str = "vm-api/tests/shown.tsv";

/// The tests that go through the schemas: they have each field without naming it.
pub(super) const SWEEP: &str = "vm-api/tests/support.rs";

/// A test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    /// Its file, from the root of the workspace.
    pub(super) file: String,
    /// The function.
    pub(super) function: String,
}

/// The lines of the file, and which of them were needed.
pub(super) struct Shown {
    root: PathBuf,
    lines: BTreeMap<(String, String), Vec<Test>>,
    used: RefCell<BTreeSet<(String, String)>>,
    sources: RefCell<BTreeMap<String, Source>>,
}

impl Shown {
    /// Reads the file.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("read {FILE}"))?;
        Self::parse(root, &text).with_context(|| format!("read {FILE}"))
    }

    pub(super) fn parse(root: &Path, text: &str) -> Result<Self> {
        let mut lines = BTreeMap::new();
        let content = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in content {
            let [kind, path, tests] = line.split('\t').collect::<Vec<_>>()[..] else {
                bail!("`{line}` has not three columns");
            };
            let tests = tests.split(' ').map(Test::parse).collect::<Result<_>>()?;
            let key = (kind.to_owned(), path.to_owned());
            let before = lines.insert(key, tests);
            ensure!(before.is_none(), "{kind} {path} is there twice");
        }
        Ok(Self {
            root: root.to_owned(),
            lines,
            used: RefCell::default(),
            sources: RefCell::default(),
        })
    }

    /// The tests that show a field, which speak of it; none if it has none.
    pub(super) fn tests(&self, kind: &str, path: &str) -> Result<Vec<Test>> {
        let Some((key, tests)) = self.line(kind, path) else {
            return Ok(Vec::new());
        };
        self.used.borrow_mut().insert(key);
        let words = words(path);
        let mut speaks = false;
        for test in &tests {
            let said = self.said(test)?;
            speaks |= test.file == SWEEP || words.iter().all(|word| mentions(&said, word));
        }
        ensure!(
            speaks,
            "{kind} {path}: neither of its tests speaks of {}: {tests:?}",
            words.join(" and ")
        );
        Ok(tests)
    }

    /// Refuses lines of fields that are none, or need no test.
    pub(super) fn all_used(&self) -> Result<()> {
        let used = self.used.borrow();
        let idle: Vec<_> = self
            .lines
            .keys()
            .filter(|key| !used.contains(*key))
            .collect();
        ensure!(idle.is_empty(), "{FILE}: no field needs {idle:?}");
        Ok(())
    }

    /// The line of the field itself, or the longest of those that mean it among others.
    fn line(&self, kind: &str, path: &str) -> Option<((String, String), Vec<Test>)> {
        let means = |pattern: &str| match pattern.strip_suffix(".**") {
            Some(parent) => path
                .strip_prefix(parent)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])),
            None => pattern == path,
        };
        let lines = self
            .lines
            .iter()
            .filter(|((own, pattern), _)| own == kind && means(pattern));
        let (key, tests) =
            lines.max_by_key(|((_, pattern), _)| (pattern == path, pattern.len()))?;
        Some((key.clone(), tests.clone()))
    }

    /// What a test says, and what its file says beside its other tests.
    pub(super) fn said(&self, test: &Test) -> Result<String> {
        let mut sources = self.sources.borrow_mut();
        if !sources.contains_key(&test.file) {
            let source = Source::read(&self.root.join(&test.file))?;
            sources.insert(test.file.clone(), source);
        }
        sources[&test.file]
            .of(&test.function)
            .with_context(|| format!("{} has no {}", test.file, test.function))
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self> {
        let (file, function) = text
            .split_once("::")
            .with_context(|| format!("`{text}` is no test: write file::function"))?;
        Ok(Self {
            file: file.to_owned(),
            function: function.to_owned(),
        })
    }
}

/// The names that a test of a field has to speak of: its own, and that of what it is a part of.
fn words(path: &str) -> Vec<String> {
    let named = path.split('.').map(|name| name.trim_end_matches("[]"));
    let named = named.filter(|name| !matches!(*name, "*" | "**" | "spec" | "status"));
    let mut words: Vec<_> = named.map(str::to_owned).collect();
    words.split_off(words.len().saturating_sub(2))
}

/// Whether a text speaks of a field, by its name in the API or in Rust.
fn mentions(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    [name.to_owned(), snake_case(name)].iter().any(|name| {
        text.match_indices(name.as_str()).any(|(start, _)| {
            let before = text[..start].chars().next_back();
            let after = text[start + name.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
    })
}

/// The name of a field in Rust.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut after_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_small {
            snake.push('_');
        }
        after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_either_of_its_names() {
        assert_eq!(snake_case("autoattachVSOCK"), "autoattach_vsock");
        assert_eq!(
            snake_case("dedicatedCpuPlacement"),
            "dedicated_cpu_placement"
        );
        assert!(mentions("x.io_threads = 1", "ioThreads"));
        assert!(mentions("\"ioThreads\": {}", "ioThreads"));
        assert!(!mentions("ioThreadsPolicy", "ioThreads"));
        assert_eq!(
            words("spec.domain.cpu.features[].name"),
            ["features", "name"]
        );
        assert_eq!(words("spec.nodeSelector.*"), ["nodeSelector"]);
    }

    #[test]
    fn a_line_of_its_own_comes_before_one_for_many() {
        let text = "K\tspec.a.**\tf::one\nK\tspec.a.b.**\tf::two\nK\tspec.a.b.c\tf::three\n";
        let shown = Shown::parse(Path::new("/"), text).unwrap();
        for (path, function) in [
            ("spec.a", "one"),
            ("spec.a.x", "one"),
            ("spec.a.b.x", "two"),
            ("spec.a.b.c", "three"),
        ] {
            assert_eq!(shown.line("K", path).unwrap().1[0].function, function);
        }
        assert!(shown.line("K", "spec.ab").is_none() && shown.line("L", "spec.a").is_none());
        for wrong in ["K\tspec.a", "K\ta\tfile", "K\ta\tf::g\nK\ta\tf::h"] {
            assert!(Shown::parse(Path::new("/"), wrong).is_err(), "{wrong}");
        }
    }
}
