//! The source of tests: what one of them says, and what it shares with the others of its file.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use regex::Regex;

/// A file with tests.
pub(super) struct Source {
    path: PathBuf,
    lines: Vec<String>,
    functions: Vec<Function>,
}

struct Function {
    name: String,
    lines: Range<usize>,
    is_test: bool,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Ok(Self::parse(path, &text))
    }

    fn parse(path: &Path, text: &str) -> Self {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let functions = functions(&lines);
        Self {
            path: path.to_owned(),
            lines,
            functions,
        }
    }

    /// What the test `name` says: its own lines, those of the file that belong to no other test, and
    /// its snapshots.
    pub(super) fn of(&self, name: &str) -> Option<String> {
        let own = self.functions.iter().find(|it| it.name == name)?;
        let others = self
            .functions
            .iter()
            .filter(|it| it.is_test && it.name != own.name);
        let others: Vec<_> = others.map(|it| it.lines.clone()).collect();
        let lines = self.lines.iter().enumerate();
        let lines = lines.filter(|(index, _)| !others.iter().any(|lines| lines.contains(index)));
        let mut said: Vec<_> = lines.map(|(_, line)| line.clone()).collect();
        said.extend(self.snapshots(name));
        Some(said.join("\n"))
    }

    fn snapshots(&self, name: &str) -> Vec<String> {
        let Some(directory) = self.path.parent() else {
            return Vec::new();
        };
        let entries = fs::read_dir(directory.join("snapshots"))
            .into_iter()
            .flatten();
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| {
            let file = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            file.rsplit("__").next().is_some_and(|end| {
                end.strip_suffix(".snap").is_some_and(|test| {
                    test == name
                        || test
                            .strip_prefix(name)
                            .is_some_and(|rest| rest.starts_with('-'))
                })
            })
        });
        paths
            .filter_map(|path| fs::read_to_string(path).ok())
            .collect()
    }
}

/// The functions of a file that is formatted: each ends with a brace as far in as it begins.
fn functions(lines: &[String]) -> Vec<Function> {
    let head =
        Regex::new(r"^(\s*)(?:pub(?:\([a-z]+\))? )?(?:async )?fn (\w+)").expect("it is fixed");
    let mut found = Vec::new();
    for (begin, line) in lines.iter().enumerate() {
        let Some(parts) = head.captures(line) else {
            continue;
        };
        let end = format!("{}}}", &parts[1]);
        let length = lines[begin..]
            .iter()
            .position(|line| *line == end)
            .unwrap_or(0);
        let lines_before = lines[..begin].iter().rev();
        let mut attributes = lines_before.take_while(|line| line.trim_start().starts_with("#["));
        // Tests of the cluster and of the controller are not marked, but all take the same.
        let signature = lines[begin..]
            .iter()
            .take(5)
            .map(String::as_str)
            .collect::<String>();
        let is_test = attributes.any(|line| line.contains("test"))
            || signature.contains(&format!("fn {}(node: Node)", &parts[2]))
            || signature
                .split(") ->")
                .next()
                .is_some_and(|it| it.contains("Arc<Bench>"));
        found.push(Function {
            name: parts[2].to_owned(),
            lines: begin..begin + length + 1,
            is_test,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_says_what_is_its_own_or_shared() {
        let text = "const SHARED: u8 = 1;\n\n#[test]\nfn one() {\n    own();\n}\n\nfn helper() {\n    help();\n}\n\n\
                    fn on_a_node(node: Node) {\n    far();\n}\n\n#[test]\nfn two() {\n    other();\n}\n";
        let source = Source::parse(Path::new("/x/y.rs"), text);
        let one = source.of("one").unwrap();
        for (word, there) in [
            ("SHARED", true),
            ("own()", true),
            ("help()", true),
            ("far()", false),
            ("other()", false),
        ] {
            assert_eq!(one.contains(word), there, "{word}: {one}");
        }
        assert!(source.of("three").is_none());
    }
}
