//! A control group's figures in containerd's messages: `cgroups.v1.Metrics`, with processor time in
//! nanoseconds, or `cgroups.v2.Metrics`, in microseconds, by the version of the node.

use containerd_shim::api::StatsResponse;
use containerd_shim::protos::cgroups::metrics as v1;
use containerd_shim::protos::cgroups_v2::metrics as v2;
use containerd_shim::protos::protobuf::MessageFull;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use cri_glue::cgroup::{Cgroup, Stats, Version};

use super::Fault;

/// v1's way to say that there is no limit: the largest multiple of the page size below 2^63.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

/// v2's smallest unit of processor time.
const LEAST_NANOSECONDS: u64 = 1000;

/// A page.
const LEAST_BYTES: u64 = 4096;

/// The answer to `Stats` for a container of `cgroup`. A group that is gone has used nothing.
pub(crate) fn metrics(cgroup: &Cgroup) -> Result<StatsResponse, Fault> {
    let stats = cgroup.stats().map_err(Fault::failed)?;
    answer(&stats, cgroup.version())
}

/// The answer for a container without a process: the least that is not nothing. metrics-server takes a
/// container that used nothing for a mistake, and then tells nothing of the whole pod (checkContainerMetrics
/// in its pkg/scraper/client/resource/decode.go).
pub(crate) fn least(version: Version) -> Result<StatsResponse, Fault> {
    let mut stats = Stats::default();
    stats.cpu.usage_nanoseconds = LEAST_NANOSECONDS;
    stats.memory.usage_bytes = LEAST_BYTES;
    answer(&stats, version)
}

fn answer(stats: &Stats, version: Version) -> Result<StatsResponse, Fault> {
    let any = match version {
        Version::V1 => pack(&of_v1(stats)),
        Version::V2 => pack(&of_v2(stats)),
    }?;
    Ok(StatsResponse {
        stats: Some(any).into(),
        ..StatsResponse::default()
    })
}

fn pack<M: MessageFull>(message: &M) -> Result<Any, Fault> {
    Ok(Any {
        type_url: M::descriptor().full_name().to_owned(),
        value: message.write_to_bytes().map_err(Fault::failed)?,
        ..Any::default()
    })
}

fn of_v1(Stats { cpu, memory, pids }: &Stats) -> v1::Metrics {
    let limit = memory.limit_bytes.unwrap_or(V1_UNLIMITED);
    let entry = |usage, limit, max, failcnt| v1::MemoryEntry {
        usage,
        limit,
        max,
        failcnt,
        ..v1::MemoryEntry::default()
    };
    let usage = entry(
        memory.usage_bytes,
        limit,
        memory.peak_bytes,
        memory.limit_hits,
    );
    let swap_limit = memory.swap_limit_bytes.unwrap_or(V1_UNLIMITED);
    // v1 counts memory and swap together.
    let swap = entry(
        memory.usage_bytes + memory.swap_usage_bytes,
        swap_limit,
        0,
        0,
    );
    v1::Metrics {
        pids: Some(v1::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(0),
            ..v1::PidsStat::default()
        })
        .into(),
        cpu: Some(v1::CPUStat {
            usage: Some(v1::CPUUsage {
                total: cpu.usage_nanoseconds,
                kernel: cpu.kernel_nanoseconds,
                user: cpu.user_nanoseconds,
                per_cpu: cpu.per_cpu_nanoseconds.clone(),
                ..v1::CPUUsage::default()
            })
            .into(),
            throttling: Some(v1::Throttle {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_nanoseconds,
                ..v1::Throttle::default()
            })
            .into(),
            ..v1::CPUStat::default()
        })
        .into(),
        memory: Some(v1::MemoryStat {
            cache: memory.file_bytes,
            rss: memory.anonymous_bytes,
            mapped_file: memory.mapped_file_bytes,
            dirty: memory.dirty_bytes,
            writeback: memory.writeback_bytes,
            pg_fault: memory.page_faults,
            pg_maj_fault: memory.major_page_faults,
            inactive_anon: memory.inactive_anonymous_bytes,
            active_anon: memory.active_anonymous_bytes,
            inactive_file: memory.inactive_file_bytes,
            active_file: memory.active_file_bytes,
            unevictable: memory.unevictable_bytes,
            hierarchical_memory_limit: limit,
            hierarchical_swap_limit: swap_limit,
            total_cache: memory.file_bytes,
            total_rss: memory.anonymous_bytes,
            total_mapped_file: memory.mapped_file_bytes,
            total_dirty: memory.dirty_bytes,
            total_writeback: memory.writeback_bytes,
            total_pg_fault: memory.page_faults,
            total_pg_maj_fault: memory.major_page_faults,
            total_inactive_anon: memory.inactive_anonymous_bytes,
            total_active_anon: memory.active_anonymous_bytes,
            total_inactive_file: memory.inactive_file_bytes,
            total_active_file: memory.active_file_bytes,
            total_unevictable: memory.unevictable_bytes,
            usage: Some(usage).into(),
            swap: Some(swap).into(),
            kernel: Some(entry(memory.kernel_bytes, V1_UNLIMITED, 0, 0)).into(),
            ..v1::MemoryStat::default()
        })
        .into(),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill: memory.oom_kills,
            ..v1::MemoryOomControl::default()
        })
        .into(),
        ..v1::Metrics::default()
    }
}

