//! All documents together: what one refers to, another brings along.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::Document;
use super::reference::{Reference, references};

/// All documents.
pub(super) struct Library {
    /// In the order of their places.
    pub(super) documents: Vec<Document>,
    /// Where those of a kind and a name are.
    index: BTreeMap<(String, String), Vec<usize>>,
}

/// What goes with a document.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Companions {
    /// Documents that it refers to, and those that these refer to.
    pub(super) documents: Vec<usize>,
    /// What no document is.
    pub(super) missing: Vec<Reference>,
}

impl Library {
    /// Of these documents.
    pub(super) fn new(documents: Vec<Document>) -> Self {
        let mut index = BTreeMap::<_, Vec<_>>::new();
        for (at, document) in documents.iter().enumerate() {
            let key = (document.kind().to_owned(), document.name().to_owned());
            index.entry(key).or_default().push(at);
        }
        Self { documents, index }
    }

    /// The document that a reference of the one at `from` means: the nearest of its file, else the
    /// first of another. Texts use the same names for different things: a block of one means nothing of
    /// another's.
    pub(super) fn find(&self, from: usize, reference: &Reference) -> Option<usize> {
        let of_kind = |kind: &&str| {
            let key = ((*kind).to_owned(), reference.name.clone());
            self.index.get(&key).cloned().unwrap_or_default()
        };
        let mut found: Vec<_> = reference.kinds.iter().flat_map(of_kind).collect();
        let file = |at: usize| &self.documents[at].place.file;
        if self.documents[from].place.block > 0 {
            found.retain(|at| file(*at) == file(from));
        }
        found.sort_by_key(|at| (file(*at) != file(from), at.abs_diff(from)));
        found.first().copied()
    }

    /// What goes with the document at `from`.
    pub(super) fn companions(&self, from: usize) -> Companions {
        let mut companions = Companions::default();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            let Some(object) = self.documents[at].object() else {
                continue;
            };
            for reference in references(object) {
                match self.find(at, &reference) {
                    Some(found) if found == from || companions.documents.contains(&found) => {}
                    Some(found) => {
                        companions.documents.push(found);
                        open.push(found);
                    }
                    None => companions.missing.push(reference),
                }
            }
        }
        companions
    }

    /// The object of the kind and name that a reference means.
    pub(super) fn object(&self, from: usize, reference: &Reference) -> Option<&Value> {
        self.documents[self.find(from, reference)?].object()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::document::Content;
    use super::super::source::Place;
    use super::*;

    fn document(file: &str, object: Value) -> Document {
        let place = Place {
            file: file.to_owned(),
            block: 0,
            document: 1,
            heading: None,
        };
        let content = Content::Object(object);
        Document { place, content }
    }

    fn secret(note: &str) -> Value {
        json!({ "kind": "Secret", "metadata": { "name": "seed" }, "note": note })
    }

    #[test]
    fn the_nearest_is_meant_and_what_it_refers_to_goes_along() {
        let volumes = json!([
            { "cloudInitNoCloud": { "secretRef": { "name": "seed" } } },
            { "persistentVolumeClaim": { "claimName": "none" } },
        ]);
        let instancetype = json!({ "name": "small", "kind": "VirtualMachineInstancetype" });
        let library = Library::new(vec![
            document("a", secret("of another file")),
            document(
                "b",
                json!({ "kind": "VirtualMachine", "spec": {
                "instancetype": instancetype, "template": { "spec": { "volumes": volumes } },
            } }),
            ),
            document("b", secret("mine")),
            document(
                "c",
                json!({ "kind": "VirtualMachineInstancetype", "metadata": { "name": "small" } }),
            ),
        ]);
        let companions = library.companions(1);
        assert_eq!(companions.documents, [2, 3]);
        let missing: Vec<_> = companions.missing.iter().map(Reference::missing).collect();
        assert_eq!(missing, ["the PersistentVolumeClaim none"]);
        let mut documents = library.documents;
        documents[1].place.block = 1;
        assert_eq!(Library::new(documents).companions(1).documents, [2]);
    }
}
