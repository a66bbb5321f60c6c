//! Into which tables the fields of an instance are put.

/// Tables of an instance's spec, each with what the paths in it begin with. The first that fits counts;
/// the last fits all.
pub(super) const INSTANCE: &[(&str, &[&str])] = &[
    (
        "Processors and I/O threads",
        &["domain.cpu", "domain.ioThreads", "domain.ioThreadsPolicy"],
    ),
    ("Memory", &["domain.memory"]),
    ("Requests and limits", &["domain.resources"]),
    (
        "Board, firmware and boot",
        &[
            "domain.machine",
            "domain.firmware",
            "domain.chassis",
            "domain.launchSecurity",
            "architecture",
        ],
    ),
    ("Clock", &["domain.clock"]),
    ("Features", &["domain.features"]),
    (
        "Disks",
        &[
            "domain.devices.disks",
            "domain.devices.blockMultiQueue",
            "domain.devices.filesystems",
        ],
    ),
    ("Volumes", &["volumes", "utilityVolumes"]),
    (
        "Network",
        &[
            "domain.devices.interfaces",
            "domain.devices.networkInterfaceMultiqueue",
            "domain.devices.autoattachPodInterface",
            "networks",
            "hostname",
            "subdomain",
            "dnsPolicy",
            "dnsConfig",
        ],
    ),
    (
        "Devices of the node",
        &[
            "domain.devices.gpus",
            "domain.devices.hostDevices",
            "resourceClaims",
        ],
    ),
    ("Other devices", &["domain.devices"]),
    (
        "Where it runs",
        &[
            "affinity",
            "nodeSelector",
            "tolerations",
            "topologySpreadConstraints",
            "schedulerName",
            "priorityClassName",
            "evictionStrategy",
        ],
    ),
    ("Start, end and health", &[""]),
];

/// The table of a field, by its place in the list.
pub(super) fn of(path: &str) -> usize {
    let begins = |prefix: &&str| {
        let rest = path.strip_prefix(*prefix);
        rest.is_some_and(|rest| {
            prefix.is_empty() || rest.is_empty() || rest.starts_with(['.', '['])
        })
    };
    let mut areas = INSTANCE.iter();
    areas
        .position(|(_, prefixes)| prefixes.iter().any(begins))
        .unwrap_or(INSTANCE.len() - 1)
}
