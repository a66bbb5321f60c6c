//! The VirtualMachine: what a user keeps.
//!
//! It holds the template from which instances are made and says when one should run. Relies on the
//! instance's spec for everything about the machine itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{
    API_VERSION, DataVolumeTemplateSpec, VirtualMachineInstanceSpec, VirtualMachineStatus,
};

/// A machine that a user keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachine {
    /// Always [`API_VERSION`].
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `VirtualMachine`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Name, namespace, labels and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wished.
    pub spec: VirtualMachineSpec,
    /// What is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<VirtualMachineStatus>,
}

impl VirtualMachine {
    /// An object with this name and spec, in no namespace yet.
    pub fn new(name: &str, spec: VirtualMachineSpec) -> Self {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata,
            spec,
            status: None,
        }
    }
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    "VirtualMachine".to_owned()
}

/// Wish for a machine and when it should run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Runs (true) or is halted (false). Deprecated in favour of runStrategy; exactly one of the
    /// two is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// When an instance runs: Always, RerunOnFailure, Manual, Once, Halted or WaitAsReceiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<String>,
    /// The instance that is made when the machine starts.
    pub template: VirtualMachineInstanceTemplateSpec,
    /// The instance type that sets processors and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instancetype: Option<InstancetypeMatcher>,
    /// The preference that fills in what the template leaves open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceMatcher>,
    /// Data volumes made with the machine and deleted with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_volume_templates: Vec<DataVolumeTemplateSpec>,
    /// What happens when a volume of a running machine is exchanged: Replacement or Migration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_volumes_strategy: Option<String>,
}

/// What an instance of a machine is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineInstanceTemplateSpec {
    /// Labels and annotations of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ObjectMeta>,
    /// The instance itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<VirtualMachineInstanceSpec>,
}

/// Reference to an instance type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct InstancetypeMatcher {
    /// Name of the instance type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// VirtualMachineInstancetype or VirtualMachineClusterInstancetype (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// ControllerRevision that holds the instance type as it was when the machine was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// Volume whose labels name the instance type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// What a failed inference does: Reject (default) or Ignore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<String>,
}

/// Reference to a preference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PreferenceMatcher {
    /// Name of the preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// VirtualMachinePreference or VirtualMachineClusterPreference (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// ControllerRevision that holds the preference as it was when the machine was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision_name: Option<String>,
    /// Volume whose labels name the preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume: Option<String>,
    /// What a failed inference does: Reject (default) or Ignore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infer_from_volume_failure_policy: Option<String>,
}
