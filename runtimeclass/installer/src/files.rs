//! Writing files so that whoever reads them sees the old or the new one, never half of it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Writes `content` to `path` at once (new file, then rename) and says whether that changed it.
pub(crate) fn replace(path: &Path, content: &str) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(old) if old == content => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = beside(path);
    let mode = fs::metadata(path).map_or(0o644, |meta| meta.permissions().mode());
    fs::write(&new, content)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    fs::rename(&new, path)?;
    Ok(true)
}

/// Makes `link` point to `target` at once, whatever stood there.
///
/// A directory in that place is an installation by hand: it is refused rather than replaced.
pub(crate) fn relink(target: &Path, link: &Path) -> io::Result<()> {
    if fs::symlink_metadata(link).is_ok_and(|meta| meta.is_dir()) {
        return Err(io::Error::other(format!(
            "{} is a directory, so the runtime was installed by hand: remove it first",
            link.display()
        )));
    }
    let new = beside(link);
    remove(&new)?;
    symlink(target, &new)?;
    fs::rename(&new, link)
}

/// Copies a tree: directories, files with their modes, symbolic links as they are.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

/// Removes a file, link or tree; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".kubevirt-new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_says_whether_it_changed_and_keeps_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/config.toml");
        assert!(replace(&file, "a").unwrap());
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(!replace(&file, "a").unwrap());
        assert!(replace(&file, "b").unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "b");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn relinking_replaces_a_link_but_never_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("qemu");
        relink(Path::new("releases/a"), &link).unwrap();
        relink(Path::new("releases/b"), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("releases/b"));
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        let error = relink(Path::new("releases/c"), &link).unwrap_err();
        assert!(error.to_string().contains("installed by hand"));
    }

    #[test]
    fn a_tree_is_copied_with_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/tool"), "#!").unwrap();
        fs::set_permissions(from.join("bin/tool"), Permissions::from_mode(0o755)).unwrap();
        symlink("bin/tool", from.join("tool")).unwrap();
        let to = dir.path().join("to");
        copy_tree(&from, &to).unwrap();
        assert_eq!(
            fs::read_link(to.join("tool")).unwrap(),
            Path::new("bin/tool")
        );
        assert_eq!(
            fs::metadata(to.join("bin/tool"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
