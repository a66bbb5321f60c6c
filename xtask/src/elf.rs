//! Which shared libraries a program needs: read from the ELF files themselves, below a root of
//! their own, so that nothing of the host gets in and nothing has to run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use goblin::elf::Elf;

/// Where Debian's loader looks without configuration.
const LIBRARY_DIRS: [&str; 4] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
];

/// How many symbolic links in a row are followed before they count as a loop.
const MAX_LINKS: usize = 16;

/// Files by the path they have to be found under, relative to the new root; each with the file
/// that holds the content.
pub(crate) type Files = BTreeMap<String, PathBuf>;

/// `programs` (paths below `root`), their loader, and all the libraries they need.
///
/// # Errors
/// A library that is not below `root` is named, with who needs it.
pub(crate) fn closure(root: &Path, programs: &[&str]) -> Result<Files> {
    let mut files = Files::new();
    let mut todo: Vec<String> = programs
        .iter()
        .map(|program| (*program).to_owned())
        .collect();
    while let Some(path) = todo.pop() {
        if files.contains_key(&path) {
            continue;
        }
        // Newer releases ship everything below /usr and leave the old places to links.
        let source = resolve(root, &path)
            .or_else(|_| resolve(root, &format!("usr/{path}")))
            .with_context(|| format!("no package brought {path}"))?;
        let content =
            std::fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        let elf = Elf::parse(&content).with_context(|| format!("{path} is no ELF file"))?;
        if let Some(loader) = elf.interpreter {
            todo.push(loader.trim_start_matches('/').to_owned());
        }
        for library in &elf.libraries {
            let found = find(root, &elf.runpaths, library)
                .with_context(|| format!("{path} needs {library}, which no package brought"))?;
            todo.push(found);
        }
        files.insert(path, source);
    }
    Ok(files)
}

/// Copies what [`closure`] found below `into`.
pub(crate) fn copy(files: &Files, into: &Path) -> Result<()> {
    for (path, source) in files {
        let target = into.join(path);
        if let Some(dir) = target.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::copy(source, &target)
            .with_context(|| format!("copy {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

fn find(root: &Path, runpaths: &[&str], library: &str) -> Option<String> {
    let own = runpaths
        .iter()
        .flat_map(|paths| paths.split(':'))
        .map(|dir| dir.trim_matches('/'));
    own.chain(LIBRARY_DIRS)
        .map(|dir| format!("{dir}/{library}"))
        .find(|path| resolve(root, path).is_ok())
}

/// The regular file that `path` leads to when `root` is the root directory.
pub(crate) fn resolve(root: &Path, path: &str) -> Result<PathBuf> {
    let mut todo: Vec<OsString> = parts(Path::new(path));
    let mut inner = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            inner.pop();
            continue;
        }
        inner.push(part);
        let full = root.join(&inner);
        if full
            .symlink_metadata()
            .with_context(|| full.display().to_string())?
            .is_symlink()
        {
            links += 1;
            ensure!(
                links <= MAX_LINKS,
                "too many symbolic links at {}",
                full.display()
            );
            let target = std::fs::read_link(&full)?;
            inner.pop();
            if target.is_absolute() {
                inner.clear();
            }
            todo.extend(parts(&target));
        }
    }
    let full = root.join(inner);
    ensure!(full.symlink_metadata()?.is_file(), "{path} is no file");
    Ok(full)
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components()
        .rev()
        .filter(named)
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_never_leave_the_root() {
        let root = tempfile::tempdir().unwrap();
        let lib = root.path().join("lib");
        std::fs::create_dir(&lib).unwrap();
        std::fs::write(lib.join("real"), "").unwrap();
        symlink("/lib/real", lib.join("absolute")).unwrap();
        symlink("../../../lib/real", lib.join("relative")).unwrap();
        symlink("/etc/passwd", lib.join("outside")).unwrap();
        symlink("loop", lib.join("loop")).unwrap();
        for link in ["lib/absolute", "lib/relative"] {
            assert_eq!(resolve(root.path(), link).unwrap(), lib.join("real"));
        }
        for link in ["lib/outside", "lib/loop"] {
            assert!(resolve(root.path(), link).is_err());
        }
    }

    #[test]
    fn a_program_brings_its_loader_and_libraries() {
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap().trim_start_matches('/');
        let files = closure(Path::new("/"), &[program]).unwrap();
        assert!(files.keys().any(|path| path.ends_with("/libc.so.6")));
        assert!(files.keys().any(|path| path.contains("ld-linux")));
    }
}
