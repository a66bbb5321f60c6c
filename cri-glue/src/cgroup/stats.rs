//! What a control group uses, in one form for v1 and v2.

use super::{Cgroup, CgroupError, Version};

/// What a control group uses. What the kernel does not tell is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
}

/// Time on processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, with their unit")]
pub struct Cpu {
    pub usage_nanoseconds: u64,
    pub user_nanoseconds: u64,
    pub kernel_nanoseconds: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_nanoseconds: u64,
    /// By processor; only on v1.
    pub per_cpu_nanoseconds: Vec<u64>,
}

/// Memory in bytes, and counts of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, with their unit")]
pub struct Memory {
    pub usage_bytes: u64,
    /// `None` without a limit.
    pub limit_bytes: Option<u64>,
    /// The most that was used.
    pub peak_bytes: u64,
    pub swap_usage_bytes: u64,
    /// `None` without a limit.
    pub swap_limit_bytes: Option<u64>,
    /// Anonymous memory (`rss` of v1).
    pub anonymous_bytes: u64,
    /// Page cache (`cache` of v1, `file` of v2).
    pub file_bytes: u64,
    pub mapped_file_bytes: u64,
    pub dirty_bytes: u64,
    pub writeback_bytes: u64,
    pub active_anonymous_bytes: u64,
    pub inactive_anonymous_bytes: u64,
    pub active_file_bytes: u64,
    pub inactive_file_bytes: u64,
    pub unevictable_bytes: u64,
    pub kernel_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// How often the limit was met.
    pub limit_hits: u64,
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Pids {
    pub current: u64,
    /// `None` without a limit.
    pub limit: Option<u64>,
}

pub(super) fn read(group: &Cgroup) -> Result<Stats, CgroupError> {
    match group.version {
        Version::V1 => read_v1(group),
        Version::V2 => read_v2(group),
    }
}

fn read_v1(group: &Cgroup) -> Result<Stats, CgroupError> {
    let number = |controller, file| {
        group
            .number(controller, file)
            .map(Option::unwrap_or_default)
    };
    let text = |controller, file| group.text(controller, file).map(Option::unwrap_or_default);
    let memory = text("memory", "memory.stat")?;
    let memory = |name| field(&memory, name).unwrap_or(0);
    let throttling = text("cpu", "cpu.stat")?;
    let throttling = |name| field(&throttling, name).unwrap_or(0);
    let per_cpu = text("cpuacct", "cpuacct.usage_percpu")?;
    let swap = number("memory", "memory.memsw.usage_in_bytes")?;
    let usage_bytes = number("memory", "memory.usage_in_bytes")?;
    Ok(Stats {
        cpu: Cpu {
            usage_nanoseconds: number("cpuacct", "cpuacct.usage")?,
            user_nanoseconds: number("cpuacct", "cpuacct.usage_user")?,
            kernel_nanoseconds: number("cpuacct", "cpuacct.usage_sys")?,
            periods: throttling("nr_periods"),
            throttled_periods: throttling("nr_throttled"),
            throttled_nanoseconds: throttling("throttled_time"),
            per_cpu_nanoseconds: per_cpu
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect(),
        },
        memory: Memory {
            usage_bytes,
            limit_bytes: group.memory_limit()?,
            peak_bytes: number("memory", "memory.max_usage_in_bytes")?,
            swap_usage_bytes: swap.saturating_sub(usage_bytes),
            swap_limit_bytes: None,
            anonymous_bytes: memory("total_rss"),
            file_bytes: memory("total_cache"),
            mapped_file_bytes: memory("total_mapped_file"),
            dirty_bytes: memory("total_dirty"),
            writeback_bytes: memory("total_writeback"),
            active_anonymous_bytes: memory("total_active_anon"),
            inactive_anonymous_bytes: memory("total_inactive_anon"),
            active_file_bytes: memory("total_active_file"),
            inactive_file_bytes: memory("total_inactive_file"),
            unevictable_bytes: memory("total_unevictable"),
            kernel_bytes: number("memory", "memory.kmem.usage_in_bytes")?,
            page_faults: memory("total_pgfault"),
            major_page_faults: memory("total_pgmajfault"),
            limit_hits: number("memory", "memory.failcnt")?,
            oom_kills: group.oom_kills()?,
        },
        pids: Pids {
            current: number("pids", "pids.current")?,
            limit: group.number("pids", "pids.max")?,
        },
    })
}

fn read_v2(group: &Cgroup) -> Result<Stats, CgroupError> {
    let number = |file| group.number("", file).map(Option::unwrap_or_default);
    let text = |file| group.text("", file).map(Option::unwrap_or_default);
    let memory = text("memory.stat")?;
    let memory = |name| field(&memory, name).unwrap_or(0);
    let events = text("memory.events")?;
    let cpu = text("cpu.stat")?;
    let nanoseconds = |name| field(&cpu, name).unwrap_or(0).saturating_mul(1000);
    Ok(Stats {
        cpu: Cpu {
            usage_nanoseconds: nanoseconds("usage_usec"),
            user_nanoseconds: nanoseconds("user_usec"),
            kernel_nanoseconds: nanoseconds("system_usec"),
            periods: field(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: field(&cpu, "nr_throttled").unwrap_or(0),
            throttled_nanoseconds: nanoseconds("throttled_usec"),
            per_cpu_nanoseconds: Vec::new(),
        },
        memory: Memory {
            usage_bytes: number("memory.current")?,
            limit_bytes: group.memory_limit()?,
            peak_bytes: number("memory.peak")?,
            swap_usage_bytes: number("memory.swap.current")?,
            swap_limit_bytes: group.number("", "memory.swap.max")?,
            anonymous_bytes: memory("anon"),
            file_bytes: memory("file"),
            mapped_file_bytes: memory("file_mapped"),
            dirty_bytes: memory("file_dirty"),
            writeback_bytes: memory("file_writeback"),
            active_anonymous_bytes: memory("active_anon"),
            inactive_anonymous_bytes: memory("inactive_anon"),
            active_file_bytes: memory("active_file"),
            inactive_file_bytes: memory("inactive_file"),
            unevictable_bytes: memory("unevictable"),
            kernel_bytes: memory("kernel"),
            page_faults: memory("pgfault"),
            major_page_faults: memory("pgmajfault"),
            limit_hits: field(&events, "max").unwrap_or(0),
            oom_kills: field(&events, "oom_kill").unwrap_or(0),
        },
        pids: Pids {
            current: number("pids.current")?,
            limit: group.number("", "pids.max")?,
        },
    })
}

/// The number behind `name` in a file of lines `name number`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(key, _)| *key == name)
        .and_then(|(_, number)| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_the_same_for_both_versions() {
        let mount = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cpuacct/c/cpuacct.usage", "5000\n");
        write("cpuacct/c/cpuacct.usage_percpu", "2000 3000 \n");
        write("memory/c/memory.usage_in_bytes", "4096\n");
        write(
            "memory/c/memory.stat",
            "rss 1\ntotal_rss 2048\ntotal_inactive_file 7\n",
        );
        write("pids/c/pids.max", "max\n");
        write("c/cpu.stat", "usage_usec 5\nuser_usec 2\n");
        write("c/memory.current", "4096\n");
        write("c/memory.stat", "anon 2048\ninactive_file 7\n");
        write("c/pids.max", "max\n");
        let read = |version| {
            Cgroup::under(mount.path(), version, Path::new("/c"))
                .stats()
                .unwrap()
        };
        let (mut one, two) = (read(Version::V1), read(Version::V2));
        assert_eq!(one.cpu.per_cpu_nanoseconds, [2000, 3000]);
        assert_eq!(one.cpu.usage_nanoseconds, 5000);
        one.cpu.per_cpu_nanoseconds.clear();
        assert_eq!(two.cpu.user_nanoseconds, 2000);
        assert_eq!(
            one,
            Stats {
                cpu: Cpu {
                    user_nanoseconds: 0,
                    ..two.cpu.clone()
                },
                ..two
            }
        );
    }

    #[test]
    fn a_group_that_is_gone_uses_nothing() {
        let group = Cgroup::under(Path::new("/nonexistent"), Version::V2, Path::new("/c"));
        assert_eq!(group.stats().unwrap(), Stats::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_text_of_the_kernels_makes_it_panic(
            text in "(usage_usec|user_usec|anon|x) ?[0-9-]{0,25}\n?(user_usec [0-9]{0,21})?|\\PC{0,40}",
            number in "[0-9]{0,25}|max|\\PC{0,10}",
        ) {
            let mount = tempfile::tempdir().unwrap();
            let group = mount.path().join("c");
            fs::create_dir(&group).unwrap();
            for (file, text) in [
                ("cpu.stat", &text), ("memory.stat", &text), ("memory.events", &text),
                ("memory.current", &number), ("pids.max", &number),
            ] {
                fs::write(group.join(file), text).unwrap();
            }
            let group = Cgroup::under(mount.path(), Version::V2, Path::new("/c"));
            match group.stats() {
                Ok(stats) => {
                    let told = field(&text, "user_usec").unwrap_or(0);
                    prop_assert!(stats.cpu.user_nanoseconds >= told);
                    prop_assert_eq!(stats.memory.anonymous_bytes, field(&text, "anon").unwrap_or(0));
                }
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
        }
    }
}
