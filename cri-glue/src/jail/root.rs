//! The jail's root: what of QEMU's tree is visible in it.
//!
//! Links at the top of the tree are made anew, directories are bound read-only by the OCI runtime.
//! Of the node's own root, only what programs are made of is taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Top-level names of a node's root in which programs and their libraries live, on all
/// distributions that containerd runs on.
const PROGRAMS: [&str; 9] = [
    "bin", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "sbin", "usr",
];

/// What a tree of QEMU's own may hold beside files, and what the jail has anew.
const NOT_OF_TREE: [&str; 6] = ["dev", "lost+found", "proc", "run", "sys", "tmp"];

/// The cache in which the dynamic linker looks libraries up, where the node has one.
const LINKER_CACHE: &str = "etc/ld.so.cache";

/// Prepares `rootfs`, an empty directory, for the tree `root`: returns the paths, from `/`, that
/// must be bound from `root` onto it.
pub(super) fn make(root: &Path, rootfs: &Path) -> io::Result<Vec<PathBuf>> {
    let is_node = root == Path::new("/");
    let mut bound = Vec::new();
    let mut names: Vec<_> = fs::read_dir(root)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let listed = |list: &[&str]| list.iter().any(|one| name == *one);
        if if is_node {
            !listed(&PROGRAMS)
        } else {
            listed(&NOT_OF_TREE)
        } {
            continue;
        }
        let (from, to) = (root.join(&name), rootfs.join(&name));
        let kind = fs::symlink_metadata(&from)?.file_type();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if kind.is_dir() {
            fs::create_dir(&to)?;
            bound.push(Path::new("/").join(&name));
        }
    }
    if is_node && root.join(LINKER_CACHE).is_file() {
        fs::create_dir(rootfs.join("etc"))?;
        fs::File::create(rootfs.join(LINKER_CACHE))?;
        bound.push(Path::new("/").join(LINKER_CACHE));
    }
    for directory in ["proc", "dev"] {
        fs::create_dir(rootfs.join(directory))?;
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_qemus_own_is_shown_whole() {
        let (tree, rootfs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["usr", "etc", "proc", "tmp"] {
            fs::create_dir(tree.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", tree.path().join("lib")).unwrap();
        fs::write(tree.path().join("README"), "").unwrap();
        let bound = make(tree.path(), rootfs.path()).unwrap();
        assert_eq!(bound, [Path::new("/etc"), Path::new("/usr")]);
        assert_eq!(
            fs::read_link(rootfs.path().join("lib")).unwrap(),
            Path::new("usr/lib")
        );
        let mut names: Vec<_> = fs::read_dir(rootfs.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["dev", "etc", "lib", "proc", "usr"]);
    }

    #[test]
    fn of_the_node_only_programs_are_shown() {
        let rootfs = tempfile::tempdir().unwrap();
        let bound = make(Path::new("/"), rootfs.path()).unwrap();
        assert!(bound.contains(&PathBuf::from("/usr")));
        assert!(!bound.contains(&PathBuf::from("/etc")));
        assert!(!bound.contains(&PathBuf::from("/root")));
    }
}
