//! virtiofsd: serves one directory of the pod to the guest.
//!
//! It cannot be anybody but the machine's user, so whatever user the guest has, files are read and
//! written with that user's rights and are that user's; the guest sees them as root's. Where the
//! pod's rights end, the guest gets `EACCES`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use qemu_driver::machine::{Filesystem, MachineError, Name};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};
use vm_api::contract::volume_path;
use vm_api::machine::MachineFilesystem;

use super::{Helper, HelperError, Program};
use crate::config::NodeConfig;
use crate::identity::Identity;
use crate::jail::Bind;
use crate::mounts::{PodMounts, Volume};

/// Files that all virtiofsd of a machine have open at most, one for each name that the guest's kernel
/// remembers. Each costs the node up to 2 KiB that nothing but the guest can free, and is charged to
/// the machine: 32 MiB of what its overhead has to spare. Beyond it the guest is told "too many open
/// files", instead of being ended for want of memory.
const MAX_FILES: u64 = 16_384;

/// All uids or gids but the last, which means "unchanged" to the kernel.
const ALL_IDS: u32 = u32::MAX;

/// A directory that is shared.
#[derive(Debug)]
pub struct Shared {
    /// What the guest sees.
    pub filesystem: Filesystem,
    /// What serves it.
    pub helper: Helper,
    /// The directory as the jail has it.
    pub bind: Bind,
}

/// Why a directory is not shared.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ShareError {
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error(transparent)]
    Mount(#[from] crate::mounts::MountError),
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Shares a directory of the pod with the guest, which can have so many `files` of it open. The socket
/// is made in `directory`, which is nobody else's, and has no name there when this returns; `user` is
/// the machine's.
pub fn share(
    wished: &MachineFilesystem<'_>,
    mounts: &PodMounts,
    node: &NodeConfig,
    user: &Identity,
    directory: &Path,
    files: u64,
) -> Result<Shared, ShareError> {
    let name = wished.name.to_owned();
    let Volume::Mount {
        source,
        read_only,
        options,
        ids,
    } = mounts.volume(wished.name)?
    else {
        return Err(HelperError::NotADirectory { name }.into());
    };
    if !fs::metadata(source).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(HelperError::NotADirectory { name }.into());
    }
    let program = Program {
        root: &node.qemu.root,
        path: &node.qemu.virtiofsd,
        name: "virtiofsd",
        key: "qemu.virtiofsd",
    };
    let program = program.argument(|| format!("the directory {name}"))?;
    let helper_name = format!("virtiofsd of {name}");
    let (listener, backend) = connected(directory).map_err(|source| HelperError::Socket {
        name: helper_name.clone(),
        source,
    })?;
    let destination = volume_path(&name);
    let mut arguments = vec![
        program,
        "--fd=3".to_owned(),
        format!("--shared-dir={destination}"),
        // The jail is its sandbox.
        "--sandbox=none".to_owned(),
        "--inode-file-handles=never".to_owned(),
        format!("--rlimit-nofile={files}"),
        "--log-level=warn".to_owned(),
        format!("--translate-uid=squash-guest:0:{}:{ALL_IDS}", user.uid),
        format!("--translate-uid=squash-host:0:0:{ALL_IDS}"),
        format!("--translate-gid=squash-guest:0:{}:{ALL_IDS}", user.gid),
        format!("--translate-gid=squash-host:0:0:{ALL_IDS}"),
    ];
    // A mount that is read-only by itself must not lose that when it gets options of its own.
    let on_node = statvfs(source).map_err(|error| HelperError::Directory {
        name: name.clone(),
        source: error.into(),
    })?;
    let on_node = on_node.f_flag.contains(StatVfsMountFlags::RDONLY);
    let read_only = *read_only || wished.read_only || on_node;
    if read_only {
        arguments.push("--readonly".to_owned());
    }
    Ok(Shared {
        filesystem: Filesystem::new(Name::new("shared directory", name)?, backend)?,
        helper: Helper {
            name: helper_name,
            arguments,
            descriptors: vec![listener.into()],
        },
        bind: Bind {
            source: source.clone(),
            destination: destination.into(),
            options: bind_options(options, read_only),
            ids: ids.clone(),
        },
    })
}

/// A listening socket and the one connection to it: virtiofsd takes nothing but a socket that
/// listens.
fn connected(directory: &Path) -> std::io::Result<(UnixListener, UnixStream)> {
    let opened = File::open(directory)?;
    // A bundle's path is longer than a socket's may be.
    let path = format!("/proc/self/fd/{}/virtiofs", opened.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path);
    fs::remove_file(&path)?;
    Ok((listener, stream?))
}

/// The files that each of so many virtiofsd of a machine may have open: its part of [`MAX_FILES`], or
/// what the node allows the shim and so its children.
pub fn files_of_each(directories: usize) -> u64 {
    let allowed = getrlimit(Resource::Nofile).maximum;
    let part = MAX_FILES / (directories as u64).max(1);
    allowed.unwrap_or(u64::MAX).min(part)
}

/// The pod's own options of the mount, less what nobody needs who only passes bytes on.
pub(crate) fn bind_options(pods: &[String], read_only: bool) -> Vec<String> {
    let kept = |option: &&String| {
        matches!(
            option.as_str(),
            "bind" | "rbind" | "ro" | "rro" | "private" | "rprivate" | "slave" | "rslave"
        )
    };
    let mut options: Vec<_> = pods.iter().filter(kept).cloned().collect();
    if !options.iter().any(|option| option.ends_with("bind")) {
        options.push("rbind".to_owned());
    }
    if read_only
        && !options
            .iter()
            .any(|option| option == "ro" || option == "rro")
    {
        options.push("ro".to_owned());
    }
    for option in ["nosuid", "nodev", "noexec"] {
        options.push(option.to_owned());
    }
    options
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_socket_has_no_name_and_one_connection() {
        let directory = tempfile::tempdir().unwrap();
        let (listener, mut backend) = connected(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let (mut served, _) = listener.accept().unwrap();
        backend.write_all(b"a").unwrap();
        served.read_exact(&mut [0]).unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
    }

    #[test]
    fn directories_divide_the_files_among_them() {
        let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        for (directories, files) in [(0, 16_384), (1, 16_384), (3, 5461), (16, 1024)] {
            assert_eq!(files_of_each(directories), allowed.min(files));
        }
    }

    #[test]
    fn a_mount_keeps_its_rights_and_loses_the_rest() {
        let of = |options: &[&str], read_only| {
            let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
            bind_options(&options, read_only).join(",")
        };
        assert_eq!(
            of(&["rbind", "rslave", "rw", "suid", "dev"], false),
            "rbind,rslave,nosuid,nodev,noexec"
        );
        assert_eq!(of(&["bind", "rro"], true), "bind,rro,nosuid,nodev,noexec");
        assert_eq!(of(&[], true), "rbind,ro,nosuid,nodev,noexec");
    }
}
