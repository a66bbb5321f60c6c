//! The kinds and how clients see them: names, versions, columns and subresources, those of KubeVirt.

use serde_json::{Value, json};

use super::{rules, schema, schema_of_content};
use crate::contract::GROUP;
use crate::instancetype::{self, InstancetypeSpec, PreferenceSpec};
use crate::pool::{self, VirtualMachinePoolSpec, VirtualMachinePoolStatus};
use crate::v1::{
    OLD_VERSION, VERSION, VirtualMachineInstanceReplicaSetSpec,
    VirtualMachineInstanceReplicaSetStatus, VirtualMachineInstanceSpec,
    VirtualMachineInstanceStatus, VirtualMachineSpec, VirtualMachineStatus,
};

/// A kind and how clients see it.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) group: &'static str,
    /// Oldest first; the last is stored.
    pub(super) versions: &'static [&'static str],
    pub(super) scope: Scope,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) short: &'static [&'static str],
    pub(super) subresources: Subresources,
    pub(super) columns: Vec<Value>,
    pub(super) schema: Value,
}

/// Where objects live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Namespaced,
    Cluster,
}

impl Scope {
    /// The word of a definition.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Namespaced => "Namespaced",
            Self::Cluster => "Cluster",
        }
    }
}

/// What of an object is changed apart from it.
pub(super) enum Subresources {
    None,
    Status,
    StatusAndScale,
}

impl Subresources {
    /// The part of a definition.
    pub(super) fn document(&self) -> Option<Value> {
        match self {
            Self::None => None,
            Self::Status => Some(json!({ "status": {} })),
            Self::StatusAndScale => Some(json!({
                "status": {},
                "scale": {
                    "specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.labelSelector",
                },
            })),
        }
    }
}

/// All kinds.
pub(super) fn all() -> Vec<Kind> {
    let mut kinds = vec![virtual_machine(), instance(), replica_set(), pool()];
    kinds.extend(instancetypes());
    kinds
}

fn virtual_machine() -> Kind {
    Kind {
        name: "VirtualMachine",
        group: GROUP,
        versions: &[OLD_VERSION, VERSION],
        scope: Scope::Namespaced,
        plural: "virtualmachines",
        singular: "virtualmachine",
        short: &["vm", "vms"],
        subresources: Subresources::Status,
        columns: vec![
            column("Age", "date", ".metadata.creationTimestamp", 0),
            column("Status", "string", ".status.printableStatus", 0),
            column("Ready", "string", &condition("Ready"), 0),
        ],
        schema: schema::<VirtualMachineSpec, VirtualMachineStatus>(
            "A machine that a user keeps: it says what the machine is and when it runs.",
            rules::MACHINE,
        ),
    }
}

fn instance() -> Kind {
    Kind {
        name: "VirtualMachineInstance",
        group: GROUP,
        versions: &[OLD_VERSION, VERSION],
        scope: Scope::Namespaced,
        plural: "virtualmachineinstances",
        singular: "virtualmachineinstance",
        short: &["vmi", "vmis"],
        subresources: Subresources::Status,
        columns: vec![
            column("Age", "date", ".metadata.creationTimestamp", 0),
            column("Phase", "string", ".status.phase", 0),
            column("IP", "string", ".status.interfaces[0].ipAddress", 0),
            column("NodeName", "string", ".status.nodeName", 0),
            column("Ready", "string", &condition("Ready"), 0),
            column("Live-Migratable", "string", &condition("LiveMigratable"), 1),
            column("Paused", "string", &condition("Paused"), 1),
        ],
        schema: schema::<VirtualMachineInstanceSpec, VirtualMachineInstanceStatus>(
            "One run of a machine, backed by one pod.",
            rules::INSTANCE,
        ),
    }
}

fn replica_set() -> Kind {
    Kind {
        name: "VirtualMachineInstanceReplicaSet",
        group: GROUP,
        versions: &[OLD_VERSION, VERSION],
        scope: Scope::Namespaced,
        plural: "virtualmachineinstancereplicasets",
        singular: "virtualmachineinstancereplicaset",
        short: &["vmirs", "vmirss"],
        subresources: Subresources::StatusAndScale,
        columns: replicas(),
        schema: schema::<
            VirtualMachineInstanceReplicaSetSpec,
            VirtualMachineInstanceReplicaSetStatus,
        >("So many instances of one template.", rules::REPLICA_SET),
    }
}

fn pool() -> Kind {
    Kind {
        name: "VirtualMachinePool",
        group: pool::GROUP,
        versions: &[pool::OLD_VERSION, pool::VERSION],
        scope: Scope::Namespaced,
        plural: "virtualmachinepools",
        singular: "virtualmachinepool",
        short: &["vmpool", "vmpools"],
        subresources: Subresources::StatusAndScale,
        columns: replicas(),
        schema: schema::<VirtualMachinePoolSpec, VirtualMachinePoolStatus>(
            "So many machines of one template.",
            rules::POOL,
        ),
    }
}

fn instancetypes() -> [Kind; 4] {
    let kind = |name, scope, plural, singular, short, schema| Kind {
        name,
        group: instancetype::GROUP,
        versions: &[instancetype::VERSION],
        scope,
        plural,
        singular,
        short,
        subresources: Subresources::None,
        columns: Vec::new(),
        schema,
    };
    let size =
        |description| schema_of_content::<InstancetypeSpec>(description, rules::INSTANCETYPE);
    let taste = |description| schema_of_content::<PreferenceSpec>(description, rules::PREFERENCE);
    [
        kind(
            "VirtualMachineInstancetype",
            Scope::Namespaced,
            "virtualmachineinstancetypes",
            "virtualmachineinstancetype",
            &["vminstancetype", "vminstancetypes", "vmf", "vmfs"],
            size("How large a machine is; for the machines of its namespace."),
        ),
        kind(
            "VirtualMachineClusterInstancetype",
            Scope::Cluster,
            "virtualmachineclusterinstancetypes",
            "virtualmachineclusterinstancetype",
            &[
                "vmclusterinstancetype",
                "vmclusterinstancetypes",
                "vmcf",
                "vmcfs",
            ],
            size("How large a machine is; for all machines."),
        ),
        kind(
            "VirtualMachinePreference",
            Scope::Namespaced,
            "virtualmachinepreferences",
            "virtualmachinepreference",
            &["vmpref", "vmprefs", "vmp", "vmps"],
            taste("What suits a guest; for the machines of its namespace."),
        ),
        kind(
            "VirtualMachineClusterPreference",
            Scope::Cluster,
            "virtualmachineclusterpreferences",
            "virtualmachineclusterpreference",
            &["vmcp", "vmcps"],
            taste("What suits a guest; for all machines."),
        ),
    ]
}

/// Columns of what keeps so many of something.
fn replicas() -> Vec<Value> {
    vec![
        column("Desired", "integer", ".spec.replicas", 0),
        column("Current", "integer", ".status.replicas", 0),
        column("Ready", "integer", ".status.readyReplicas", 0),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ]
}

fn condition(name: &str) -> String {
    format!(".status.conditions[?(@.type=='{name}')].status")
}

fn column(name: &str, kind: &str, path: &str, priority: u32) -> Value {
    let mut column = json!({ "name": name, "type": kind, "jsonPath": path });
    if priority > 0 {
        column["priority"] = priority.into();
    }
    column
}
