//! How a pool shrinks, how a change reaches its machines, and when it replaces one.

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use crate::v1::Empty;
use crate::words::words;

/// How the number of machines shrinks: one of these; proactive by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ScaleInStrategy {
    /// The pool deletes nothing: its user does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Empty>,
    /// Machines that are deleted anyway are not replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opportunistic: Option<OpportunisticScaleIn>,
    /// The pool deletes machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proactive: Option<ProactiveScaleIn>,
}

/// Machines that are deleted anyway are not replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OpportunisticScaleIn {
    /// What is kept of a machine: Disabled (default), Offline or Online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_preservation: Option<String>,
}

/// The pool deletes machines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProactiveScaleIn {
    /// Which first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_policy: Option<SelectionPolicy>,
    /// What is kept of a machine: Disabled (default), Offline or Online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_preservation: Option<String>,
}

/// Which machines first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SelectionPolicy {
    /// In which order: a word of [`SortPolicy`], Random by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort_policy: Option<String>,
    /// Which at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selectors: Option<Selectors>,
}

/// Which machines at all: those that match everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Selectors {
    /// Matched with the labels of the machine's template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Matched with the node selector of the machine's template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selector_requirement_matcher: Vec<NodeSelectorRequirement>,
}

/// How a change of the template reaches the machines: one of these; proactive by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Empty>,
    /// The machines change, and their guests run on until they restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opportunistic: Option<Empty>,
    /// The machines change, and their guests are restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proactive: Option<ProactiveUpdate>,
}

/// The machines change, and their guests are restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProactiveUpdate {
    /// Which first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_policy: Option<SelectionPolicy>,
}

/// When a machine that fails to start is replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Autohealing {
    /// After so many failed starts in a row; 3 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_up_failure_threshold: Option<u32>,
    /// After it could not start for so long, such as 5m0s (the default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_failing_to_start_duration: Option<String>,
}

words! {
    /// In which order machines are chosen.
    SortPolicy {
        /// Lowest number first.
        AscendingOrder = "AscendingOrder",
        /// Highest number first.
        DescendingOrder = "DescendingOrder",
        /// Youngest first.
        Newest = "Newest",
        /// Oldest first.
        Oldest = "Oldest",
        /// In no particular order.
        Random = "Random",
    }
}
