//! Disks: what a volume is to the guest.
//!
//! A disk has the name of the volume that holds its data, and is a disk, a CD-ROM or a LUN.

use serde::{Deserialize, Serialize};

use super::FeatureState;

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Name of the volume that holds its data.
    pub name: String,
    /// It is an ordinary disk; the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTarget>,
    /// It is a CD-ROM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<CdromTarget>,
    /// It is a SCSI logical unit, commands passed through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lun: Option<LunTarget>,
    /// Place in the order of boot devices, from 1; each at most once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Cache: none, writethrough or writeback; chosen by the medium by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// How QEMU reads and writes: native, threads or io_uring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<String>,
    /// What an I/O error does: stop (default), report, ignore or enospace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_policy: Option<String>,
    /// Block sizes that the guest sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<BlockSize>,
    /// More than one machine may write to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shareable: Option<bool>,
    /// It has an I/O thread to itself.
    #[serde(rename = "dedicatedIOThread", skip_serializing_if = "Option::is_none")]
    pub dedicated_io_thread: Option<bool>,
    /// Tag by which the guest finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Changed blocks are recorded, for incremental backups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_block_tracking: Option<bool>,
}

/// An ordinary disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// Bus: virtio, sata, scsi or usb; sata by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The guest cannot write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// PCI address, such as 0000:81:01.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
}

/// A CD-ROM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CdromTarget {
    /// Bus: sata (default), scsi or usb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The guest cannot write; the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// State of the tray: open or closed (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tray: Option<String>,
}

/// A SCSI logical unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LunTarget {
    /// Bus: scsi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// The guest cannot write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// The guest may use persistent reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<bool>,
}

/// Block sizes; one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BlockSize {
    /// These.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomBlockSize>,
    /// Those of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_volume: Option<FeatureState>,
}

/// Block sizes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CustomBlockSize {
    /// Logical block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical: Option<u32>,
    /// Physical block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical: Option<u32>,
    /// Smallest piece that can be discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_granularity: Option<u32>,
}
