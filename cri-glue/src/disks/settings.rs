//! Settings that the pod mounts: a ConfigMap, a Secret, fields of the pod, a token.
//!
//! Kubelet makes such a directory of links to links, all inside. A pod that is written by hand can have
//! anything there: it is read with the rights of the pod's user, beneath the mount, and within bounds.

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::OFlags;

use super::{DiskError, Sources};
use crate::beneath::{Directory, Found, Links};
use crate::iso::Tree;
use crate::mounts::Volume;

/// Bytes of one file: an object of Kubernetes has no more.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Bytes of all files.
const MAX_BYTES: u64 = 4 << 20;

/// Files and directories, and directories in each other.
const MAX_ENTRIES: usize = 4096;
const MAX_DEPTH: usize = 8;

/// Names under which Windows looks for answers, whatever their case (Windows Setup, Implicit Answer
/// File Search Order).
const ANSWERS: [&str; 2] = ["autounattend.xml", "unattend.xml"];

/// The files that the pod mounts as the volume `name`.
pub(super) fn read(name: &str, sources: &Sources<'_>) -> Result<Tree, DiskError> {
    let Volume::Mount { source, .. } = sources.mounts.volume(name)? else {
        return Err(DiskError::NoSettings {
            name: name.to_owned(),
        });
    };
    let directory = Directory::open(source);
    let directory = directory.map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => DiskError::NoSettings {
            name: name.to_owned(),
        },
        _ => unread(name, Path::new("."), error),
    })?;
    let mut reader = Reader {
        name,
        mount: &directory,
        tree: Tree::default(),
        entries: 0,
        bytes: 0,
    };
    let read = sources.identity.run(|| reader.directory(Path::new(""), 0));
    read.unwrap_or_else(|error| Err(unread(name, Path::new("."), error)))?;
    Ok(reader.tree)
}

/// That the set-up of Windows will find its answers.
pub(super) fn check_answers(name: &str, tree: &Tree) -> Result<(), DiskError> {
    let is_answer = |name: &str| {
        ANSWERS
            .iter()
            .any(|answer| answer.eq_ignore_ascii_case(name))
    };
    if tree.names().any(is_answer) {
        return Ok(());
    }
    Err(DiskError::NoAnswers {
        name: name.to_owned(),
    })
}

fn unread(name: &str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Settings {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    }
}

struct Reader<'a> {
    name: &'a str,
    mount: &'a Directory,
    tree: Tree,
    entries: usize,
    bytes: u64,
}

impl Reader<'_> {
    /// Reads what is in the directory at `path` of the mount, which is `depth` below it.
    fn directory(&mut self, path: &Path, depth: usize) -> Result<(), DiskError> {
        let name = self.name;
        let failed = |error| unread(name, path, error);
        let directory = match self.mount.find(path, Links::Followed).map_err(failed)? {
            Found::Directory(directory) => directory,
            Found::File(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
        };
        for entry in directory.entries().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Where kubelet keeps what the links lead to.
            if depth == 0 && entry.as_encoded_bytes().starts_with(b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES || depth == MAX_DEPTH {
                return Err(self.too_much());
            }
            self.entry(&path.join(entry), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, depth: usize) -> Result<(), DiskError> {
        let name = self.name;
        let failed = |error| unread(name, path, error);
        let file = match self.mount.find(path, Links::Followed).map_err(failed)? {
            Found::Directory(_) => return self.directory(path, depth + 1),
            Found::File(file) => file.open(OFlags::RDONLY).map_err(failed)?,
        };
        let no_text = || failed(io::Error::other("its name is not UTF-8"));
        let path = path.to_str().ok_or_else(no_text)?;
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(failed)?;
        let bytes = content.len() as u64;
        self.bytes += bytes;
        if bytes > MAX_FILE_BYTES || self.bytes > MAX_BYTES {
            return Err(self.too_much());
        }
        self.tree.add(path, content);
        Ok(())
    }

    fn too_much(&self) -> DiskError {
        DiskError::TooMuch {
            name: self.name.to_owned(),
            file: MAX_FILE_BYTES >> 20,
            all: MAX_BYTES >> 20,
            entries: MAX_ENTRIES,
            depth: MAX_DEPTH,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::iso::{image, tests::read as files_of};

    fn read(mount: &Path) -> Result<Vec<String>, DiskError> {
        let directory = Directory::open(mount).unwrap();
        let mut reader = Reader {
            name: "a",
            mount: &directory,
            tree: Tree::default(),
            entries: 0,
            bytes: 0,
        };
        reader.directory(Path::new(""), 0)?;
        let files = files_of(&image(&reader.tree, "x")).1;
        let line = |(path, content): (String, Vec<u8>)| {
            format!("{path}={}", String::from_utf8_lossy(&content))
        };
        Ok(files.into_iter().map(line).collect())
    }

    /// As kubelet makes it.
    fn projected() -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        let at = |name: &str| mount.path().join(name);
        fs::create_dir_all(at("..2026/b")).unwrap();
        fs::write(at("..2026/a,b"), "one").unwrap();
        fs::write(at("..2026/b/c"), "two").unwrap();
        symlink("..2026", at("..data")).unwrap();
        symlink("..data/a,b", at("a,b")).unwrap();
        symlink("..data/b", at("b")).unwrap();
        mount
    }

    #[test]
    fn what_kubelet_mounts_is_read() {
        let mount = projected();
        assert_eq!(read(mount.path()).unwrap(), ["/a,b=one", "/b/c=two"]);
        assert!(
            read(tempfile::tempdir().unwrap().path())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_settings_is_refused() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        use std::os::unix::ffi::OsStrExt;
        let refused = |make: &dyn Fn(&Path), words: &str| {
            let mount = projected();
            make(mount.path());
            let error = read(mount.path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(
            &|mount| symlink("/etc/passwd", mount.join("x")).unwrap(),
            "\"x\"",
        );
        refused(&|mount| symlink("../..", mount.join("x")).unwrap(), "\"x\"");
        refused(&|mount| symlink("none", mount.join("x")).unwrap(), "\"x\"");
        refused(&|mount| symlink(".", mount.join("x")).unwrap(), "too much");
        refused(
            &|mount| mknodat(CWD, mount.join("x"), FileType::Fifo, Mode::RWXU, 0).unwrap(),
            "a FIFO",
        );
        refused(
            &|mount| fs::write(mount.join("x"), vec![0; (1 << 20) + 1]).unwrap(),
            "too much",
        );
        refused(
            &|mount| {
                for name in 0..5 {
                    let file = fs::File::create(mount.join(format!("x{name}"))).unwrap();
                    file.set_len(1 << 20).unwrap();
                }
            },
            "too much",
        );
        refused(
            &|mount| {
                for name in 0..MAX_ENTRIES {
                    fs::write(mount.join(format!("x{name}")), "").unwrap();
                }
            },
            "too much",
        );
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        refused(&|mount| fs::write(mount.join(name), "").unwrap(), "UTF-8");
    }

    #[test]
    fn windows_finds_its_answers_or_the_machine_is_refused() {
        let mut tree = Tree::default();
        tree.add("other.xml", Vec::new());
        let error = check_answers("a", &tree).unwrap_err().to_string();
        assert!(error.contains("autounattend.xml"), "{error}");
        tree.add("Autounattend.xml", Vec::new());
        assert!(check_answers("a", &tree).is_ok());
    }
}
