//! The user, groups and, for root, capabilities that the pod's security context gives a container.
//!
//! Claims and Secrets are opened with exactly these rights, as the container's own process would
//! have had them, so that a machine never reads what its pod could not.

use std::io;

use oci_spec::runtime::Process;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities};
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
    /// What it may do as root; other users have no capability.
    pub capabilities: CapabilitySet,
}

impl Identity {
    /// The identity in an OCI process.
    pub fn of(process: &Process) -> Self {
        let user = process.user();
        Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            capabilities: effective(process),
        }
    }

    /// Whether it is root, which no machine runs as.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Runs `work` with these rights, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
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
        if !self.is_root() {
            set_thread_res_uid(None, Uid::from_raw(self.uid), None)?;
            return Ok(());
        }
        let own = capabilities(None)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: own.permitted & self.capabilities,
                ..own
            },
        )?;
        Ok(())
    }
}

/// The capabilities that the container's process would have begun with.
fn effective(process: &Process) -> CapabilitySet {
    let sets = process.capabilities().as_ref();
    let effective = sets.and_then(|sets| sets.effective().as_ref());
    let names = effective.into_iter().flatten().map(ToString::to_string);
    // A capability without a name here is none that the kernel asks for when a file is opened.
    names
        .filter_map(|name| CapabilitySet::from_name(&name))
        .collect()
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
            capabilities: CapabilitySet::all(),
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

    #[test]
    fn root_has_what_the_container_keeps() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let reads = |capabilities: serde_json::Value| {
            let mut process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
            process["capabilities"] = capabilities;
            let identity = Identity::of(&serde_json::from_value(process).unwrap());
            identity.run(|| std::fs::read(&path).is_ok()).unwrap()
        };
        assert!(reads(
            serde_json::json!({"effective": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]})
        ));
        assert!(!reads(serde_json::json!({
            "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        })));
        assert!(!reads(serde_json::json!({})));
        assert!(std::fs::read(&path).is_ok(), "only that thread changed");
    }

    #[test]
    fn every_capability_has_its_name() {
        for number in 0..=40 {
            let name = CapabilitySet::from_bits_retain(1 << number)
                .iter_names()
                .next()
                .unwrap()
                .0;
            let process = serde_json::json!({
                "user": {"uid": 0, "gid": 0}, "cwd": "/",
                "capabilities": {"effective": [format!("CAP_{name}")]}
            });
            let identity = Identity::of(&serde_json::from_value(process).unwrap());
            assert_eq!(identity.capabilities.bits(), 1 << number, "{name}");
        }
    }
}
