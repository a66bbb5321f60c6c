//! The devices of a machine.
//!
//! Disks and interfaces have files of their own; here is the list of all devices and the small
//! ones.

use serde::{Deserialize, Serialize};

use super::{Disk, Empty, FeatureState, Interface};

/// Devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// A source of random numbers from the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Empty>,
    /// The first serial console is there; on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_serial_console: Option<bool>,
    /// A screen is there; on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_graphics_device: Option<bool>,
    /// A memory balloon is there; on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_mem_balloon: Option<bool>,
    /// A machine without interfaces is connected to the pod network; on by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_pod_interface: Option<bool>,
    /// A tablet is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_input_device: Option<bool>,
    /// A vsock device is there.
    #[serde(rename = "autoattachVSOCK", skip_serializing_if = "Option::is_none")]
    pub autoattach_vsock: Option<bool>,
    /// The first serial console is logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_serial_console: Option<bool>,
    /// Nothing can be attached while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_hotplug: Option<bool>,
    /// Virtio disks have a queue for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_multi_queue: Option<bool>,
    /// Virtio interfaces have a queue for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_interface_multiqueue: Option<bool>,
    /// Virtio devices understand the old protocol too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_virtio_transitional: Option<bool>,
    /// Input devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// The screen's adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoDevice>,
    /// The sound card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sound: Option<SoundDevice>,
    /// The watchdog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Box<Watchdog>>,
    /// The trusted platform module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmDevice>,
    /// Devices by which the guest reports a panic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub panic_devices: Vec<PanicDevice>,
    /// USB devices of the client's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_passthrough: Option<Empty>,
    /// Directories shared by virtiofs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filesystems: Vec<Filesystem>,
    /// Graphics processors of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Devices of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_devices: Vec<HostDevice>,
    /// Metrics of the node, readable in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downward_metrics: Option<Empty>,
}

/// An input device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// Name.
    pub name: String,
    /// Type: tablet.
    pub r#type: String,
    /// usb (default) or virtio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
}

/// The screen's adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VideoDevice {
    /// vga, virtio, bochs, cirrus or ramfb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
}

/// The sound card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SoundDevice {
    /// Name.
    pub name: String,
    /// ich9 (default) or ac97.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// The watchdog.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Watchdog {
    /// Name.
    pub name: String,
    /// Intel 6300ESB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i6300esb: Option<WatchdogTimer>,
    /// IBM diag288.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diag288: Option<WatchdogTimer>,
}

/// A watchdog's timer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WatchdogTimer {
    /// What it does when it barks: poweroff, reset (default) or shutdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// The trusted platform module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TpmDevice {
    /// It is there; the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Its state outlives the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
}

/// A device by which the guest reports a panic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PanicDevice {
    /// isa, pvpanic or hyperv.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A directory shared by virtiofs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Filesystem {
    /// Name of the volume, and of the mount tag in the guest.
    pub name: String,
    /// It is shared by virtiofs.
    pub virtiofs: Empty,
}

/// A graphics processor of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Name.
    pub name: String,
    /// Resource that a device plugin offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Resource claim that allocates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
    /// Request within the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_name: Option<String>,
    /// Options of a virtual one.
    #[serde(rename = "virtualGPUOptions", skip_serializing_if = "Option::is_none")]
    pub virtual_gpu_options: Option<VirtualGpuOptions>,
    /// Tag by which the guest finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Options of a virtual graphics processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualGpuOptions {
    /// Its display.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display: Option<VirtualGpuDisplay>,
}

/// Display of a virtual graphics processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualGpuDisplay {
    /// It is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Picture during boot.
    #[serde(rename = "ramFB", skip_serializing_if = "Option::is_none")]
    pub ram_fb: Option<FeatureState>,
}

/// A device of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HostDevice {
    /// Name.
    pub name: String,
    /// Resource that a device plugin offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Resource claim that allocates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<String>,
    /// Request within the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_name: Option<String>,
    /// Tag by which the guest finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}
