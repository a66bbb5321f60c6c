//! Control groups of a pod and its containers, read on cgroup v1 and v2 and for both drivers.
//!
//! Making, limiting and removing them is the OCI runtime's work; here they are found from the
//! path in the OCI spec, and read.

mod remove;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use stats::{Cpu, Memory, Pids, Stats};

/// Where control groups are mounted on every node that containerd runs on.
const MOUNT: &str = "/sys/fs/cgroup";

/// Version of the node's control groups. A node with both counts as v1, as for containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// A control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    mount: PathBuf,
    version: Version,
    /// Path within each hierarchy, without a leading `/`.
    path: PathBuf,
}

/// Why a control group cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum CgroupError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds {text:?}, which is no number", path.display())]
    Number { path: PathBuf, text: String },
    #[error("cannot remove the control group {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// Whether `path` is of the systemd driver's form, `slice:prefix:name`.
pub fn is_systemd_form(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|path| !path.contains('/') && path.split(':').count() == 3)
}

impl Cgroup {
    /// The control group that `cgroups_path` of an OCI spec means on this node.
    pub fn of_spec(cgroups_path: &Path) -> Self {
        Self::under(Path::new(MOUNT), version(), cgroups_path)
    }

    fn under(mount: &Path, version: Version, cgroups_path: &Path) -> Self {
        let path = if is_systemd_form(cgroups_path) {
            systemd_path(&cgroups_path.to_string_lossy())
        } else {
            cgroups_path
                .strip_prefix("/")
                .unwrap_or(cgroups_path)
                .to_owned()
        };
        Self {
            mount: mount.to_owned(),
            version,
            path,
        }
    }

    /// A group of one hierarchy that is mounted elsewhere.
    #[cfg(test)]
    pub(crate) fn for_test(mount: &Path, path: &str) -> Self {
        Self::under(mount, Version::V2, Path::new(path))
    }

    /// The control group above: a pod's, for one of its containers.
    pub fn parent(&self) -> Option<Self> {
        let path = self
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty())?;
        Some(Self {
            path: path.to_owned(),
            ..self.clone()
        })
    }

    /// Version of the node's control groups.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The limit of memory in bytes; `None` without one or without such a group.
    pub fn memory_limit(&self) -> Result<Option<u64>, CgroupError> {
        match self.version {
            // v1 shows "no limit" as the largest multiple of the page size below 2^63.
            Version::V1 => Ok(self
                .number("memory", "memory.limit_in_bytes")?
                .filter(|limit| *limit < i64::MAX as u64 - (1 << 20))),
            Version::V2 => self.number("", "memory.max"),
        }
    }

    /// The share of processors that may be used, in thousandths of one; `None` without a limit or
    /// without such a group.
    pub fn cpu_limit_millis(&self) -> Result<Option<u64>, CgroupError> {
        let (quota, period) = match self.version {
            Version::V1 => {
                let quota = self.text("cpu", "cpu.cfs_quota_us")?;
                (quota, self.text("cpu", "cpu.cfs_period_us")?)
            }
            Version::V2 => {
                let text = self.text("", "cpu.max")?;
                let (quota, period) = text.as_deref().unwrap_or_default().split_once(' ').unzip();
                (quota.map(str::to_owned), period.map(str::to_owned))
            }
        };
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
        Ok(match (number(quota), number(period)) {
            (Some(quota), Some(period)) if period > 0 => Some(quota * 1000 / period),
            _ => None,
        })
    }

    /// The limit of huge pages of a size as the kernel writes it (`2MB`), in bytes; `None` without one
    /// or without such a group.
    pub fn hugepage_limit(&self, size: &str) -> Result<Option<u64>, CgroupError> {
        match self.version {
            // "No limit" is the largest multiple of the page size below 2^63.
            Version::V1 => Ok(self
                .number("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"))?
                .filter(|limit| *limit < i64::MAX as u64 - (1 << 30))),
            Version::V2 => self.number("", &format!("hugetlb.{size}.max")),
        }
    }

    /// How often the kernel killed a process of the group for want of memory. 0 without such a
    /// group, or on kernels that do not count.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let text = match self.version {
            Version::V1 => self.text("memory", "memory.oom_control")?,
            Version::V2 => self.text("", "memory.events")?,
        };
        Ok(stats::field(&text.unwrap_or_default(), "oom_kill").unwrap_or(0))
    }

    /// What the group uses.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::read(self)
    }

    /// The text of a file of the group; `None` if there is none.
    fn text(&self, controller: &str, file: &str) -> Result<Option<String>, CgroupError> {
        let path = self.mount.join(controller).join(&self.path).join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // The group went away between the opening and the reading.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                Ok(None)
            }
            Err(source) => Err(CgroupError::Read { path, source }),
        }
    }

    /// The number in a file of the group; `None` if there is none or it says `max`.
    fn number(&self, controller: &str, file: &str) -> Result<Option<u64>, CgroupError> {
        let Some(text) = self.text(controller, file)? else {
            return Ok(None);
        };
        match text.trim() {
            "max" | "-1" => Ok(None),
            number => number.parse().map(Some).map_err(|_| CgroupError::Number {
                path: self.mount.join(controller).join(&self.path).join(file),
                text: number.to_owned(),
            }),
        }
    }
}

