//! Rules that the API server checks by itself: bounds, lists of words, and relations of fields.
//!
//! Each agrees with KubeVirt's admission, so that a cluster without the webhook still refuses the
//! commonest mistakes at once.

use serde_json::{Value, json};

/// What is added to the schema of one field.
pub(super) struct Rule {
    /// The field; `[]` stands for the items of a list.
    path: &'static str,
    add: Add,
}

enum Add {
    /// The value is one of these.
    Words(&'static [&'static str]),
    /// The number is within these bounds.
    Within(i64, i64),
    /// The expression (CEL) holds, or the message is given, about a field below.
    Holds(&'static str, &'static str, &'static str),
    /// The value may be null.
    Null,
    /// Items of the list are told apart by this field.
    Key(&'static str),
}

const fn words(path: &'static str, words: &'static [&'static str]) -> Rule {
    Rule {
        path,
        add: Add::Words(words),
    }
}

const fn within(path: &'static str, minimum: i64, maximum: i64) -> Rule {
    Rule {
        path,
        add: Add::Within(minimum, maximum),
    }
}

const fn holds(
    path: &'static str,
    rule: &'static str,
    message: &'static str,
    field: &'static str,
) -> Rule {
    Rule {
        path,
        add: Add::Holds(rule, message, field),
    }
}

const fn null(path: &'static str) -> Rule {
    Rule {
        path,
        add: Add::Null,
    }
}

const fn key(path: &'static str, field: &'static str) -> Rule {
    Rule {
        path,
        add: Add::Key(field),
    }
}

const RUN_STRATEGIES: &[&str] = &[
    "Always",
    "RerunOnFailure",
    "Manual",
    "Once",
    "Halted",
    "WaitAsReceiver",
];
const PULL_POLICIES: &[&str] = &["Always", "Never", "IfNotPresent"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const EVICTION_STRATEGIES: &[&str] = &["None", "LiveMigrate", "LiveMigrateIfPossible", "External"];

const STATE_PRESERVATIONS: &[&str] = &["Disabled", "Offline", "Online"];
const SORT_POLICIES: &[&str] = &[
    "AscendingOrder",
    "DescendingOrder",
    "Newest",
    "Oldest",
    "Random",
];
const TOPOLOGIES: &[&str] = &[
    "sockets",
    "cores",
    "threads",
    "spread",
    "any",
    "preferSockets",
    "preferCores",
    "preferThreads",
    "preferSpread",
    "preferAny",
];

/// Rules of an instance's spec, below `path`.
macro_rules! instance_rules {
    ($spec:expr $(, $more:expr)* $(,)?) => {
        &[
            $($more,)*
            words(concat!($spec, ".dnsPolicy"), DNS_POLICIES),
            words(concat!($spec, ".evictionStrategy"), EVICTION_STRATEGIES),
            words(concat!($spec, ".startStrategy"), &["Paused"]),
            words(concat!($spec, ".volumes[].containerDisk.imagePullPolicy"), PULL_POLICIES),
            words(concat!($spec, ".domain.devices.disks[].disk.bus"), &["", "virtio", "sata", "scsi", "usb"]),
            words(concat!($spec, ".domain.devices.disks[].cdrom.bus"), &["", "sata", "scsi", "usb"]),
            words(concat!($spec, ".domain.devices.disks[].cache"), &["", "none", "writethrough", "writeback"]),
            words(concat!($spec, ".domain.devices.interfaces[].ports[].protocol"), &["", "TCP", "UDP"]),
            within(concat!($spec, ".domain.devices.disks[].bootOrder"), 1, u32::MAX as i64),
            within(concat!($spec, ".domain.devices.interfaces[].bootOrder"), 1, u32::MAX as i64),
            within(concat!($spec, ".domain.devices.interfaces[].ports[].port"), 1, 65535),
            key("status.conditions", "type"),
            null("status.conditions[].lastProbeTime"),
            null("status.conditions[].lastTransitionTime"),
        ]
    };
}

/// Rules of a machine's spec at `path`.
macro_rules! machine_rules {
    ($path:literal $(, $more:expr)* $(,)?) => {
        instance_rules!(
            concat!($path, ".template.spec"),
            $($more,)*
            words(concat!($path, ".runStrategy"), RUN_STRATEGIES),
            null(concat!($path, ".template.metadata")),
            holds(
                $path,
                "has(self.running) != has(self.runStrategy)",
                "exactly one of runStrategy and running is set; prefer runStrategy",
                ".running",
            ),
        )
    };
}

/// Rules of a VirtualMachine.
pub(super) const MACHINE: &[Rule] = machine_rules!("spec");

/// Rules of a VirtualMachineInstance.
pub(super) const INSTANCE: &[Rule] = instance_rules!("spec");

/// Rules of a VirtualMachineInstanceReplicaSet.
pub(super) const REPLICA_SET: &[Rule] = instance_rules!(
    "spec.template.spec",
    within("spec.replicas", 0, i32::MAX as i64),
    null("spec.template.metadata"),
);

/// Rules of a VirtualMachinePool.
pub(super) const POOL: &[Rule] = machine_rules!(
    "spec.virtualMachineTemplate.spec",
    within("spec.replicas", 0, i32::MAX as i64),
    within(
        "spec.autohealing.startUpFailureThreshold",
        1,
        u32::MAX as i64
    ),
    null("spec.virtualMachineTemplate.metadata"),
    words(
        "spec.scaleInStrategy.proactive.statePreservation",
        STATE_PRESERVATIONS,
    ),
    words(
        "spec.scaleInStrategy.opportunistic.statePreservation",
        STATE_PRESERVATIONS,
    ),
    words(
        "spec.scaleInStrategy.proactive.selectionPolicy.sortPolicy",
        SORT_POLICIES,
    ),
    words(
        "spec.updateStrategy.proactive.selectionPolicy.sortPolicy",
        SORT_POLICIES,
    ),
);

/// Rules of an instance type.
pub(super) const INSTANCETYPE: &[Rule] = &[
    within("spec.memory.overcommitPercent", 0, 100),
    holds(
        "spec.memory",
        "!has(self.overcommitPercent) || self.overcommitPercent == 0 || !has(self.hugepages)",
        "overcommitPercent excludes hugepages, which are all set aside",
        ".overcommitPercent",
    ),
];

/// Rules of a preference.
pub(super) const PREFERENCE: &[Rule] = &[words("spec.cpu.preferredCPUTopology", TOPOLOGIES)];

/// Adds the rules to a schema.
pub(super) fn apply(schema: &mut Value, rules: &[Rule]) {
    for rule in rules {
        if let Some(field) = field(schema, rule.path) {
            rule.add.to(field);
        }
    }
}

/// The schema of a field.
fn field<'s>(schema: &'s mut Value, path: &str) -> Option<&'s mut Value> {
    let mut schema = schema;
    for part in path.split('.') {
        let name = part.trim_end_matches("[]");
        schema = schema.get_mut("properties")?.get_mut(name)?;
        if part.ends_with("[]") {
            schema = schema.get_mut("items")?;
        }
    }
    Some(schema)
}

impl Add {
    fn to(&self, field: &mut Value) {
        match self {
            Self::Words(words) => field["enum"] = json!(words),
            Self::Within(minimum, maximum) => {
                field["minimum"] = json!(minimum);
                field["maximum"] = json!(maximum);
            }
            Self::Holds(rule, message, path) => {
                field["x-kubernetes-validations"] =
                    json!([{ "rule": rule, "message": message, "fieldPath": path }]);
            }
            Self::Null => field["nullable"] = true.into(),
            Self::Key(name) => {
                field["x-kubernetes-list-type"] = "map".into();
                field["x-kubernetes-list-map-keys"] = json!([name]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_field() {
        let rules = [
            MACHINE,
            INSTANCE,
            REPLICA_SET,
            POOL,
            INSTANCETYPE,
            INSTANCETYPE,
            PREFERENCE,
            PREFERENCE,
        ];
        for (rules, document) in rules.into_iter().zip(super::super::documents()) {
            let mut schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            for rule in rules {
                assert!(
                    field(&mut schema, rule.path).is_some(),
                    "no field {}",
                    rule.path
                );
            }
        }
    }
}