fn of_v2(Stats { cpu, memory, pids }: &Stats) -> v2::Metrics {
    const NANOSECONDS: u64 = 1000;
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: pids.current,
            limit: pids.limit.unwrap_or(0),
            ..v2::PidsStat::default()
        })
        .into(),
        cpu: Some(v2::CPUStat {
            usage_usec: cpu.usage_nanoseconds / NANOSECONDS,
            user_usec: cpu.user_nanoseconds / NANOSECONDS,
            system_usec: cpu.kernel_nanoseconds / NANOSECONDS,
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: cpu.throttled_nanoseconds / NANOSECONDS,
            ..v2::CPUStat::default()
        })
        .into(),
        memory: Some(v2::MemoryStat {
            anon: memory.anonymous_bytes,
            file: memory.file_bytes,
            file_mapped: memory.mapped_file_bytes,
            file_dirty: memory.dirty_bytes,
            file_writeback: memory.writeback_bytes,
            inactive_anon: memory.inactive_anonymous_bytes,
            active_anon: memory.active_anonymous_bytes,
            inactive_file: memory.inactive_file_bytes,
            active_file: memory.active_file_bytes,
            unevictable: memory.unevictable_bytes,
            pgfault: memory.page_faults,
            pgmajfault: memory.major_page_faults,
            usage: memory.usage_bytes,
            usage_limit: memory.limit_bytes.unwrap_or(u64::MAX),
            swap_usage: memory.swap_usage_bytes,
            swap_limit: memory.swap_limit_bytes.unwrap_or(u64::MAX),
            max_usage: memory.peak_bytes,
            ..v2::MemoryStat::default()
        })
        .into(),
        memory_events: Some(v2::MemoryEvents {
            max: memory.limit_hits,
            oom_kill: memory.oom_kills,
            ..v2::MemoryEvents::default()
        })
        .into(),
        ..v2::Metrics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_unit_and_its_name() {
        let mut stats = Stats::default();
        stats.cpu.usage_nanoseconds = 5_000_000;
        stats.memory.limit_bytes = Some(7);
        assert_eq!(of_v1(&stats).cpu.usage.total, 5_000_000);
        assert_eq!(of_v2(&stats).cpu.usage_usec, 5_000);
        assert_eq!(of_v1(&stats).memory.hierarchical_memory_limit, 7);
        assert_eq!(of_v2(&stats).memory.usage_limit, 7);
        assert_eq!(
            pack(&of_v1(&stats)).unwrap().type_url,
            "io.containerd.cgroups.v1.Metrics"
        );
        assert_eq!(
            pack(&of_v2(&stats)).unwrap().type_url,
            "io.containerd.cgroups.v2.Metrics"
        );
    }
}