fn version() -> Version {
    let unified =
        rustix::fs::statfs(MOUNT).is_ok_and(|found| found.f_type as u64 == CGROUP2_SUPER_MAGIC);
    if unified { Version::V2 } else { Version::V1 }
}

/// `linux/magic.h`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// `a-b.slice:prefix:name` is `a.slice/a-b.slice/prefix-name.scope` (systemd.slice(5)).
fn systemd_path(path: &str) -> PathBuf {
    let mut parts = path.splitn(3, ':');
    let mut part = || parts.next().unwrap_or_default();
    let (slice, prefix, name) = (part(), part(), part());
    let mut full = PathBuf::new();
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem != "-" {
        let ends = stem
            .match_indices('-')
            .map(|(index, _)| index)
            .chain([stem.len()]);
        full.extend(ends.map(|end| format!("{}.slice", &stem[..end])));
    }
    let unit = if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}-{name}")
    };
    full.join(if unit.ends_with(".slice") {
        unit
    } else {
        unit + ".scope"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_drivers() {
        for (given, expected) in [
            ("/kubepods/burstable/podx/c1", "kubepods/burstable/podx/c1"),
            (
                "kubepods-burstable-podx.slice:cri-containerd:c1",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/\
                 cri-containerd-c1.scope",
            ),
            ("system.slice:runc:a", "system.slice/runc-a.scope"),
            ("-.slice::a", "a.scope"),
        ] {
            let cgroup = Cgroup::under(Path::new("/m"), Version::V2, Path::new(given));
            assert_eq!(cgroup.path, Path::new(expected), "{given}");
        }
        assert!(!is_systemd_form(Path::new("/a:b:c/d")));
    }

    #[test]
    fn limits_are_read() {
        let mount = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let cgroup = |version, path: &str| Cgroup::under(mount.path(), version, Path::new(path));
        write("memory/pod/memory.limit_in_bytes", "1048576\n");
        write(
            "memory/pod/c/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write(
            "memory/pod/c/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        write("cpu/pod/cpu.cfs_quota_us", "150000\n");
        write("cpu/pod/cpu.cfs_period_us", "100000\n");
        write("cpu/pod/c/cpu.cfs_quota_us", "-1\n");
        write("cpu/pod/c/cpu.cfs_period_us", "100000\n");
        let container = cgroup(Version::V1, "/pod/c");
        let pod = container.parent().unwrap();
        assert_eq!(pod.memory_limit().unwrap(), Some(1 << 20));
        assert_eq!(pod.cpu_limit_millis().unwrap(), Some(1500));
        assert_eq!(container.memory_limit().unwrap(), None);
        assert_eq!(container.cpu_limit_millis().unwrap(), None);
        assert_eq!(container.oom_kills().unwrap(), 2);
        assert_eq!(pod.parent(), None);
        write("hugetlb/pod/hugetlb.2MB.limit_in_bytes", "67108864\n");
        write(
            "hugetlb/pod/hugetlb.1GB.limit_in_bytes",
            "9223372035781033984\n",
        );
        assert_eq!(pod.hugepage_limit("2MB").unwrap(), Some(64 << 20));
        assert_eq!(pod.hugepage_limit("1GB").unwrap(), None);
        assert_eq!(container.hugepage_limit("2MB").unwrap(), None);
        write("two/hugetlb.2MB.max", "67108864\n");
        let unified = cgroup(Version::V2, "/two");
        assert_eq!(unified.hugepage_limit("2MB").unwrap(), Some(64 << 20));
        write("two/memory.max", "max\n");
        write("two/cpu.max", "max 100000\n");
        write(
            "two/memory.events",
            "low 0\noom 3\noom_kill 1\noom_group_kill 0\n",
        );
        let unified = cgroup(Version::V2, "/two");
        assert_eq!(unified.memory_limit().unwrap(), None);
        assert_eq!(unified.cpu_limit_millis().unwrap(), None);
        assert_eq!(unified.oom_kills().unwrap(), 1);
        write("two/memory.max", "5\n");
        write("two/cpu.max", "50000 100000\n");
        assert_eq!(unified.memory_limit().unwrap(), Some(5));
        assert_eq!(unified.cpu_limit_millis().unwrap(), Some(500));
        assert_eq!(cgroup(Version::V2, "/gone").memory_limit().unwrap(), None);
    }
}
