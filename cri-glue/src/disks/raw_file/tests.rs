//! Who finds which disk, and who makes it.

use std::os::unix::fs::MetadataExt;

use vm_api::contract::DISK_IMAGE_FILE;

use super::*;

const UNFINISHED: &str = ".disk.img.unfinished";

fn claim(directory: &Path, shareable: bool) -> RawFile<'static> {
    RawFile {
        name: "data",
        place: Place::Claim,
        file: DISK_IMAGE_FILE,
        uid: 0,
        read_only: false,
        shareable,
        making: Making::Claim {
            capacity: Some(16 * MIB),
            own_file_system: false,
        },
        directory: Directory::open(directory).unwrap(),
    }
}

fn inode(file: &File) -> u64 {
    file.metadata().unwrap().ino()
}

#[test]
fn machines_that_share_an_empty_claim_get_one_disk() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(4);
        let made = || {
            let claim = claim(directory.path(), true);
            start.wait();
            let file = claim.open_or_make().unwrap();
            assert!(file.metadata().unwrap().len() > 8 * MIB);
            file
        };
        let files: Vec<File> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(made)).collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(files.iter().all(|file| inode(file) == inode(&files[0])));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

/// As if the other were between opening the unfinished disk and locking it.
#[test]
fn who_is_late_does_not_empty_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let claim = claim(directory.path(), true);
    let unfinished = directory.path().join(UNFINISHED);
    std::fs::write(&unfinished, "stale").unwrap();
    let late = File::options().write(true).open(&unfinished).unwrap();
    let file = claim.open_or_make().unwrap();
    assert_ne!(inode(&late), inode(&file));
    assert!(
        !claim
            .is_locked(&late, UNFINISHED, FlockOperation::NonBlockingLockExclusive)
            .unwrap()
    );
    let shared = claim.open_or_make().unwrap();
    assert_eq!(inode(&shared), inode(&file));
    drop((file, shared));
    let alone = self::claim(directory.path(), false);
    let _disk = alone.open_or_make().unwrap();
    assert!(matches!(claim.open_or_make(), Err(DiskError::InUse { .. })));
}

#[test]
fn who_may_only_read_cannot_open_the_disk_anew() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join(DISK_IMAGE_FILE);
    std::fs::write(&disk, "guest").unwrap();
    let claim = RawFile {
        read_only: true,
        directory: Directory::open_read_only(directory.path()).unwrap(),
        ..claim(directory.path(), false)
    };
    let file = claim.open_or_make().unwrap();
    let again = |file: &File| {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        File::options().write(true).open(path)
    };
    let error = again(&file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert!(again(&File::open(&disk).unwrap()).is_ok(), "others can");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let path = directory.path().to_str().unwrap();
    assert!(!mounts.contains(path), "the mount is nobody else's");
    assert_eq!(std::io::read_to_string(file).unwrap(), "guest");
}

#[test]
fn an_unfinished_disk_that_somebody_makes_is_left_to_him() {
    let directory = tempfile::tempdir().unwrap();
    let unfinished = directory.path().join(UNFINISHED);
    std::fs::write(&unfinished, "his").unwrap();
    let his = File::options().write(true).open(&unfinished).unwrap();
    flock(&his, FlockOperation::LockExclusive).unwrap();
    let claim = claim(directory.path(), true);
    assert!(claim.make().unwrap().is_none());
    assert_eq!(std::fs::read_to_string(&unfinished).unwrap(), "his");
    std::fs::remove_file(&unfinished).unwrap();
    std::fs::create_dir(&unfinished).unwrap();
    let error = claim.make().unwrap_err().to_string();
    assert!(
        error.contains("unfinished\" in its claim is a directory"),
        "{error}"
    );
}

#[test]
fn a_file_of_the_node_is_made_beside_others_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("other"), "").unwrap();
    let disk = |making| RawFile {
        place: Place::Node,
        file: "a,b.img",
        making,
        ..claim(directory.path(), false)
    };
    let error = disk(Making::Never).open_or_make().unwrap_err().to_string();
    assert!(
        error.contains("no \"a,b.img\" in its directory of the node"),
        "{error}"
    );
    let made = disk(Making::Bytes(1000)).open_or_make().unwrap();
    assert_eq!(made.metadata().unwrap().len(), 1024);
    drop(made);
    let found = disk(Making::Bytes(4096)).open_or_make().unwrap();
    assert_eq!(found.metadata().unwrap().len(), 1024);
    let in_use = disk(Making::Never).open_or_make();
    assert!(matches!(in_use, Err(DiskError::InUse { .. })));
}
