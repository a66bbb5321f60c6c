//! Conditions: KubeVirt's words for them, and lists in which each type stands once.
//!
//! A condition whose status stays the same keeps its time of transition, so that a status that
//! says nothing new equals the old one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vm_api::v1::Condition;

/// Types of conditions.
pub mod kind {
    /// The guest runs and its pod is ready.
    pub const READY: &str = "Ready";
    /// What is asked for is what is done; only ever False.
    pub const SYNCHRONIZED: &str = "Synchronized";
    /// The scheduler's word; only ever False.
    pub const POD_SCHEDULED: &str = "PodScheduled";
    /// The machine can move to another node.
    pub const LIVE_MIGRATABLE: &str = "LiveMigratable";
    /// Its disks can move to other storage while it runs.
    pub const STORAGE_LIVE_MIGRATABLE: &str = "StorageLiveMigratable";
    /// The guest's agent answers.
    pub const AGENT_CONNECTED: &str = "AgentConnected";
    /// The guest has its access credentials.
    pub const ACCESS_CREDENTIALS_SYNCHRONIZED: &str = "AccessCredentialsSynchronized";
    /// The guest is getting other processors.
    pub const HOT_VCPU_CHANGE: &str = "HotVCPUChange";
    /// The guest is getting another amount of memory.
    pub const HOT_MEMORY_CHANGE: &str = "HotMemoryChange";
    /// The guest's processors are emulated in software.
    pub const SOFTWARE_EMULATION: &str = "SoftwareEmulation";
    /// The guest is paused.
    pub const PAUSED: &str = "Paused";
    /// No instance could be made.
    pub const FAILURE: &str = "Failure";
    /// The template differs from what runs.
    pub const RESTART_REQUIRED: &str = "RestartRequired";
    /// There are not as many as there should be.
    pub const REPLICA_FAILURE: &str = "ReplicaFailure";
    /// Their number is left alone.
    pub const REPLICA_PAUSED: &str = "ReplicaPaused";
}

/// Reasons of conditions and events.
pub mod reason {
    /// No guest runs in the pod.
    pub const GUEST_NOT_RUNNING: &str = "GuestNotRunning";
    /// The pod is being deleted.
    pub const POD_TERMINATING: &str = "PodTerminating";
    /// There is no pod.
    pub const POD_NOT_EXISTS: &str = "PodNotExists";
    /// The pod does not say whether it is ready.
    pub const POD_CONDITION_MISSING: &str = "PodConditionMissing";
    /// There is no instance.
    pub const INSTANCE_NOT_EXISTS: &str = "VMINotExists";
    /// The instance does not say whether it is ready.
    pub const INSTANCE_CONDITION_MISSING: &str = "VMIConditionMissing";
    /// The scheduler found no node.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The guest is paused because somebody wanted it.
    pub const PAUSED_BY_USER: &str = "PausedByUser";
    /// A claim is missing.
    pub const PVC_NOT_FOUND: &str = "FailedPvcNotFound";
    /// The machine cannot move.
    pub const NOT_MIGRATABLE: &str = "NotMigratable";
    /// The guest stands still because its storage fails.
    pub const PAUSED_IO_ERROR: &str = "PausedIOError";
    /// The guest is paused: KubeVirt's word, which stands for its readiness gate.
    pub const READINESS_GATES_NOT_READY: &str = "ReadinessGatesNotReady";
    /// A field is not supported.
    pub const UNSUPPORTED_FIELD: &str = "UnsupportedField";
    /// A value is wrong.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// An instance type is not there, or not readable.
    pub const FAILED_FIND_INSTANCETYPE: &str = "FailedFindInstancetype";
    /// A preference is not there, or not readable.
    pub const FAILED_FIND_PREFERENCE: &str = "FailedFindPreference";
    /// Something could not be created.
    pub const FAILED_CREATE: &str = "FailedCreate";
    /// Something could not be deleted.
    pub const FAILED_DELETE: &str = "FailedDelete";
    /// Something was created.
    pub const SUCCESSFUL_CREATE: &str = "SuccessfulCreate";
    /// Something was deleted.
    pub const SUCCESSFUL_DELETE: &str = "SuccessfulDelete";
}

/// The condition of type `kind` in `conditions`.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.r#type == kind)
}

/// Whether the condition of type `kind` has the status True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// A condition without times.
pub fn condition(
    kind: &str,
    status: bool,
    reason: Option<&str>,
    message: Option<&str>,
) -> Condition {
    Condition {
        r#type: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        ..Condition::default()
    }
}

/// `new`, each with the time of its last transition: that of the same condition in `old` if it had
/// the same status, its own if it has one, else `now`.
pub fn with_times(mut new: Vec<Condition>, old: &[Condition], now: &Time) -> Vec<Condition> {
    for condition in &mut new {
        let before = find(old, &condition.r#type);
        condition.last_transition_time = match before {
            Some(before) if before.status == condition.status => before
                .last_transition_time
                .clone()
                .or_else(|| Some(now.clone())),
            _ => condition
                .last_transition_time
                .take()
                .or_else(|| Some(now.clone())),
        };
    }
    new
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn a_time_changes_only_with_the_status() {
        let first = Time(Timestamp::from_second(1).unwrap());
        let later = Time(Timestamp::from_second(2).unwrap());
        let ready = |status, reason| condition(kind::READY, status, reason, None);
        let old = with_times(vec![ready(false, Some("A"))], &[], &first);
        assert_eq!(old[0].last_transition_time.as_ref(), Some(&first));
        let same = with_times(vec![ready(false, Some("B"))], &old, &later);
        assert_eq!(same[0].last_transition_time.as_ref(), Some(&first));
        assert_eq!(same[0].reason.as_deref(), Some("B"));
        let changed = with_times(vec![ready(true, None)], &old, &later);
        assert_eq!(changed[0].last_transition_time.as_ref(), Some(&later));
    }
}
