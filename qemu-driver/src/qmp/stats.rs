//! What the disks have done.
//!
//! The answer has a type of ours: that of the `qapi` crate wants fields which older QEMUs lack.

use serde::{Deserialize, Serialize};

/// What a disk has done since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskStats {
    /// Bytes the guest read.
    pub read_bytes: u64,
    /// Bytes the guest wrote.
    pub written_bytes: u64,
    /// Requests to read.
    pub read_operations: u64,
    /// Requests to write.
    pub write_operations: u64,
}

/// The command `query-blockstats`.
#[derive(Serialize)]
pub(super) struct Query {}

impl qapi::Command for Query {
    type Ok = Vec<Device>;
    const NAME: &'static str = "query-blockstats";
    const ALLOW_OOB: bool = false;
}

/// One device in the answer (QEMU, `qapi/block-core.json`, `BlockStats`).
#[derive(Deserialize)]
pub(super) struct Device {
    qdev: Option<String>,
    stats: Counters,
}

#[derive(Deserialize)]
struct Counters {
    rd_bytes: u64,
    wr_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
}

pub(super) fn of_disks(devices: Vec<Device>) -> Vec<(String, DiskStats)> {
    let disk = |device: Device| {
        // The device's path in QEMU's tree: `/machine/peripheral/disk-root`, or a part of it.
        let id = device
            .qdev?
            .split('/')
            .find(|part| part.starts_with("disk-"))?
            .to_owned();
        let stats = DiskStats {
            read_bytes: device.stats.rd_bytes,
            written_bytes: device.stats.wr_bytes,
            read_operations: device.stats.rd_operations,
            write_operations: device.stats.wr_operations,
        };
        Some((id, stats))
    };
    devices.into_iter().filter_map(disk).collect()
}
