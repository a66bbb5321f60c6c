//! The content of a preference: what suits a guest, where its machine does not say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ClockPreferences, DevicePreferences, FeaturePreferences, FirmwarePreferences,
    MachinePreferences, VolumePreferences,
};
use crate::quantity::Quantity;
use crate::v1::{CpuFeature, LaunchSecurity};
use crate::words::words;

/// What suits a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PreferenceSpec {
    /// The clock and its timers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockPreferences>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuPreferences>,
    /// Devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<DevicePreferences>,
    /// Features of board and processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturePreferences>,
    /// The firmware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwarePreferences>,
    /// The board.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePreferences>,
    /// Claims that are made from dataVolumeTemplates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<VolumePreferences>,
    /// Subdomain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_subdomain: Option<String>,
    /// Seconds that the guest is given to power itself off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_termination_grace_period_seconds: Option<i64>,
    /// What a machine must have for the guest to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// Annotations of each instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Processors in each part of a spread topology. Deprecated in favour of cpu.spreadOptions.ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_spread_socket_to_core_ratio: Option<u32>,
    /// Architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_architecture: Option<String>,
    /// Encryption of the guest's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_launch_security: Option<LaunchSecurity>,
}

/// How the guest likes its processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CpuPreferences {
    /// How the processors of an instance type are arranged: a word of [`PreferredCpuTopology`],
    /// sockets by default.
    #[serde(
        rename = "preferredCPUTopology",
        skip_serializing_if = "Option::is_none"
    )]
    pub preferred_cpu_topology: Option<String>,
    /// How a spread topology is spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_options: Option<SpreadOptions>,
    /// Features of the model that the machine does not name.
    #[serde(
        default,
        rename = "preferredCPUFeatures",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub preferred_cpu_features: Vec<CpuFeature>,
}

/// How a spread topology is spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SpreadOptions {
    /// Over what: a word of [`SpreadAcross`], sockets and cores by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub across: Option<String>,
    /// How many of the inner part go to one of the outer; 2 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<u32>,
}

/// What a machine must have for the guest to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Requirements {
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirement>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryRequirement>,
    /// Architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
}

/// Processors that a guest needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CpuRequirement {
    /// Virtual processors at least.
    pub guest: u32,
}

/// Memory that a guest needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MemoryRequirement {
    /// Memory at least.
    pub guest: Quantity,
}

words! {
    /// How the processors of an instance type are arranged. The words that begin with `prefer` are
    /// deprecated.
    PreferredCpuTopology {
        /// A socket for each.
        Sockets = "sockets",
        /// One socket with that many cores.
        Cores = "cores",
        /// One core with that many threads.
        Threads = "threads",
        /// Over sockets, cores and threads.
        Spread = "spread",
        /// As it comes: a socket for each.
        Any = "any",
        /// As sockets.
        PreferSockets = "preferSockets",
        /// As cores.
        PreferCores = "preferCores",
        /// As threads.
        PreferThreads = "preferThreads",
        /// As spread.
        PreferSpread = "preferSpread",
        /// As any.
        PreferAny = "preferAny",
    }
}

words! {
    /// Over what a spread topology is spread.
    SpreadAcross {
        /// Sockets of cores.
        SocketsCores = "SocketsCores",
        /// Cores of threads, in one socket.
        CoresThreads = "CoresThreads",
        /// Sockets of cores of two threads.
        SocketsCoresThreads = "SocketsCoresThreads",
    }
}
