//! The holder as an OCI container: the sandbox's own bundle with another process.
//!
//! The node's OCI runtime makes it, so control groups of both drivers, sysctls, hostname and
//! security labels are those of every sandbox. The process is the program `holder/holder.rs`,
//! written into the sandbox's root; it has no rights, and ends when the pipe from the shim does.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cri_glue::bundle::Bundle;
use cri_glue::record::{Record, Step};
use cri_glue::runtime::{Descriptors, Runtime, RuntimeError};
use oci_spec::runtime::{LinuxCapabilities, Spec};
use rustix::pipe::{PipeFlags, pipe_with};

/// The holder's program.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/holder"));

/// Where it stands in the sandbox's root.
const PROGRAM_PATH: &str = "/.kubevirt-holder";

/// The holder's uid and gid: those of Kubernetes' own pause image, and not the pod's, which a QEMU
/// has that its guest has taken over.
const UNPRIVILEGED: u32 = 65535;

/// The program's mode. The kernel keeps a process away from all others of its user whose program that
/// user may not read (`would_dump` in fs/exec.c).
const MODE: u32 = 0o111;

/// The directory in the sandbox's bundle that is the holder's bundle.
const BUNDLE: &str = "holder";

/// Why there is no holder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HolderError {
    /// The program, the bundle or the record could not be written.
    #[error("cannot write {path} for the pod's holder: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No pipe to the holder.
    #[error("cannot make the pipe to the pod's holder: {0}")]
    Pipe(#[source] io::Error),
    /// The OCI runtime refused.
    #[error("cannot create the pod's holder: {0}")]
    Runtime(#[from] RuntimeError),
}

/// A created holder.
pub(crate) struct Holder {
    /// Its pid, in the shim's PID namespace.
    pub(crate) pid: u32,
    /// The shim's end of the pipe; without it the holder ends.
    pub(crate) line: OwnedFd,
}

/// Creates the holder of the sandbox `bundle`, whose root is mounted at `rootfs`. What was done
/// stands in the bundle's record, also when it failed. Blocks.
pub(crate) fn create(
    bundle: &Bundle,
    rootfs: &Path,
    runtime: &Runtime,
) -> Result<Holder, HolderError> {
    let directory = bundle_of(bundle.dir());
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| HolderError::Write { path, source }
    };
    let mut record = Record::open(bundle.dir()).map_err(write(bundle.dir()))?;
    let mut note = |step: &Step| record.note(step).map_err(write(bundle.dir()));

    note(&Step::Directory {
        path: directory.clone(),
    })?;
    std::fs::create_dir_all(&directory).map_err(write(&directory))?;
    let config = directory.join("config.json");
    serde_json::to_vec(&spec(bundle.spec(), rootfs))
        .map_err(io::Error::from)
        .and_then(|json| std::fs::write(&config, json))
        .map_err(write(&config))?;
    let program = rootfs.join(&PROGRAM_PATH[1..]);
    write_program(&program).map_err(write(&program))?;

    let (end, line) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| HolderError::Pipe(error.into()))?;
    note(&Step::Container {
        id: bundle.id().to_owned(),
        runtime: runtime.clone(),
    })?;
    // Undone first: a runtime that died over its group may have left it frozen.
    if let Some(path) = bundle.cgroups_path() {
        let path = path.to_owned();
        note(&Step::Cgroup { path })?;
    }
    let descriptors = Descriptors {
        output: None,
        preserved: vec![end],
    };
    let created = runtime.create(bundle.id(), &directory, descriptors)?;
    Ok(Holder {
        pid: created.pid,
        line,
    })
}

/// The holder's bundle within the sandbox's.
pub(super) fn bundle_of(sandbox: &Path) -> PathBuf {
    sandbox.join(BUNDLE)
}

/// Writes the program into the pause image's root, never through anything that the image put there.
fn write_program(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(PROGRAM)
}

/// The sandbox's spec with the holder as its process, without any right.
fn spec(sandbox: &Spec, rootfs: &Path) -> Spec {
    let mut spec = sandbox.clone();
    if let Some(process) = spec.process_mut() {
        process
            .set_args(Some(vec![PROGRAM_PATH.to_owned()]))
            .set_env(None)
            .set_cwd("/".into())
            .set_terminal(Some(false))
            .set_capabilities(Some(no_capabilities()))
            .set_no_new_privileges(Some(true));
        let user = process.user_mut();
        user.set_uid(UNPRIVILEGED)
            .set_gid(UNPRIVILEGED)
            .set_additional_gids(None);
    }
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs.to_owned()).set_readonly(Some(true));
    }
    spec
}

/// No capability in any set: the type's own default has some.
fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_permitted(None);
    none.set_inheritable(None).set_ambient(None);
    none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_has_no_rights() {
        let sandbox: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.0.2","hostname":"pod",
                "process":{"user":{"uid":107,"gid":0,"additionalGids":[10]},"args":["/pause"],
                  "env":["A=b"],"cwd":"/x","capabilities":{"bounding":["CAP_SYS_ADMIN"]}},
                "root":{"path":"rootfs"},
                "linux":{"cgroupsPath":"a.slice:b:c","sysctl":{"net.x":"1"}}}"#,
        )
        .unwrap();
        let spec = spec(&sandbox, Path::new("/b/rootfs"));
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &[PROGRAM_PATH.to_owned()]);
        assert_eq!((process.user().uid(), process.user().gid()), (65535, 65535));
        assert_eq!(process.user().additional_gids(), &None);
        let capabilities = process.capabilities().as_ref().unwrap();
        assert_eq!(serde_json::to_string(capabilities).unwrap(), "{}");
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("/b/rootfs"));
        assert_eq!(spec.hostname().as_deref(), Some("pod"));
        assert_eq!(
            spec.linux().as_ref().unwrap().sysctl().as_ref().unwrap()["net.x"],
            "1"
        );
    }

    #[test]
    fn the_program_replaces_a_link_of_the_image() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        std::fs::write(&victim, "kept").unwrap();
        let path = root.path().join("holder");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write_program(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), PROGRAM);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    }

    #[test]
    fn the_program_ends_with_the_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("holder");
        write_program(&path).unwrap();
        let (end, line) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut command = std::process::Command::new(&path);
        use command_fds::{CommandFdExt, FdMapping};
        command
            .fd_mappings(vec![FdMapping {
                parent_fd: end,
                child_fd: 3,
            }])
            .unwrap();
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none());
        drop(line);
        assert!(child.wait().unwrap().success());
    }
}
