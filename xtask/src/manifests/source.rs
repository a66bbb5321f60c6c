//! Where manifests stand: files of YAML, code blocks of Markdown, and documents that such a block
//! gives a command by its standard input. Pure text: what it means is [`super::document`]'s concern.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use walkdir::WalkDir;

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Place {
    /// The file, relative to the directory that was given.
    pub(super) file: String,
    /// The block in the file, counted from 1; 0 for a file that is YAML as a whole.
    pub(super) block: usize,
    /// The document in the block, counted from 1.
    pub(super) document: usize,
    /// The heading above it, in Markdown.
    pub(super) heading: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(heading) = &self.heading {
            write!(f, " § {heading}")?;
        }
        match (self.block, self.document) {
            (0, 1) => Ok(()),
            (0, document) => write!(f, " #{document}"),
            (block, 1) => write!(f, " #{block}"),
            (block, document) => write!(f, " #{block}.{document}"),
        }
    }
}

/// Text that may be manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Where its first document stands.
    pub(super) place: Place,
    /// The text, without the indentation of its fence.
    pub(super) text: String,
}

/// All blocks of the files below `directory`, in the order of their paths.
pub(super) fn blocks(directory: &Path) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let walk = WalkDir::new(directory).sort_by_file_name();
    let shown = |path: &Path| path.strip_prefix(directory).unwrap_or(path).to_owned();
    for entry in walk {
        let entry = entry.with_context(|| format!("walk {}", directory.display()))?;
        let extension = entry.path().extension().unwrap_or_default();
        let is_markdown = extension == "md";
        if !entry.file_type().is_file()
            || !(is_markdown || extension == "yaml" || extension == "yml")
        {
            continue;
        }
        let text = fs::read_to_string(entry.path())
            .with_context(|| format!("read {}", entry.path().display()))?;
        let file = shown(entry.path()).display().to_string();
        if is_markdown {
            blocks.extend(markdown(&file, &text));
        } else {
            let place = Place {
                file,
                block: 0,
                document: 1,
                heading: None,
            };
            blocks.push(Block { place, text });
        }
    }
    if blocks.is_empty() {
        bail!(
            "{} holds neither .yaml nor .yml files nor code blocks of .md files",
            directory.display()
        );
    }
    Ok(blocks)
}

/// A fence that is open.
struct Fence {
    mark: String,
    indentation: usize,
    is_yaml: bool,
    lines: Vec<String>,
}

/// The blocks of a Markdown file that may hold manifests.
fn markdown(file: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut heading = None;
    let mut open: Option<Fence> = None;
    for line in text.lines() {
        match &mut open {
            None => match fence(line) {
                Some(begun) => open = Some(begun),
                None => heading = title(line).or(heading),
            },
            Some(fence) if line.trim() == fence.mark => {
                for text in texts(fence) {
                    let place = Place {
                        file: file.to_owned(),
                        block: blocks.len() + 1,
                        document: 1,
                        heading: heading.clone(),
                    };
                    blocks.push(Block { place, text });
                }
                open = None;
            }
            Some(fence) => {
                let blank = line.len() - line.trim_start().len();
                let cut = blank.min(fence.indentation);
                fence.lines.push(line[cut..].to_owned());
            }
        }
    }
    blocks
}

/// The fence that a line opens.
fn fence(line: &str) -> Option<Fence> {
    let text = line.trim_start();
    let marks = text.chars().take_while(|c| *c == '`').count();
    if marks < 3 {
        return None;
    }
    let language = text[marks..].split_whitespace().next().unwrap_or_default();
    Some(Fence {
        mark: "`".repeat(marks),
        indentation: line.len() - text.len(),
        is_yaml: matches!(language, "yaml" | "yml"),
        lines: Vec::new(),
    })
}

/// The text of a heading.
fn title(line: &str) -> Option<String> {
    let text = line.strip_prefix('#')?.trim_start_matches('#');
    text.starts_with(' ').then(|| text.trim().to_owned())
}

/// What in a fence may be manifests: what its commands read by a here-document, else all of it if it
/// says that it is YAML or looks like a manifest.
fn texts(fence: &Fence) -> Vec<String> {
    let read = here_documents(&fence.lines);
    if !read.is_empty() {
        return read;
    }
    let mut filled = fence.lines.iter().filter(|line| !line.trim().is_empty());
    let first = filled.next().map_or("", String::as_str);
    let is_manifest = ["apiVersion:", "kind:", "---"]
        .iter()
        .any(|begin| first.starts_with(begin));
    if fence.is_yaml || is_manifest {
        vec![fence.lines.join("\n") + "\n"]
    } else {
        Vec::new()
    }
}

/// What commands are given by `<< WORD` up to a line that is WORD.
fn here_documents(lines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = lines.iter();
    while let Some(line) = lines.next() {
        let Some(end) = here_word(line) else {
            continue;
        };
        let text: Vec<_> = lines
            .by_ref()
            .take_while(|line| line.trim() != end)
            .map(String::as_str)
            .collect();
        found.push(text.join("\n") + "\n");
    }
    found
}

/// The word that ends the here-document which a command begins. Only commands at the line's
/// beginning count: those within a guest's user data are the guest's.
fn here_word(line: &str) -> Option<&str> {
    let command = line.trim_start_matches(['$', '#']).trim_start();
    let is_command = ["kubectl ", "cat ", "oc ", "virtctl "]
        .iter()
        .any(|name| command.starts_with(name));
    if line.starts_with(' ') || !is_command {
        return None;
    }
    let word = command
        .split_once("<<")?
        .1
        .trim_start_matches('-')
        .trim_start();
    let word = word.split_whitespace().next()?;
    let word = word.trim_matches(['"', '\'', '\\']);
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = "\
# Guide
## First machine
```yaml
kind: A
```
1. in a list
   ```yml
   kind: B
   nested:
     c: d
   ```
### By hand
```bash
echo no manifest
```
```console
$ kubectl apply -f - <<EOF
kind: C
EOF
$ cat <<'END' | kubectl create -f -
kind: D
END
```
```
apiVersion: v1
```
````yaml
userData: |
  cat << EOF > /a
  EOF
```
````
";

    #[test]
    fn blocks_are_found_with_their_headings() {
        let found: Vec<_> = markdown("a.md", GUIDE)
            .into_iter()
            .map(|block| (block.place.to_string(), block.text))
            .collect();
        let block = |place: &str, text: &str| (place.to_owned(), text.to_owned());
        assert_eq!(
            found,
            [
                block("a.md § First machine #1", "kind: A\n"),
                block("a.md § First machine #2", "kind: B\nnested:\n  c: d\n"),
                block("a.md § By hand #3", "kind: C\n"),
                block("a.md § By hand #4", "kind: D\n"),
                block("a.md § By hand #5", "apiVersion: v1\n"),
                block(
                    "a.md § By hand #6",
                    "userData: |\n  cat << EOF > /a\n  EOF\n```\n"
                ),
            ]
        );
    }

    #[test]
    fn a_directory_without_manifests_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        assert!(blocks(empty.path()).is_err());
    }
}
