//! What a pod says about the machine in it: kubelet's words read once into one enum.
//!
//! Relies on the machine container's name; other containers of the pod do not decide whether the
//! guest runs.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vm_api::contract::{MACHINE_CONTAINER, MACHINE_CONTAINER_ANNOTATION, exit_code};

/// How far a pod is with its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// No node was found for it; the scheduler's sentence.
    Unschedulable(String),
    /// Its containers are being made.
    Starting,
    /// Other containers of it run, the machine is yet to come.
    Prepared,
    /// Making a container fails, with kubelet's reason and message.
    Stuck(Complaint),
    /// The guest runs, since then.
    Running(Option<Time>),
    /// The guest ended by itself or by the power button; when it began to run.
    PoweredOff(Option<Time>),
    /// The guest, QEMU or the pod failed; when the guest began to run, if it did.
    Failed(Complaint, Option<Time>),
}

/// Why something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// In one word.
    pub(super) reason: String,
    /// In one sentence.
    pub(super) message: String,
}

impl Complaint {
    /// A complaint.
    pub(super) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Reasons for which a container waits in the ordinary course.
const ORDINARY_WAITING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What containerd puts before the shim's own sentence.
const WRAPPING: [&str; 2] = [
    "failed to create containerd task: ",
    "failed to create shim task: ",
];

/// Exit code of a machine that was killed.
const KILLED: u32 = exit_code::SIGNAL_BASE + 9;

/// How far `pod` is with its machine.
pub(super) fn progress(pod: &Pod) -> Progress {
    let phase = pod_phase(pod);
    match machine_state(pod) {
        Some(ContainerState {
            terminated: Some(end),
            ..
        }) => {
            let ran = began(end);
            if end.exit_code == 0 {
                return Progress::PoweredOff(ran);
            }
            let complaint = Complaint::new(
                end.reason.clone().unwrap_or_else(|| "Error".to_owned()),
                end_message(pod, end),
            );
            return Progress::Failed(complaint, ran);
        }
        Some(ContainerState {
            running: Some(running),
            ..
        }) if phase != "Failed" => {
            return Progress::Running(running.started_at.clone());
        }
        _ => {}
    }
    match phase {
        "Succeeded" => return Progress::PoweredOff(None),
        "Failed" => return Progress::Failed(pod_complaint(pod), None),
        _ => {}
    }
    if let Some(complaint) = waiting_complaint(pod) {
        return Progress::Stuck(complaint);
    }
    match condition(pod, "PodScheduled") {
        Some(scheduled) if scheduled.status == "False" => {
            Progress::Unschedulable(scheduled.message.clone().unwrap_or_default())
        }
        _ if phase == "Running" => Progress::Prepared,
        _ => Progress::Starting,
    }
}

/// When the container began to run. One whose start failed is reported as begun at the epoch.
fn began(end: &ContainerStateTerminated) -> Option<Time> {
    end.started_at
        .clone()
        .filter(|started| started.0.as_second() > 0)
}

/// The container that is the machine: the annotation's, as in the contract.
pub(super) fn machine_container(pod: &Pod) -> &str {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(MACHINE_CONTAINER_ANNOTATION))
        .map_or(MACHINE_CONTAINER, String::as_str)
}

fn statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

fn machine_state(pod: &Pod) -> Option<&ContainerState> {
    let name = machine_container(pod);
    statuses(pod)
        .iter()
        .find(|status| status.name == name)?
        .state
        .as_ref()
}

/// The pod's own phase.
pub(super) fn pod_phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// The first thing that keeps a container of the pod from being made: an init container counts.
fn waiting_complaint(pod: &Pod) -> Option<Complaint> {
    let init = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_deref())
        .unwrap_or_default();
    init.iter().chain(statuses(pod)).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        (!ORDINARY_WAITING.contains(&reason))
            .then(|| Complaint::new(reason, waiting.message.clone().unwrap_or_default()))
    })
}

fn pod_complaint(pod: &Pod) -> Complaint {
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| status.reason.clone());
    let message = status.and_then(|status| status.message.clone());
    Complaint::new(
        reason.unwrap_or_else(|| "PodFailed".to_owned()),
        message.unwrap_or_else(|| "the pod failed without saying why".to_owned()),
    )
}

