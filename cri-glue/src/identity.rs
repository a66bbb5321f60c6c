//! The user, group and supplementary groups that the pod's security context gives a container.
//!
//! Claims and Secrets are opened with exactly these rights, as the container's own process would
//! have had them, so that a machine never reads what its pod could not.

use std::io;

use oci_spec::runtime::Process;
use rustix::thread::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Who a container is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Identity {
    /// The identity in an OCI process.
    pub fn of(process: &Process) -> Self {
        let user = process.user();
        Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
        }
    }

    /// Whether it is root, which no machine runs as.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Runs `work` with these rights and no capability, on a thread of its own; as root it simply
    /// runs.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_root() {
            return Ok(work());
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("identity".into());
            let joined = thread.spawn_scoped(scope, || {
                self.assume()?;
                Ok(work())
            })?;
            joined
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes the identity for the calling thread alone. That the effective uid leaves 0 clears the
    /// thread's effective capabilities; the real uid stays, so that the user cannot signal it.
    fn assume(&self) -> io::Result<()> {
        let groups: Vec<_> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(None, Gid::from_raw(self.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(self.uid), None)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn rights_are_the_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| directory.path().join(name);
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(directory.path(), 0o755);
        std::fs::write(open("root"), "").unwrap();
        mode(&open("root"), 0o600);
        std::fs::write(open("group"), "").unwrap();
        std::os::unix::fs::chown(open("group"), None, Some(4242)).unwrap();
        mode(&open("group"), 0o640);
        let user = Identity {
            uid: 1234,
            gid: 1234,
            groups: vec![4242],
        };
        let read = |name: &str| user.run(|| std::fs::read(open(name)).is_ok()).unwrap();
        assert!(!read("root"));
        assert!(read("group"));
        assert!(
            std::fs::read(open("root")).is_ok(),
            "only that thread changed"
        );
        assert!(rustix::process::geteuid().is_root());
    }
}
