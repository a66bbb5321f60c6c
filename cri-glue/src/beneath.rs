//! Opening what is inside a directory that somebody else fills: an image's root, a claim.
//!
//! Every open is confined by `openat2`, so that neither `..`, nor a symbolic link, nor a rename at
//! the wrong moment leads out of the directory. Files are looked at before they are opened, since
//! opening a device can do things and a FIFO can block; what was looked at is what is opened.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};

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

/// A regular file that was found and not opened yet.
#[derive(Debug)]
pub(crate) struct Regular(OwnedFd);

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file.
    File(Regular),
    /// A directory.
    Directory(Directory),
}

/// Why there is no regular file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegularError {
    /// Something else is there, in a word for messages.
    #[error("it is {0}, not a regular file")]
    Kind(&'static str),
    /// Nothing is there, or it cannot be had.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<RegularError> for io::Error {
    fn from(error: RegularError) -> Self {
        match error {
            RegularError::Kind(_) => Self::other(error),
            RegularError::Io(error) => error,
        }
    }
}

impl Regular {
    /// Finds the file at `path`, itself and not what it links to. The directories above it are
    /// trusted.
    pub(crate) fn at(path: &Path) -> Result<Self, RegularError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from)?;
        Self::check(found)
    }

    /// Opens this very file for `flags`, an access mode, with the rights of the calling thread.
    pub(crate) fn open(&self, flags: OFlags) -> io::Result<File> {
        // Without NONBLOCK, opening waits for somebody who has a lease on the file (fcntl(2)).
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(openat(CWD, path, flags, Mode::empty())?.into())
    }

    fn check(found: OwnedFd) -> Result<Self, RegularError> {
        let found = File::from(found);
        let kind = found.metadata()?.file_type();
        if kind.is_file() {
            Ok(Self(found.into()))
        } else {
            Err(RegularError::Kind(kind_word(kind)))
        }
    }
}

/// Whether there is a file at `path` in the tree `root`; both are the node's own.
pub(crate) fn check_file(root: &Path, path: &Path) -> io::Result<()> {
    match Directory::open(root)?
        .read_in_root(path)?
        .metadata()?
        .is_file()
    {
        true => Ok(()),
        false => Err(io::Error::other("it is not a file")),
    }
}

