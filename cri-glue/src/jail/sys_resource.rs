//! What the OCI runtime may set only with `CAP_SYS_RESOURCE` in the first user namespace, and
//! would fail over without: this process may lack it where the node is itself a container.

use std::fs;

/// Number of `CAP_SYS_RESOURCE` (`linux/capability.h`).
const CAP_SYS_RESOURCE: u32 = 24;

/// How willingly the kernel ends the process for want of memory: `wished`, or the lowest value above
/// it that may be set.
pub(super) fn oom_score_adj(wished: i32) -> i32 {
    if is_there() {
        return wished;
    }
    let own = fs::read_to_string("/proc/self/oom_score_adj");
    let own = own
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if wished < own {
        tracing::info!(
            wished,
            set = own,
            "oom_score_adj cannot be lowered without CAP_SYS_RESOURCE"
        );
    }
    wished.max(own)
}

/// Whether a process of another user may be given limits, be they lower than its own. The root of a
/// user namespace is another user.
pub(super) fn limits_other_users() -> bool {
    let may = is_there();
    if !may {
        tracing::info!("core dumps cannot be forbidden without CAP_SYS_RESOURCE");
    }
    may
}

fn is_there() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    has_capability(&status) && is_first_namespace(&map)
}

fn has_capability(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_SYS_RESOURCE & 1 == 1)
}

/// The first user namespace maps all uids to themselves.
fn is_first_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_a_bit() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_capability(
            "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n"
        ));
        assert!(!has_capability(""));
    }

    #[test]
    fn a_user_namespace_does_not_count() {
        assert!(is_first_namespace("         0          0 4294967295\n"));
        assert!(!is_first_namespace("         0     100000      65536\n"));
    }

    #[test]
    fn a_higher_score_is_always_permitted() {
        assert_eq!(oom_score_adj(1000), 1000);
    }
}
