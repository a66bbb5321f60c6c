//! Network interfaces: what a network is to the guest.
//!
//! An interface has the name of its network and is bound to it in one way.

use serde::{Deserialize, Serialize};

use super::Empty;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Name of its network.
    pub name: String,
    /// The guest has a private address behind the pod's; the default here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Empty>,
    /// The guest has the pod's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Empty>,
    /// The guest has a virtual function of the node's adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sriov: Option<Empty>,
    /// The guest is bound by a plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<PluginBinding>,
    /// The guest is connected by passt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt_binding: Option<Empty>,
    /// Not offered any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macvtap: Option<Empty>,
    /// Not offered any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt: Option<Empty>,
    /// Not offered any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slirp: Option<Empty>,
    /// Model: virtio (default), e1000, e1000e, igb, ne2k_pci, pcnet or rtl8139.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// MAC address, such as 02:00:00:00:00:01; chosen by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Ports forwarded to the guest; all by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Ranges of ports forwarded to the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_ranges: Vec<PortRange>,
    /// Place in the order of boot devices, from 1; each at most once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
    /// Further options that the guest gets by DHCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_options: Option<Box<DhcpOptions>>,
    /// PCI address, such as 0000:81:01.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// Index by which the guest names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acpi_index: Option<i32>,
    /// Tag by which the guest finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// State of the link: up, down or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// A plugin that binds an interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PluginBinding {
    /// Name of the plugin.
    pub name: String,
}

/// A port forwarded to the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Name; each at most once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number, 1 to 65535.
    pub port: i32,
    /// TCP (default) or UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// A range of ports forwarded to the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// First.
    pub start: i32,
    /// Last.
    pub end: i32,
    /// TCP or UDP.
    pub protocol: String,
}

/// Further options of DHCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DhcpOptions {
    /// Boot file, option 67.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_file_name: Option<String>,
    /// Boot server, option 66.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tftp_server_name: Option<String>,
    /// Time servers, option 42.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp_servers: Vec<String>,
    /// Private options, 224 to 254.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_options: Vec<DhcpPrivateOption>,
}

/// A private option of DHCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DhcpPrivateOption {
    /// Number, 224 to 254.
    pub option: i32,
    /// Value.
    pub value: String,
}