impl Directory {
    /// Opens the directory at `path`, which is trusted: it comes from the runtime.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens the directory at `path`, which is trusted, so that nothing beneath it can be written:
    /// neither by us nor by who gets a descriptor of ours and opens it anew (`/proc/self/fd`).
    ///
    /// The mount that forbids it is in a mount namespace of a thread's own, and ends with the last
    /// descriptor.
    pub(crate) fn open_read_only(path: &Path) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("read-only".into());
            let joined = thread.spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                // What the node unmounts goes from here too; what is mounted here stays here.
                let inwards = MountPropagationFlags::DOWNSTREAM;
                mount_change("/", MountPropagationFlags::REC | inwards)?;
                mount_bind(path, path)?;
                mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, c"")?;
                Self::open(path)
            })?;
            joined
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
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

    /// Finds the regular file at `path` beneath the directory.
    pub(crate) fn regular(&self, path: &Path, links: Links) -> Result<Regular, RegularError> {
        let flags = match links {
            Links::Refused => OFlags::PATH | OFlags::NOFOLLOW,
            Links::Followed => OFlags::PATH,
        };
        Regular::check(self.resolve(path, flags, Mode::empty(), links)?)
    }

    /// Finds the regular file or the directory at `path` beneath the directory.
    pub(crate) fn find(&self, path: &Path, links: Links) -> io::Result<Found> {
        let flags = match links {
            Links::Refused => OFlags::PATH | OFlags::NOFOLLOW,
            Links::Followed => OFlags::PATH,
        };
        let found = File::from(self.resolve(path, flags, Mode::empty(), links)?);
        if found.metadata()?.is_dir() {
            return Ok(Found::Directory(Self(found.into())));
        }
        Ok(Found::File(Regular::check(found.into())?))
    }

    /// Opens the regular file at `path` beneath the directory for `flags`, an access mode.
    pub(crate) fn file(
        &self,
        path: &Path,
        flags: OFlags,
        links: Links,
    ) -> Result<File, RegularError> {
        Ok(self.regular(path, links)?.open(flags)?)
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

    /// Names of the entries, one by one as the file system has them: there can be millions.
    pub(crate) fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
        let readable = openat(
            &self.0,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| match entry {
            Ok(entry) => Ok(OsString::from_vec(entry.file_name().to_bytes().to_vec())),
            Err(error) => Err(io::Error::from(error)),
        };
        let itself = |name: &io::Result<OsString>| {
            name.as_ref().is_ok_and(|name| name == "." || name == "..")
        };
        let names = rustix::fs::Dir::new(readable)?.map(name);
        Ok(names.filter(move |name| !itself(name)))
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
    use std::collections::HashSet;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;
    use rustix::fs::{RenameFlags, renameat_with};

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
        let read = |path: &str, links| directory.file(Path::new(path), OFlags::RDONLY, links);
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
        let entries: io::Result<Vec<_>> = directory.entries().unwrap().collect();
        let mut entries = entries.unwrap();
        entries.sort();
        assert_eq!(entries, ["disk", "etc", "in", "out"]);
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        use rustix::fs::FileType;
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, kind, device| {
            let path = root.path().join(name);
            rustix::fs::mknodat(CWD, path, kind, Mode::RWXU, device).unwrap();
        };
        make("fifo", FileType::Fifo, 0);
        let mut words = vec![("fifo", "a FIFO")];
        if rustix::process::geteuid().is_root() {
            // No driver has this number: the error would be another one if it were opened.
            let none = rustix::fs::makedev(255, 250);
            make("character", FileType::CharacterDevice, none);
            words.push(("character", "a character device"));
        }
        let directory = Directory::open(root.path()).unwrap();
        for (name, word) in words {
            for links in [Links::Refused, Links::Followed] {
                let error = directory.file(Path::new(name), OFlags::RDONLY, links);
                assert!(error.unwrap_err().to_string().contains(word));
            }
            let error = Regular::at(&root.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(word));
        }
    }

    #[test]
    fn what_was_looked_at_is_what_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        std::fs::write(&path, "first").unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let found = directory.regular(Path::new("a"), Links::Refused).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        let file = found.open(OFlags::RDONLY).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "first");
        assert!(Regular::at(&path).is_err());
    }

    /// Replaces `path` by what `make` makes, without a moment in which nothing is there.
    fn replace(path: &Path, make: impl FnOnce(&Path)) {
        let new = path.with_extension("new");
        make(&new);
        std::fs::rename(new, path).unwrap();
    }

    #[test]
    fn no_swap_at_any_moment_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("disk.img"), "outside").unwrap();
        let (inside, out) = (root.path().join("disk"), root.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("disk.img"), "inside").unwrap();
        symlink(outside.path(), &out).unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            // The file, and the directory above it.
            scope.spawn(|| {
                let file = inside.join("disk.img");
                while !done.load(Ordering::Relaxed) {
                    replace(&file, |new| {
                        symlink(outside.path().join("disk.img"), new).unwrap()
                    });
                    replace(&file, |new| std::fs::write(new, "inside").unwrap());
                    let (directory, link) = (root.path().join("disk"), root.path().join("out"));
                    for _ in 0..2 {
                        renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    }
                }
            });
            let read = |links| {
                let path = Path::new("/disk/disk.img");
                let file = directory.file(path, OFlags::RDONLY, links).ok()?;
                std::io::read_to_string(file).ok()
            };
            let seen: HashSet<_> = [Links::Refused, Links::Followed]
                .repeat(3000)
                .into_iter()
                .map(read)
                .collect();
            done.store(true, Ordering::Relaxed);
            seen
        });
        // Both were met, and nothing else.
        assert_eq!(seen, [Some("inside".to_owned()), None].into());
    }

    /// A hard link cannot be told from the file, and leads to no other file system: what it names is
    /// judged like any other.
    #[test]
    fn a_hard_link_is_what_it_links_to() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("file"), "inside").unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["file", "link", "fifo"] {
            std::fs::hard_link(at(name), at(&format!("{name}.img"))).unwrap();
        }
        let directory = Directory::open(root.path()).unwrap();
        let read = |path: &str| directory.file(Path::new(path), OFlags::RDONLY, Links::Followed);
        assert_eq!(
            std::io::read_to_string(read("file.img").unwrap()).unwrap(),
            "inside"
        );
        assert!(read("link.img").is_err());
        assert!(read("fifo.img").unwrap_err().to_string().contains("a FIFO"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_path_leads_out(
            parts in prop::collection::vec(
                prop_oneof![
                    12 => prop::sample::select(
                        &["", ".", "..", "in", "up", "root", "proc", "disk"][..]
                    ).prop_map(str::to_owned),
                    1 => ".{0,6}",
                ],
                0..4,
            ),
            last in prop::sample::select(&["a", "in", "up", "disk/a", "etc/passwd", "\0"][..]),
        ) {
            let root = tempfile::tempdir().unwrap();
            let disk = root.path().join("disk");
            std::fs::create_dir(&disk).unwrap();
            std::fs::write(disk.join("a"), "inside").unwrap();
            for (name, target) in [
                ("in", "disk"), ("up", ".."), ("root", "/"), ("proc", "/proc/self/root"),
                ("disk/in", "../disk/a"), ("disk/up", "../../../../../.."),
            ] {
                symlink(target, root.path().join(name)).unwrap();
            }
            let directory = Directory::open(root.path()).unwrap();
            let path = parts.join("/") + "/" + last;
            for links in [Links::Refused, Links::Followed] {
                if let Ok(file) = directory.file(Path::new(&path), OFlags::RDONLY, links) {
                    prop_assert_eq!(std::io::read_to_string(file).unwrap(), "inside");
                }
            }
        }
    }
}
