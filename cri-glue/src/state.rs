//! What a machine keeps over its restarts beside its disks: UEFI variables and its TPM, in a claim of
//! its own that the pod mounts at [`STATE_DIRECTORY`].
//!
//! What is in the claim may be anybody's work: it is opened beneath the mount, with the rights of the
//! pod's user, and nothing there is followed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock, linkat, mkdirat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;
use vm_api::contract::STATE_DIRECTORY;

use crate::beneath::{Directory, Links, RegularError};
use crate::helper::bind_options;
use crate::identity::Identity;
use crate::jail::Bind;
use crate::mounts::Volume;

/// The machine's UEFI variables in the claim.
const UEFI_VARS: &str = "uefi-vars.fd";

/// The same with Secure Boot. They are others: those that a machine had without it, whose guest could
/// enrol keys of its own, vouch for nothing.
const SECURE_UEFI_VARS: &str = "uefi-vars-secure.fd";

/// The directory of the TPM's state in the claim.
const TPM: &str = "tpm";

/// Why the machine's state cannot be had.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum StateError {
    #[error(
        "the machine is to keep its state (efi.persistent, tpm.persistent), and no claim is mounted at \
         {STATE_DIRECTORY}: mount one there, of volume mode Filesystem and not read-only"
    )]
    NoClaim,
    #[error(
        "the claim at {STATE_DIRECTORY} cannot be written: mount it without readOnly, or set \
         persistent: false"
    )]
    ReadOnly,
    #[error(
        "domain.devices.tpm.persistent needs a pod whose user is the same at each start: set \
         securityContext.runAsUser to another than 0"
    )]
    Root,
    #[error("{name} in the claim at {STATE_DIRECTORY} is {kind}: remove it")]
    Kind {
        name: &'static str,
        kind: &'static str,
    },
    #[error(
        "{name} in the claim at {STATE_DIRECTORY} is in use by another machine of this node: \
         stop that one first"
    )]
    InUse { name: &'static str },
    #[error(
        "{name} in the claim at {STATE_DIRECTORY} has {bytes} bytes, and this firmware keeps \
         {wanted}: remove it, or choose the firmware that made it"
    )]
    Size {
        name: &'static str,
        bytes: u64,
        wanted: u64,
    },
    #[error("cannot keep {name} in the claim at {STATE_DIRECTORY}: {source}")]
    Io {
        name: &'static str,
        source: io::Error,
    },
}

/// The claim with a machine's state.
#[derive(Debug)]
pub struct StateClaim<'a> {
    volume: &'a Volume,
    source: &'a Path,
    identity: &'a Identity,
    /// Names what is made in it until it has its own name.
    container: &'a str,
}

impl<'a> StateClaim<'a> {
    /// The claim `volume` of the container with this id and the rights of `identity`.
    pub fn of(
        volume: Option<&'a Volume>,
        identity: &'a Identity,
        container: &'a str,
    ) -> Result<Self, StateError> {
        match volume {
            Some(Volume::Mount {
                read_only: true, ..
            }) => Err(StateError::ReadOnly),
            Some(volume @ Volume::Mount { source, .. }) => Ok(Self {
                volume,
                source,
                identity,
                container,
            }),
            _ => Err(StateError::NoClaim),
        }
    }

    /// The machine's UEFI variables, for Secure Boot or without, a copy of `template` where there are none
    /// yet. They are locked as long as any descriptor of them is open.
    pub fn uefi_vars(&self, secure: bool, template: &mut impl Read) -> Result<File, StateError> {
        let name = match secure {
            true => SECURE_UEFI_VARS,
            false => UEFI_VARS,
        };
        let fail = |source| StateError::Io { name, source };
        let mut content = Vec::new();
        template.read_to_end(&mut content).map_err(fail)?;
        let directory = Directory::open(self.source).map_err(fail)?;
        let open = || {
            if let Some(file) = open_vars(&directory, name)? {
                return Ok(file);
            }
            self.make_vars(&directory, name, &content).map_err(fail)?;
            let file = open_vars(&directory, name)?;
            file.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))
        };
        let file = self.identity.run(open).map_err(fail)??;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A file system without locks: a claim of one machine has to do.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => return Err(StateError::InUse { name }),
            Err(error) => return Err(fail(error.into())),
        }
        let bytes = file.metadata().map_err(fail)?.len();
        let wanted = content.len() as u64;
        if bytes == wanted {
            Ok(file)
        } else {
            Err(StateError::Size {
                name,
                bytes,
                wanted,
            })
        }
    }

    /// Makes the variables whole under another name, and then gives them theirs unless somebody else
    /// was quicker.
    fn make_vars(&self, directory: &Directory, name: &str, content: &[u8]) -> io::Result<()> {
        let unfinished = format!(".{name}.{}", self.container);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        let made = directory.open_at(Path::new(&unfinished), flags, mode)?;
        let mut made = File::from(made);
        let written = io::Write::write_all(&mut made, content).and_then(|()| made.sync_all());
        let named = written.and_then(|()| {
            let (from, to) = (unfinished.as_str(), name);
            match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                // Network file systems cannot rename so, but link.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    match linkat(directory, from, directory, to, AtFlags::empty()) {
                        Ok(()) | Err(Errno::EXIST) => Ok(false),
                        Err(error) => Err(error.into()),
                    }
                }
                Err(error) => Err(error.into()),
            }
        });
        if !matches!(named, Ok(true)) {
            unlinkat(directory, &unfinished, AtFlags::empty())?;
        }
        named.map(drop)
    }

    /// The claim as the jail has it, and the directory in it for the TPM, as seen there.
    ///
    /// The whole claim is bound, not the directory: a link in it leads nowhere but into the jail.
    pub fn tpm(&self) -> Result<(Bind, String), StateError> {
        if self.identity.uid == 0 {
            return Err(StateError::Root);
        }
        let fail = |source| StateError::Io { name: TPM, source };
        let directory = Directory::open(self.source).map_err(fail)?;
        let make = || match mkdirat(&directory, TPM, Mode::RWXU | Mode::RWXG) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        self.identity.run(make).map_err(fail)?.map_err(fail)?;
        match directory.kind(Path::new(TPM)).map_err(fail)? {
            Some(kind) if kind.is_dir() => {}
            Some(kind) => {
                let kind = crate::beneath::kind_word(kind);
                return Err(StateError::Kind { name: TPM, kind });
            }
            None => return Err(fail(io::ErrorKind::NotFound.into())),
        }
        let (options, ids) = match self.volume {
            Volume::Mount { options, ids, .. } => (options.as_slice(), ids.clone()),
            Volume::Device { .. } => (&[][..], None),
        };
        let bind = Bind {
            source: self.source.to_owned(),
            destination: STATE_DIRECTORY.into(),
            options: bind_options(options, false),
            ids,
        };
        Ok((bind, format!("{STATE_DIRECTORY}/{TPM}")))
    }
}

