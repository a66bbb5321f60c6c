//! The documents of a block: objects, fragments that only show a part of one, and what is no YAML.

use serde_json::Value;

use super::source::{Block, Place};

/// A document that claims to be a whole manifest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Where it stands.
    pub(super) place: Place,
    /// What it is.
    pub(super) content: Content,
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// An object, or what looks like one.
    Object(Value),
    /// It names a kind and is no YAML.
    Unreadable {
        /// The text, as it stands there.
        text: String,
        /// Why it cannot be read.
        error: String,
    },
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Whole documents.
    pub(super) documents: Vec<Document>,
    /// Documents that name no kind or no version of one: a part of an object.
    pub(super) fragments: usize,
    /// Documents that leave something out and say so by an ellipsis.
    pub(super) elided: usize,
}

/// Lines that stand for what is left out, in the blocks of a text.
const ELLIPSES: [&str; 5] = ["...", "[...]", "[..]", "…", "<...>"];

impl Document {
    /// The object, unless it cannot be read.
    pub(super) fn object(&self) -> Option<&Value> {
        match &self.content {
            Content::Object(object) => Some(object),
            Content::Unreadable { .. } => None,
        }
    }

    /// A text of the object, empty if there is none.
    pub(super) fn text(&self, pointer: &str) -> &str {
        let value = self.object().and_then(|object| object.pointer(pointer));
        value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The API group, empty for the core's.
    pub(super) fn group(&self) -> &str {
        let version = self.text("/apiVersion");
        version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// The kind.
    pub(super) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Whether it is of KubeVirt.
    pub(super) fn is_of_kubevirt(&self) -> bool {
        match &self.content {
            Content::Object(_) => {
                let group = self.group();
                group == "kubevirt.io" || group.ends_with(".kubevirt.io")
            }
            Content::Unreadable { text, .. } => text
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("apiVersion:"))
                .any(|version| version.contains("kubevirt.io/")),
        }
    }
}

/// Reads the documents of all blocks.
pub(super) fn read(blocks: &[Block]) -> Reading {
    let mut reading = Reading::default();
    for block in blocks {
        let mut number = 0;
        let may_elide = block.place.block > 0;
        for text in documents(&block.text) {
            let mut place = block.place.clone();
            for content in contents(&text, may_elide, &mut reading) {
                number += 1;
                place.document = number;
                let place = place.clone();
                reading.documents.push(Document { place, content });
            }
        }
    }
    reading
}

/// The texts between the lines that separate documents.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents
}

fn contents(text: &str, may_elide: bool, reading: &mut Reading) -> Vec<Content> {
    let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_empty) {
        return Vec::new();
    }
    if may_elide && text.lines().any(|line| ELLIPSES.contains(&line.trim())) {
        reading.elided += 1;
        return Vec::new();
    }
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(mut list)) if list.get("kind") == Some(&"List".into()) => {
            let items = list.get_mut("items").map(Value::take);
            let items = items.as_ref().and_then(Value::as_array);
            items
                .into_iter()
                .flatten()
                .cloned()
                .map(Content::Object)
                .collect()
        }
        Ok(object) if is_whole(&object) => vec![Content::Object(object)],
        Err(error) if names_kind(text) => {
            let text = text.to_owned();
            let error = error.to_string();
            let error = error.lines().next().unwrap_or_default().to_owned();
            vec![Content::Unreadable { text, error }]
        }
        _ => {
            reading.fragments += 1;
            Vec::new()
        }
    }
}

/// Whether it says what it is.
fn is_whole(object: &Value) -> bool {
    object["kind"].is_string() && object["apiVersion"].is_string()
}

/// Whether it would say so if it could be read.
fn names_kind(text: &str) -> bool {
    let begins = |key: &str| text.lines().any(|line| line.trim_start().starts_with(key));
    begins("kind:") && begins("apiVersion:")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(text: &str) -> Reading {
        let place = Place {
            file: "a.yaml".to_owned(),
            block: 1,
            document: 1,
            heading: None,
        };
        let text = text.to_owned();
        read(&[Block { place, text }])
    }

    #[test]
    fn objects_are_told_from_parts_of_them() {
        let reading = reading(
            "# comment\n---\napiVersion: kubevirt.io/v1\nkind: VirtualMachine\nspec: {a: 1}\n---\n\
             spec:\n  a: 1\n---\nkind: Pod\n---\napiVersion: v1\nkind: Pod\nspec:\n  ...\n---\n\
             apiVersion: kubevirt.io/v1\nkind: A\n  b: c\n---\na: b: c\n",
        );
        assert_eq!((reading.fragments, reading.elided), (3, 1));
        let [machine, unreadable] = &reading.documents[..] else {
            panic!("{:?}", reading.documents);
        };
        assert_eq!(machine.object().unwrap()["spec"], json!({ "a": 1 }));
        assert_eq!(machine.place.to_string(), "a.yaml #1");
        assert_eq!(
            (machine.group(), machine.kind()),
            ("kubevirt.io", "VirtualMachine")
        );
        assert!(matches!(unreadable.content, Content::Unreadable { .. }));
        assert_eq!(unreadable.place.to_string(), "a.yaml #1.2");
        assert!(machine.is_of_kubevirt() && unreadable.is_of_kubevirt());
    }

    #[test]
    fn a_list_is_its_items() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {kind: A, apiVersion: v1}\n- {kind: B, apiVersion: clone.kubevirt.io/v1}\n";
        let kinds: Vec<_> = reading(list)
            .documents
            .iter()
            .map(|it| (it.kind().to_owned(), it.is_of_kubevirt()))
            .collect();
        assert_eq!(kinds, [("A".to_owned(), false), ("B".to_owned(), true)]);
    }
}
