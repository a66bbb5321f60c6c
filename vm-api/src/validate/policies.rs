//! How disks share threads, what a reboot does, and processors that keep to time.

use super::words::strict;
use crate::field::FieldError;
use crate::machine::IoThreadsPolicy;
use crate::v1::VirtualMachineInstanceSpec;
use crate::words::words;

words! {
    /// What a reboot of the guest does.
    RebootPolicy {
        /// It boots again.
        Reboot = "Reboot",
        /// The machine ends.
        Terminate = "Terminate",
    }
}

pub(super) fn check(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let domain = &spec.domain;
    let at = |path: &'static str| move || path.to_owned();
    let mut errors = Vec::new();
    errors.extend(strict::<IoThreadsPolicy>(
        at("domain.ioThreadsPolicy"),
        domain.io_threads_policy.as_deref(),
    ));
    errors.extend(strict::<RebootPolicy>(
        at("domain.rebootPolicy"),
        domain.reboot_policy.as_deref(),
    ));
    let pool =
        domain.io_threads_policy.as_deref() == Some(IoThreadsPolicy::SupplementalPool.as_str());
    let threads = domain.io_threads.as_ref();
    let count = threads.and_then(|threads| threads.supplemental_pool_thread_count);
    if pool && count.unwrap_or_default() == 0 {
        let path = "domain.ioThreads.supplementalPoolThreadCount";
        let message = "a pool has at least one thread: say how many";
        errors.push(FieldError::new(path, message));
    }
    errors.extend(realtime(spec));
    errors
}

/// Processors that keep to time are their own, and have their memory near.
fn realtime(spec: &VirtualMachineInstanceSpec) -> Vec<FieldError> {
    let Some(cpu) = &spec.domain.cpu else {
        return Vec::new();
    };
    let dedicated = cpu.dedicated_cpu_placement == Some(true);
    let numa = cpu.numa.as_ref();
    let mapped = numa.is_some_and(|numa| numa.guest_mapping_passthrough.is_some());
    let memory = spec.domain.memory.as_ref();
    let hugepages = memory.is_some_and(|memory| memory.hugepages.is_some());
    let mapping = "domain.cpu.numa.guestMappingPassthrough";
    let mut errors = Vec::new();
    if cpu.realtime.is_some() && !dedicated {
        let message = "realtime needs dedicatedCpuPlacement: true";
        errors.push(FieldError::new("domain.cpu.dedicatedCpuPlacement", message));
    }
    if cpu.realtime.is_some() && !mapped {
        let message = "realtime needs guestMappingPassthrough: {}";
        errors.push(FieldError::new(mapping, message));
    }
    if mapped && !dedicated {
        let message = "it needs dedicatedCpuPlacement: true";
        errors.push(FieldError::new(mapping, message));
    }
    if mapped && !hugepages {
        let message = "it needs domain.memory.hugepages";
        errors.push(FieldError::new(mapping, message));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(domain: Value) -> Vec<String> {
        let spec = json!({ "domain": domain });
        let errors = check(&serde_json::from_value(spec).unwrap());
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn policies_are_known_words() {
        let none: [&str; 0] = [];
        assert_eq!(
            paths(json!({ "ioThreadsPolicy": "auto", "rebootPolicy": "Terminate" })),
            none
        );
        assert_eq!(
            paths(json!({ "ioThreadsPolicy": "" })),
            ["domain.ioThreadsPolicy"]
        );
        assert_eq!(
            paths(json!({ "rebootPolicy": "reboot" })),
            ["domain.rebootPolicy"]
        );
        let pool = |threads: Value| {
            paths(json!({ "ioThreadsPolicy": "supplementalPool", "ioThreads": threads }))
        };
        assert_eq!(pool(json!({ "supplementalPoolThreadCount": 2 })), none);
        assert_eq!(
            pool(json!({})),
            ["domain.ioThreads.supplementalPoolThreadCount"]
        );
    }

    #[test]
    fn processors_that_keep_to_time_are_their_own() {
        let dedicated = "domain.cpu.dedicatedCpuPlacement";
        let mapping = "domain.cpu.numa.guestMappingPassthrough";
        assert_eq!(
            paths(json!({ "cpu": { "realtime": {} } })),
            [dedicated, mapping]
        );
        let numa = json!({ "guestMappingPassthrough": {} });
        let cpu = json!({ "realtime": {}, "dedicatedCpuPlacement": true, "numa": numa });
        assert_eq!(paths(json!({ "cpu": cpu })), [mapping]);
        let memory = json!({ "hugepages": { "pageSize": "2Mi" } });
        assert_eq!(
            paths(json!({ "cpu": cpu, "memory": memory })),
            Vec::<String>::new()
        );
    }
}
