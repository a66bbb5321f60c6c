//! The file system of a place: what is its own, what it shares with the host. Runs inside a fresh
//! mount namespace that is private to the host; leaves every mount shared inside, as systemd does
//! on a real node, because kubelet and CSI drivers rely on it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

/// Directories that start as the host's and keep their changes to themselves.
const OVERLAID: [&str; 2] = ["etc", "usr/local"];
/// Directories that are the node's alone. `var` comes last: it hides the node's own sources.
const OWN: [&str; 3] = ["opt", "tmp", "var"];

/// The directory that holds what a node does not share with the host.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NodeRoot(PathBuf);

impl NodeRoot {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// Where on the host the file lies that the node will see as `path`, if the node writes it.
    pub(crate) fn on_host(&self, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        for overlaid in OVERLAID {
            if let Some(below) = path.strip_prefix(overlaid) {
                return self.upper(overlaid).join(below.trim_start_matches('/'));
            }
        }
        self.0.join(path)
    }

    /// Makes the empty directories.
    pub(crate) fn create(&self) -> Result<()> {
        let overlaid = OVERLAID.iter().flat_map(|d| [self.upper(d), self.work(d)]);
        let below_var = ["cache", "lib", "log", "spool", "tmp"].map(|d| self.0.join("var").join(d));
        for dir in overlaid.chain(OWN.map(|d| self.0.join(d))).chain(below_var) {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        for (link, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
            let link = self.0.join(link);
            if !link.is_symlink() {
                std::os::unix::fs::symlink(target, link)?;
            }
        }
        for open in ["tmp", "var/tmp"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
            fs::set_permissions(self.0.join(open), mode)?;
        }
        Ok(())
    }

    fn upper(&self, dir: &str) -> PathBuf {
        self.0.join(dir).join("upper")
    }

    fn work(&self, dir: &str) -> PathBuf {
        self.0.join(dir).join("work")
    }

    fn mount(&self) -> Result<()> {
        fresh_run()?;
        fresh_sys(&self.0.join("tmp"))?;
        for dir in OVERLAID {
            let target = Path::new("/").join(dir);
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                target.display(),
                self.upper(dir).display(),
                self.work(dir).display()
            );
            on(
                &target,
                mount(
                    Some("overlay"),
                    &target,
                    Some("overlay"),
                    MsFlags::empty(),
                    Some(options.as_str()),
                ),
            )?;
        }
        for dir in OWN {
            bind(&self.0.join(dir), &Path::new("/").join(dir))?;
        }
        Ok(())
    }
}

/// Mounts what the place needs; with a root of its own, a node's directories too.
pub(crate) fn set_up(root: Option<&NodeRoot>) -> Result<()> {
    if let Some(root) = root {
        root.mount()?;
    }
    replace(Path::new("/proc"), "proc")?;
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    let root = Path::new("/");
    on(
        root,
        mount(None::<&str>, root, None::<&str>, shared, None::<&str>),
    )
}

/// An empty /run, as after a boot. The host's mounts below it go first: a hidden copy of somebody
/// else's network namespace would keep that namespace alive.
fn fresh_run() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for point in mount_points_below(&mounts, "/run/").iter().rev() {
        on(point, umount2(point, MntFlags::MNT_DETACH))?;
    }
    let run = Path::new("/run");
    // Debian's own flags: a program that wants to execute from /run fails here as it does there.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    on(
        run,
        mount(Some("tmpfs"), run, Some("tmpfs"), flags, Some("mode=755")),
    )?;
    fs::create_dir("/run/lock")?;
    Ok(())
}

/// A /sys that shows this network namespace, with the cgroups where they were (a plain sysfs hides
/// them, and kubelet then finds none).
fn fresh_sys(scratch: &Path) -> Result<()> {
    let (cgroup, sys) = (Path::new("/sys/fs/cgroup"), Path::new("/sys"));
    bind(cgroup, scratch)?;
    replace(sys, "sysfs")?;
    let moved = mount(
        Some(scratch),
        cgroup,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    );
    on(cgroup, moved)
}

/// Mounts a fresh kernel file system in the place of the host's. The old one goes, or its mounts
/// would be listed twice and readers of mountinfo might take the hidden ones.
fn replace(target: &Path, file_system: &str) -> Result<()> {
    on(target, umount2(target, MntFlags::MNT_DETACH))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = mount(
        Some(file_system),
        target,
        Some(file_system),
        flags,
        None::<&str>,
    );
    on(target, mounted)
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    on(
        target,
        mount(Some(source), target, None::<&str>, flags, None::<&str>),
    )
}

fn on(target: &Path, result: nix::Result<()>) -> Result<()> {
    result.with_context(|| format!("mount or unmount {}", target.display()))
}

/// The mount points of a `mountinfo` that begin with `prefix`, in the order of mounting.
fn mount_points_below(mountinfo: &str, prefix: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(prefix))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_files_are_found_on_the_host() {
        let root = NodeRoot::new("/c/node1/root".into());
        for (seen, lies) in [
            ("/etc/cni/net.d", "/c/node1/root/etc/upper/cni/net.d"),
            (
                "/usr/local/bin/ctr",
                "/c/node1/root/usr/local/upper/bin/ctr",
            ),
            ("/var/log/kubelet.log", "/c/node1/root/var/log/kubelet.log"),
            ("/opt/x", "/c/node1/root/opt/x"),
        ] {
            assert_eq!(root.on_host(seen), Path::new(lies));
        }
    }

    #[test]
    fn mount_points_are_read_from_mountinfo() {
        let text = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    30 22 0:5 / /run rw - tmpfs t rw\n\
                    31 30 0:4 net:[1] /run/netns/a rw shared:1 - nsfs nsfs rw\n\
                    32 22 0:6 / /runner rw - tmpfs t rw\n";
        assert_eq!(
            mount_points_below(text, "/run/"),
            [PathBuf::from("/run/netns/a")]
        );
    }
}
