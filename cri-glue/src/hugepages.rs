//! Guest memory in huge pages: which ones, and whether pod and node have them.
//!
//! Kubernetes counts them as a resource of their own, `hugepages-2Mi` beside `memory`. The limit of
//! that resource is what may be taken: the container's is in its spec where containerd passes it on
//! (`disable_hugetlb_controller = false`, which is not its default), and all of the pod's together in
//! the pod's control group, where kubelet writes it.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxHugepageLimit, LinuxResources};
use vm_api::contract::VMI_SPEC_ANNOTATION;
use vm_api::field::FieldError;
use vm_api::machine::{self, PageSize};
use vm_api::v1::VirtualMachineInstanceSpec;

use crate::cgroup::{Cgroup, CgroupError};

/// Where the kernel tells of its huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// Huge pages that a machine may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hugepages {
    /// The size of each.
    pub size: PageSize,
    /// All that the pod may take, in bytes.
    pub limit: u64,
}

/// Why a guest's memory cannot be in huge pages.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the messages say it, the fields are named in them"
)]
pub enum HugepagesError {
    #[error(
        "domain.memory.hugepages: the pod may take no huge pages of {size}: give the machine container \
         resources.limits[{}]", size.resource()
    )]
    NoLimit { size: PageSize },
    #[error(
        "the pod has huge pages of {} and of {}: say in domain.memory.hugepages.pageSize of which \
         the guest's memory is made",
        PageSize::TwoMi,
        PageSize::OneGi
    )]
    TwoSizes,
    #[error(
        "the pod may take huge pages of {size}, and containerd does not tell for which of its containers: \
         name domain.memory.hugepages.pageSize in the annotation {VMI_SPEC_ANNOTATION} if the guest's \
         memory is made of them, or else domain.memory.guest"
    )]
    Whose { size: PageSize },
    #[error(
        "guest memory of {} MiB is more than the pod's huge pages of {} MiB: raise \
         resources.limits[{}] of the machine container", guest >> 20, limit >> 20, size.resource()
    )]
    OverLimit {
        guest: u64,
        limit: u64,
        size: PageSize,
    },
    #[error("guest memory of {guest} bytes is no multiple of its huge pages of {size}")]
    NotWhole { guest: u64, size: PageSize },
    #[error(
        "this node has {free} huge pages of {size} free and the guest's memory needs {needed}: set \
         more aside on the node (vm.nr_hugepages, or hugepages= at its boot), or use another node"
    )]
    TooFew {
        free: u64,
        needed: u64,
        size: PageSize,
    },
    #[error("cannot read {}: it is {text:?}", path.display())]
    Pool { path: PathBuf, text: String },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl Hugepages {
    /// What the machine of `spec` has in a container with these `resources`, whose pod's control
    /// group is `pod`; `None` for ordinary memory.
    pub fn of(
        spec: &VirtualMachineInstanceSpec,
        resources: &LinuxResources,
        pod: Option<&Cgroup>,
    ) -> Result<Option<Self>, HugepagesError> {
        let told = resources.hugepage_limits().as_deref().unwrap_or_default();
        let mut of_container = PageSize::ALL
            .iter()
            .map(|size| of_container(told, *size))
            .filter(|pages| pages.limit > 0);
        let Some(size) = machine::hugepages(spec)? else {
            // All that the pod may take could be for another of its containers.
            if told.is_empty() && machine::guest_memory_bytes(spec, None).is_err() {
                refuse_unclaimed(pod)?;
            }
            return match (of_container.next(), of_container.next()) {
                (first, None) => Ok(first),
                (_, Some(_)) => Err(HugepagesError::TwoSizes),
            };
        };
        let limit = if told.is_empty() {
            of_pod(pod, size)?
        } else {
            let mut of_container = of_container.filter(|pages| pages.size == size);
            of_container.next().map(|pages| pages.limit)
        };
        let limit = limit.ok_or(HugepagesError::NoLimit { size })?;
        Ok(Some(Self { size, limit }))
    }

    /// Whether `guest` bytes can be in these pages, on this node and now.
    pub fn check(self, guest: u64) -> Result<(), HugepagesError> {
        self.check_at(Path::new(POOLS), guest)
    }

    fn check_at(self, pools: &Path, guest: u64) -> Result<(), HugepagesError> {
        let Self { size, limit } = self;
        if guest > limit {
            return Err(HugepagesError::OverLimit { guest, limit, size });
        }
        if !guest.is_multiple_of(size.bytes()) {
            return Err(HugepagesError::NotWhole { guest, size });
        }
        let needed = guest / size.bytes();
        let free = free(pools, size)?;
        if free < needed {
            return Err(HugepagesError::TooFew { free, needed, size });
        }
        Ok(())
    }
}

/// Refuses a machine that does not say of what its guest's memory is, in a pod with huge pages.
fn refuse_unclaimed(pod: Option<&Cgroup>) -> Result<(), HugepagesError> {
    for size in PageSize::ALL.iter().copied() {
        if of_pod(pod, size)?.is_some() {
            return Err(HugepagesError::Whose { size });
        }
    }
    Ok(())
}

/// What all containers of the pod together may take of a size.
fn of_pod(pod: Option<&Cgroup>, size: PageSize) -> Result<Option<u64>, CgroupError> {
    let limit = pod.map(|pod| pod.hugepage_limit(kernel_name(size)));
    Ok(limit.transpose()?.flatten().filter(|limit| *limit > 0))
}

