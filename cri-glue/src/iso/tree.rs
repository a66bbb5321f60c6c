//! The files that an image is made of.

use std::collections::BTreeMap;

/// A tree of directories and files.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: Vec<Vec<u8>>,
    pub(super) root: Directory,
}

/// A directory: entries by name.
#[derive(Debug, Default)]
pub(super) struct Directory(pub(super) BTreeMap<String, Entry>);

/// What is in a directory.
#[derive(Debug)]
pub(super) enum Entry {
    /// The file of this number.
    File(usize),
    /// A directory.
    Directory(Directory),
}

impl Tree {
    /// Adds a file at `path`, whose parts are separated by `/` and have at most 255 bytes each; the
    /// directories above it are made. What is at a path already is replaced.
    pub(crate) fn add(&mut self, path: &str, content: Vec<u8>) {
        let mut directory = &mut self.root;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            let made = || Entry::Directory(Directory::default());
            let entry = directory.0.entry(part.to_owned()).or_insert_with(made);
            if let Entry::File(_) = entry {
                *entry = made();
            }
            let Entry::Directory(below) = entry else {
                return;
            };
            directory = below;
        }
        self.files.push(content);
        let file = Entry::File(self.files.len() - 1);
        directory.0.insert(name.to_owned(), file);
    }

    /// What is in the files, in the order of their numbers.
    pub(super) fn files(&self) -> &[Vec<u8>] {
        &self.files
    }

    /// Names of files and directories at the root.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.root.0.keys().map(String::as_str)
    }
}
