//! What runs beside QEMU and reaches the guest's memory, and what of the node's memory that takes.
//!
//! The controller adds it to the limit of the pods that it makes, the shim to that of QEMU where the
//! pod's own is the guest's memory and no more.

use super::tpm::tpm;
use crate::v1::VirtualMachineInstanceSpec;

/// Bytes of one program: an idle virtiofsd has 4.2 MiB, an idle swtpm 4.9.
const BYTES_PER_PROGRAM: u64 = 5 << 20;

/// Bytes of page tables for each page of the guest's memory that somebody reaches.
const TABLE_BYTES_PER_PAGE: u64 = 8;

/// What a machine has beside QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Shared directories, each served by a program that has all of the guest's memory mapped.
    pub directories: u64,
    /// A TPM, which is a program.
    pub tpm: bool,
    /// Devices of the node. They reach the guest's memory by tables of the IOMMU, which newer kernels
    /// charge to QEMU.
    ///
    /// KubeVirt counts 1 GiB more for them, because it locks no more memory than the pod has, and the
    /// devices' own is locked too. That is no memory of the node's: here it is in the limit of what may
    /// be locked, and nowhere else.
    pub host_devices: bool,
}

impl Beside {
    /// What `spec` names.
    pub fn of(spec: &VirtualMachineInstanceSpec) -> Self {
        let devices = &spec.domain.devices;
        Self {
            directories: devices.filesystems.len() as u64,
            tpm: tpm(spec),
            host_devices: !devices.gpus.is_empty() || !devices.host_devices.is_empty(),
        }
    }

    /// Bytes that it takes, of a guest with so many pages of memory.
    pub fn bytes(self, pages: u64) -> u64 {
        let programs = self.directories + u64::from(self.tpm);
        let tables = self.directories + u64::from(self.host_devices);
        let tables = tables.saturating_mul(pages.saturating_mul(TABLE_BYTES_PER_PAGE));
        tables.saturating_add(programs.saturating_mul(BYTES_PER_PROGRAM))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn programs_and_tables_are_counted() {
        let of = |devices: Value, guest: u64, page: u64| {
            let spec = json!({ "domain": { "devices": devices } });
            let spec = serde_json::from_value(spec).unwrap();
            Beside::of(&spec).bytes(guest / page)
        };
        let shared = |name: &str| json!({ "name": name, "virtiofs": {} });
        let one = json!({ "filesystems": [shared("a")] });
        let two = json!({ "filesystems": [shared("a"), shared("b")], "tpm": {} });
        let gpu = json!({ "gpus": [{ "name": "a", "deviceName": "x.com/gpu" }] });
        assert_eq!(of(json!({}), 1024 * MIB, 4096), 0);
        assert_eq!(of(one.clone(), 1024 * MIB, 4096), 7 * MIB);
        assert_eq!(of(one.clone(), 1024 * MIB, 2 * MIB), 5 * MIB + 4096);
        assert_eq!(of(one, u64::MAX, 1), u64::MAX);
        assert_eq!(of(two, 1024 * MIB, 4096), (15 + 4) * MIB);
        assert_eq!(of(gpu, 2048 * MIB, 4096), 4 * MIB);
    }
}
