//! The VirtualMachinePool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Autohealing, ScaleInStrategy, UpdateStrategy};
use crate::v1::{VirtualMachineInstanceReplicaSetStatus, VirtualMachineSpec};

/// So many machines of one template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePool {
    /// [`API_VERSION`], or the older one.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `VirtualMachinePool`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Name, namespace, labels and the like.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wished.
    pub spec: VirtualMachinePoolSpec,
    /// What is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<VirtualMachinePoolStatus>,
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    "VirtualMachinePool".to_owned()
}

/// Wish for so many machines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePoolSpec {
    /// How many; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Which machines are its own; the template's labels must match.
    pub selector: LabelSelector,
    /// What each is made from.
    pub virtual_machine_template: VirtualMachineTemplateSpec,
    /// Nothing is made, changed or deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// What the number of a machine is appended to, beside its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_generation: Option<NameGeneration>,
    /// How many machines may be away at a time during an update, or which part in percent; 100% by
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// How the number of machines shrinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_in_strategy: Option<ScaleInStrategy>,
    /// How a change of the template reaches the machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// When a machine that fails to start is replaced; never by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autohealing: Option<Autohealing>,
}

/// What each machine of a pool is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineTemplateSpec {
    /// Labels and annotations of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ObjectMeta>,
    /// The machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<VirtualMachineSpec>,
}

/// What the number of a machine is appended to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NameGeneration {
    /// Names of ConfigMaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_index_to_config_map_refs: Option<bool>,
    /// Names of Secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_index_to_secret_refs: Option<bool>,
}

/// State of so many machines: KubeVirt has the same fields for both.
pub type VirtualMachinePoolStatus = VirtualMachineInstanceReplicaSetStatus;