fn open_vars(directory: &Directory, name: &'static str) -> Result<Option<File>, StateError> {
    match directory.file(Path::new(name), OFlags::RDWR, Links::Refused) {
        Ok(file) => Ok(Some(file)),
        Err(RegularError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(RegularError::Io(source)) => Err(StateError::Io { name, source }),
        Err(RegularError::Kind(kind)) => Err(StateError::Kind { name, kind }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::thread::CapabilitySet;

    use super::*;

    const USER: Identity = Identity {
        uid: 107,
        gid: 107,
        groups: Vec::new(),
        capabilities: CapabilitySet::empty(),
    };

    fn volume(source: &Path, read_only: bool) -> Volume {
        Volume::Mount {
            source: source.to_owned(),
            read_only,
            options: vec!["rbind".to_owned()],
            ids: None,
        }
    }

    fn claim() -> tempfile::TempDir {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let claim = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(claim.path(), Some(107), Some(107)).unwrap();
        claim
    }

    #[test]
    fn variables_are_made_once_and_belong_to_one() {
        let claim = claim();
        let volume = volume(claim.path(), false);
        let user = USER;
        let state = StateClaim::of(Some(&volume), &user, "c1").unwrap();
        let vars = |template: &str| state.uefi_vars(false, &mut template.as_bytes());
        let mut first = vars("first").unwrap();
        assert!(matches!(vars("first"), Err(StateError::InUse { .. })));
        io::Write::write_all(&mut first, b"guest").unwrap();
        drop(first);
        let mut kept = String::new();
        vars("other").unwrap().read_to_string(&mut kept).unwrap();
        assert_eq!(kept, "guest");
        let error = vars("longer").unwrap_err().to_string();
        assert!(
            error.contains("has 5 bytes") && error.contains("keeps 6"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(claim.path()).unwrap().count(), 1);
        let mut secure = String::new();
        let made = state.uefi_vars(true, &mut &b"enrolled"[..]);
        made.unwrap().read_to_string(&mut secure).unwrap();
        assert_eq!(secure, "enrolled", "not what a guest wrote without");
    }

    #[test]
    fn nothing_is_followed() {
        let claim = claim();
        let volume = volume(claim.path(), false);
        let user = USER;
        let state = StateClaim::of(Some(&volume), &user, "c1").unwrap();
        symlink("/etc/passwd", claim.path().join(UEFI_VARS)).unwrap();
        let error = state
            .uefi_vars(false, &mut &b"x"[..])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("uefi-vars.fd in the claim at /state"),
            "{error}"
        );
        symlink("/etc", claim.path().join(TPM)).unwrap();
        let error = state.tpm().unwrap_err().to_string();
        assert!(
            error.contains("tpm in the claim at /state is a symbolic link"),
            "{error}"
        );
    }

    #[test]
    fn a_tpm_has_a_directory_of_its_own() {
        let claim = claim();
        let volume = volume(claim.path(), false);
        let user = USER;
        let state = StateClaim::of(Some(&volume), &user, "c1").unwrap();
        let (bind, directory) = state.tpm().unwrap();
        assert_eq!(
            (bind.source.as_path(), directory.as_str()),
            (claim.path(), "/state/tpm")
        );
        assert!(bind.options.iter().any(|option| option == "nosuid"));
        let made = claim.path().join(TPM).metadata().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 107);
        state.tpm().unwrap();
        let root = Identity { uid: 0, ..USER };
        let of_root = StateClaim::of(Some(&volume), &root, "c1").unwrap();
        assert!(matches!(of_root.tpm(), Err(StateError::Root)));
    }

    #[test]
    fn a_claim_is_needed_that_can_be_written() {
        let of = |volume| StateClaim::of(volume, &USER, "c1").map(drop);
        assert!(matches!(of(None), Err(StateError::NoClaim)));
        let read_only = volume(Path::new("/x"), true);
        assert!(matches!(of(Some(&read_only)), Err(StateError::ReadOnly)));
    }
}