/// Why the machine ended, by its own last words if it left any.
fn end_message(pod: &Pod, end: &ContainerStateTerminated) -> String {
    let said = end
        .message
        .as_deref()
        .map(str::trim)
        .filter(|said| !said.is_empty());
    if let Some(said) = said {
        let said = WRAPPING
            .iter()
            .fold(said, |said, words| said.strip_prefix(words).unwrap_or(said));
        return said.to_owned();
    }
    match u32::try_from(end.exit_code) {
        Ok(exit_code::GUEST_CRASHED) => "the guest crashed".to_owned(),
        Ok(KILLED) if is_terminating(pod) => {
            "the guest did not shut down within its grace period and was ended".to_owned()
        }
        Ok(code) if code > exit_code::SIGNAL_BASE => {
            format!("QEMU was ended by signal {}", code - exit_code::SIGNAL_BASE)
        }
        _ => format!("the machine ended with exit code {}", end.exit_code),
    }
}

/// A condition of the pod.
pub(super) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether the pod is being deleted.
pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The node that the pod is bound to.
pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The pod's addresses, all of which lead to the guest, the first one first.
pub(super) fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let mut addresses: Vec<_> = all.iter().map(|address| address.ip.clone()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.clone());
    }
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_addresses_keep_their_order() {
        let pod = serde_json::from_value(json!({ "status": {
            "podIP": "fd00::5",
            "podIPs": [{ "ip": "fd00::5" }, { "ip": "10.244.1.5" }],
        } }));
        assert_eq!(addresses(&pod.unwrap()), ["fd00::5", "10.244.1.5"]);
    }

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    fn compute(phase: &str, state: serde_json::Value) -> Pod {
        pod(json!({
            "phase": phase,
            "containerStatuses": [
                { "name": "side", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                  "state": { "running": {} } },
                { "name": "compute", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                  "state": state },
            ],
        }))
    }

    #[test]
    fn a_pod_is_read_as_its_machine_container_is() {
        let failed =
            |reason: &str, message: &str| Progress::Failed(Complaint::new(reason, message), None);
        let start = "2026-01-01T00:00:00Z";
        let begun = Some(serde_json::from_value::<Time>(json!(start)).unwrap());
        let table = [
            (pod(json!({})), Progress::Starting),
            (pod(json!({ "phase": "Pending" })), Progress::Starting),
            (
                pod(json!({ "phase": "Pending", "conditions": [
                    { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                      "message": "0/2 nodes are available" }] })),
                Progress::Unschedulable("0/2 nodes are available".to_owned()),
            ),
            (
                compute(
                    "Pending",
                    json!({ "waiting": { "reason": "ContainerCreating" } }),
                ),
                Progress::Starting,
            ),
            (
                compute(
                    "Running",
                    json!({ "waiting": { "reason": "PodInitializing" } }),
                ),
                Progress::Prepared,
            ),
            (
                compute(
                    "Pending",
                    json!({ "waiting": { "reason": "ErrImagePull",
                    "message": "not found" } }),
                ),
                Progress::Stuck(Complaint::new("ErrImagePull", "not found")),
            ),
            (
                compute("Running", json!({ "running": {} })),
                Progress::Running(None),
            ),
            (
                compute(
                    "Running",
                    json!({ "terminated": { "exitCode": 0, "startedAt": start } }),
                ),
                Progress::PoweredOff(begun),
            ),
            (
                compute(
                    "Failed",
                    json!({ "terminated": { "exitCode": 1, "reason": "Error" } }),
                ),
                failed("Error", "the guest crashed"),
            ),
            (
                compute(
                    "Failed",
                    json!({ "terminated": { "exitCode": 137, "reason": "Error" } }),
                ),
                failed("Error", "QEMU was ended by signal 9"),
            ),
            (
                compute(
                    "Failed",
                    json!({ "terminated": { "exitCode": 128, "reason": "StartError",
                    "startedAt": "1970-01-01T00:00:00Z", "message": "two disks in /disk\n" } }),
                ),
                failed("StartError", "two disks in /disk"),
            ),
            (
                pod(json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" })),
                failed("Evicted", "low on memory"),
            ),
            (
                compute("Failed", json!({ "running": {} })),
                failed("PodFailed", "the pod failed without saying why"),
            ),
            (
                pod(json!({ "phase": "Succeeded" })),
                Progress::PoweredOff(None),
            ),
        ];
        for (pod, expected) in table {
            assert_eq!(progress(&pod), expected, "{:?}", pod.status);
        }
    }
}
