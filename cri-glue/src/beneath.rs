//! Opening what is inside a directory that somebody else fills: an image's root, a claim.
//!
//! Every open is confined by `openat2`, so that neither `..`, nor a symbolic link, nor a rename at
//! the wrong moment leads out of the directory. Nothing that is opened here can block.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// A directory whose contents are not trusted.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// Whether symbolic links inside a directory are followed; they never lead out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// A path with a link in it is refused (`ELOOP`).
    Refused,
    /// Links that stay inside are followed, as kubelet's `..data` needs.
    Followed,
}

impl Directory {
    /// Opens the directory at `path`, which is trusted: it comes from the runtime.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens `path` beneath the directory without following a link, for `flags` (an access mode,
    /// `CREATE`, `EXCL`, `PATH`, `DIRECTORY`). A leading `/` means the directory itself.
    pub(crate) fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.resolve(path, flags | OFlags::NOFOLLOW, mode, Links::Refused)
    }

    /// Opens the directory at `path` beneath this one.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<Self> {
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .map(Self)
    }

    /// Opens `path` beneath the directory for reading.
    pub(crate) fn read(&self, path: &Path, links: Links) -> io::Result<File> {
        Ok(self
            .resolve(path, OFlags::RDONLY, Mode::empty(), links)?
            .into())
    }

    /// Opens `path` for reading as if the directory were `/`, absolute links included: for trees
    /// that are trusted.
    pub(crate) fn read_in_root(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.0, path, flags, Mode::empty(), resolve)?.into())
    }

    /// What is at `path`, itself and not what it links to; `None` if nothing is.
    pub(crate) fn kind(&self, path: &Path) -> io::Result<Option<std::fs::FileType>> {
        match self.open_at(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd).metadata()?.file_type())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names of the entries.
    pub(crate) fn entries(&self) -> io::Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let readable = openat(
            &self.0,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(readable)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(std::ffi::OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode, links: Links) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let path = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refused {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        // Without NONBLOCK, opening a FIFO waits for its other end.
        let mut flags = flags | OFlags::CLOEXEC;
        if !flags.contains(OFlags::PATH) {
            flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
        }
        Ok(openat2(&self.0, path, flags, mode, resolve)?)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The word for a kind of file in a message.
pub(crate) fn kind_word(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a regular file",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("disk")).unwrap();
        std::fs::write(root.path().join("disk/a"), "inside").unwrap();
        symlink("/etc/passwd", root.path().join("out")).unwrap();
        symlink("disk/a", root.path().join("in")).unwrap();
        symlink("../../../../etc/passwd", root.path().join("disk/up")).unwrap();
        symlink("/etc", root.path().join("etc")).unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let read = |path: &str, links| directory.read(Path::new(path), links);
        assert!(read("/disk/a", Links::Refused).is_ok());
        assert!(read("in", Links::Followed).is_ok());
        assert!(read("in", Links::Refused).is_err());
        for path in [
            "out",
            "disk/up",
            "etc/passwd",
            "../x",
            "disk/../../etc/passwd",
        ] {
            assert!(read(path, Links::Followed).is_err(), "{path}");
            assert!(read(path, Links::Refused).is_err(), "{path}");
        }
        assert!(
            directory
                .kind(Path::new("out"))
                .unwrap()
                .unwrap()
                .is_symlink()
        );
        assert!(directory.kind(Path::new("none")).unwrap().is_none());
        assert_eq!(directory.entries().unwrap(), ["disk", "etc", "in", "out"]);
    }

    #[test]
    fn a_fifo_does_not_block() {
        let root = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            CWD,
            root.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let file = directory.read(Path::new("fifo"), Links::Refused).unwrap();
        assert_eq!(kind_word(file.metadata().unwrap().file_type()), "a FIFO");
    }
}