/// What the container's spec says of a size; 0 where it says nothing.
fn of_container(told: &[LinuxHugepageLimit], size: PageSize) -> Hugepages {
    let name = kernel_name(size);
    let limit = told.iter().find(|limit| limit.page_size() == name);
    let limit = limit.and_then(|limit| u64::try_from(limit.limit()).ok());
    Hugepages {
        size,
        limit: limit.unwrap_or(0),
    }
}

/// How control groups and the OCI runtime spec write the size.
fn kernel_name(size: PageSize) -> &'static str {
    match size {
        PageSize::TwoMi => "2MB",
        PageSize::OneGi => "1GB",
    }
}

/// Pages that nobody has or was promised, and those that the kernel would make on demand.
fn free(pools: &Path, size: PageSize) -> Result<u64, HugepagesError> {
    let pool = pools.join(format!("hugepages-{}kB", size.bytes() >> 10));
    let read = |name: &str| {
        let path = pool.join(name);
        // A kernel without pages of that size has no such directory.
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "0".to_owned());
        match text.trim().parse::<u64>() {
            Ok(number) => Ok(number),
            Err(_) => Err(HugepagesError::Pool { path, text }),
        }
    };
    let idle = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
    let on_demand = read("nr_overcommit_hugepages")?.saturating_sub(read("surplus_hugepages")?);
    Ok(idle.saturating_add(on_demand))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(spec: Value, limits: &[(&str, i64)]) -> Result<Option<Hugepages>, HugepagesError> {
        let limit = |(size, limit): &(&str, i64)| json!({ "pageSize": size, "limit": limit });
        let limits: Vec<_> = limits.iter().map(limit).collect();
        let resources = json!({ "hugepageLimits": limits });
        let spec = json!({ "domain": { "memory": spec } });
        Hugepages::of(
            &serde_json::from_value(spec).unwrap(),
            &serde_json::from_value(resources).unwrap(),
            None,
        )
    }

    fn pages(size: PageSize, limit: u64) -> Hugepages {
        Hugepages { size, limit }
    }

    #[test]
    fn the_pods_limit_decides() {
        let wish = json!({ "hugepages": { "pageSize": "2Mi" } });
        let two = Some(pages(PageSize::TwoMi, 64 * MIB));
        let limits = [("2MB", 64 << 20), ("1GB", 0)];
        assert_eq!(of(wish.clone(), &limits).unwrap(), two);
        assert_eq!(of(json!({}), &limits).unwrap(), two);
        assert_eq!(of(json!({}), &[("2MB", 0)]).unwrap(), None);
        assert_eq!(of(json!({}), &[]).unwrap(), None);
        let both = [("2MB", 64 << 20), ("1GB", 1 << 30)];
        assert_eq!(of(wish.clone(), &both).unwrap(), two);
        let error = of(json!({}), &both).unwrap_err();
        assert!(matches!(error, HugepagesError::TwoSizes));
        for limits in [&[][..], &[("1GB", 1 << 30)], &[("2MB", 0)]] {
            let error = of(wish.clone(), limits).unwrap_err().to_string();
            assert!(error.contains("resources.limits[hugepages-2Mi]"), "{error}");
        }
    }

    #[test]
    fn where_the_containers_limit_is_not_told_the_pods_counts() {
        let mount = tempfile::tempdir().unwrap();
        let group = mount.path().join("pod");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("hugetlb.2MB.max"), "67108864\n").unwrap();
        fs::write(group.join("hugetlb.1GB.max"), "0\n").unwrap();
        let pod = Cgroup::for_test(mount.path(), "/pod");
        let of = |memory: Value| {
            let spec = json!({ "domain": { "memory": memory } });
            let spec = serde_json::from_value(spec).unwrap();
            Hugepages::of(&spec, &LinuxResources::default(), Some(&pod))
        };
        let wish = |size: &str| json!({ "hugepages": { "pageSize": size } });
        let two = pages(PageSize::TwoMi, 64 * MIB);
        assert_eq!(of(wish("2Mi")).unwrap(), Some(two));
        assert!(matches!(
            of(wish("1Gi")),
            Err(HugepagesError::NoLimit { .. })
        ));
        let error = of(json!({})).unwrap_err().to_string();
        assert!(error.contains("may take huge pages of 2Mi"), "{error}");
        assert_eq!(of(json!({ "guest": "64Mi" })).unwrap(), None);
        fs::write(group.join("hugetlb.2MB.max"), "max\n").unwrap();
        assert_eq!(of(json!({})).unwrap(), None);
    }

    #[test]
    fn a_guest_fits_pod_and_node() {
        let pools = tempfile::tempdir().unwrap();
        let pool = pools.path().join("hugepages-2048kB");
        fs::create_dir(&pool).unwrap();
        for (name, number) in [
            ("free_hugepages", "20\n"),
            ("resv_hugepages", "10\n"),
            ("nr_overcommit_hugepages", "7\n"),
            ("surplus_hugepages", "5\n"),
        ] {
            fs::write(pool.join(name), number).unwrap();
        }
        let check = |guest: u64| {
            let checked = pages(PageSize::TwoMi, 64 * MIB).check_at(pools.path(), guest);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(24 * MIB), Ok(()));
        let refused = |guest, words: &str| {
            let error = check(guest).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        refused(
            26 * MIB,
            "12 huge pages of 2Mi free and the guest's memory needs 13",
        );
        refused(
            66 * MIB,
            "66 MiB is more than the pod's huge pages of 64 MiB",
        );
        refused(23 * MIB, "no multiple of its huge pages of 2Mi");
        let none = pages(PageSize::OneGi, 1 << 30).check_at(pools.path(), 1 << 30);
        let error = none.unwrap_err().to_string();
        assert!(error.contains("has 0 huge pages of 1Gi"), "{error}");
    }
}
