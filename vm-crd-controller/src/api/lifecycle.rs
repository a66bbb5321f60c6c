//! What starting, stopping and restarting a machine changes: pure decisions by its run strategy.
//!
//! Always and Halted are turned into each other; under the other strategies, and for every restart, a
//! request is left in the status, which the reconciler follows. States in which a verb makes no sense
//! are refused with KubeVirt's words.

use vm_api::v1::{Phase, RunStrategy, StateChangeRequest, VirtualMachine, VirtualMachineInstance};

use super::failure::{Failure, MACHINE};
use super::options::{Restart, Start, Stop};

/// Key in a start request's data: the guest is to wait; KubeVirt's name.
pub const PAUSED_KEY: &str = "paused";

/// What is to be changed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// The run strategy: whether it is to run.
    Runs(bool),
    /// The requests in the status: these instead of those that are there.
    Requests(Vec<StateChangeRequest>),
    /// Nothing but the time that is left to the guest.
    Hurry,
}

/// A machine with its instance, as they were read.
pub(super) struct Seen<'a> {
    pub(super) vm: &'a VirtualMachine,
    pub(super) instance: Option<&'a VirtualMachineInstance>,
}

impl Seen<'_> {
    fn name(&self) -> &str {
        self.vm.metadata.name.as_deref().unwrap_or_default()
    }

    fn conflict(&self, why: impl std::fmt::Display) -> Failure {
        Failure::conflict(MACHINE, self.name(), why)
    }

    fn strategy(&self) -> Result<RunStrategy, Failure> {
        self.vm
            .spec
            .run_strategy()
            .map_err(|error| Failure::bad_request(format!("the machine's spec: {error}")))
    }

    fn phase(&self) -> Option<Phase> {
        let instance = self.instance?;
        let status = instance.status.as_ref();
        Some(
            status
                .and_then(|status| status.phase)
                .unwrap_or(Phase::Pending),
        )
    }

    /// The instance that has not ended.
    fn alive(&self) -> Option<&VirtualMachineInstance> {
        let ended = self.phase().is_some_and(Phase::is_final);
        self.instance.filter(|_| !ended)
    }

    fn uid(&self) -> Option<&str> {
        self.instance?.metadata.uid.as_deref()
    }

    /// Whether requests wait to be followed.
    fn is_underway(&self) -> bool {
        let status = self.vm.status.as_ref();
        let requests = status.map_or(&[][..], |status| &status.state_change_requests);
        requests
            .iter()
            .any(|request| match request.action.as_str() {
                "Start" => self.alive().is_none(),
                _ => request
                    .uid
                    .as_deref()
                    .is_some_and(|uid| Some(uid) == self.uid()),
            })
    }

    fn ask(&self, requests: Vec<StateChangeRequest>) -> Result<Change, Failure> {
        let is_stop = matches!(requests.as_slice(), [only] if only.action == "Stop");
        if self.is_underway() && !is_stop {
            return Err(self.conflict("unable to complete request: stop/start already underway"));
        }
        Ok(Change::Requests(requests))
    }

    fn stop_request(&self) -> StateChangeRequest {
        StateChangeRequest {
            action: "Stop".to_owned(),
            uid: self.uid().map(str::to_owned),
            ..StateChangeRequest::default()
        }
    }
}

fn start_request(paused: bool) -> StateChangeRequest {
    let data = paused.then(|| (PAUSED_KEY.to_owned(), "true".to_owned()));
    StateChangeRequest {
        action: "Start".to_owned(),
        data: data.into_iter().collect(),
        ..StateChangeRequest::default()
    }
}

/// What a start changes.
pub(super) fn start(seen: &Seen<'_>, options: &Start) -> Result<Change, Failure> {
    let strategy = seen.strategy()?;
    if seen.alive().is_some() {
        return Err(seen.conflict("VM is already running"));
    }
    let ended = seen.phase();
    match strategy {
        RunStrategy::Halted if options.paused => seen.ask(vec![start_request(true)]),
        RunStrategy::Halted => Ok(Change::Runs(true)),
        RunStrategy::RerunOnFailure if ended == Some(Phase::Failed) => {
            Err(seen.conflict("RerunOnFailure does not support starting VM from failed state"))
        }
        RunStrategy::RerunOnFailure | RunStrategy::Manual => {
            let stop = ended.map(|_| seen.stop_request());
            let start = start_request(options.paused);
            seen.ask(stop.into_iter().chain([start]).collect())
        }
        RunStrategy::Always | RunStrategy::Once | RunStrategy::WaitAsReceiver => {
            Err(seen.conflict(format!("{strategy} does not support manual start requests")))
        }
    }
}

/// What a stop changes.
pub(super) fn stop(seen: &Seen<'_>, options: &Stop) -> Result<Change, Failure> {
    if options.grace_period.is_some_and(|seconds| seconds < 0) {
        return Err(Failure::bad_request(
            "gracePeriod has to be greater or equal to 0",
        ));
    }
    let strategy = seen.strategy()?;
    let alive = seen.alive();
    let not_running = || seen.conflict("VM is not running");
    match strategy {
        RunStrategy::Halted => {
            let grace = alive
                .ok_or_else(not_running)?
                .spec
                .termination_grace_period_seconds;
            let shorter = options
                .grace_period
                .is_some_and(|wanted| grace.is_none_or(|grace| wanted < grace));
            if shorter {
                return Ok(Change::Hurry);
            }
            Err(seen
                .conflict("Halted only supports manual stop requests with a shorter graceperiod"))
        }
        RunStrategy::RerunOnFailure | RunStrategy::Manual => {
            alive.ok_or_else(not_running)?;
            seen.ask(vec![seen.stop_request()])
        }
        RunStrategy::Always | RunStrategy::Once => Ok(Change::Runs(false)),
        RunStrategy::WaitAsReceiver => {
            Err(seen.conflict(format!("{strategy} does not support manual stop requests")))
        }
    }
}

/// What a restart changes.
pub(super) fn restart(seen: &Seen<'_>, options: &Restart) -> Result<Change, Failure> {
    match options.grace_period_seconds {
        Some(1..) => {
            return Err(Failure::bad_request(
                "For force restart, only gracePeriod=0 is supported for now",
            ));
        }
        Some(..0) => {
            return Err(Failure::bad_request(
                "gracePeriod has to be greater or equal to 0",
            ));
        }
        Some(0) | None => {}
    }
    match seen.strategy()? {
        // KubeVirt's own spelling, with which clients compare.
        strategy @ (RunStrategy::Halted | RunStrategy::Once | RunStrategy::WaitAsReceiver) => {
            Err(seen.conflict(format!(
                "RunStategy {strategy} does not support manual restart requests"
            )))
        }
        _ if seen.instance.is_none() => Err(seen.conflict("VM is not running: Halted")),
        _ => seen.ask(vec![seen.stop_request(), start_request(false)]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(strategy: &str, requests: serde_json::Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "name": "tl" },
            "spec": { "runStrategy": strategy, "template": {} },
            "status": { "stateChangeRequests": requests },
        }))
        .unwrap()
    }

    fn instance(phase: &str) -> VirtualMachineInstance {
        serde_json::from_value(json!({
            "metadata": { "name": "tl", "uid": "u" },
            "spec": { "terminationGracePeriodSeconds": 30 }, "status": { "phase": phase },
        }))
        .unwrap()
    }

    /// A change in short, or what is said instead.
    fn told(changed: Result<Change, Failure>) -> String {
        match changed {
            Ok(Change::Requests(requests)) => {
                let word = |request: &StateChangeRequest| {
                    let uid = request.uid.as_deref().unwrap_or_default();
                    let paused = request.data.contains_key("paused");
                    format!("{}{uid}{}", request.action, if paused { "!" } else { "" })
                };
                requests.iter().map(word).collect::<Vec<_>>().join(" ")
            }
            Ok(change) => format!("{change:?}"),
            Err(failure) => {
                let said = failure.message.split("\"tl\": ").last();
                format!("{} {}", failure.code.as_u16(), said.unwrap_or_default())
            }
        }
    }

    #[test]
    fn starts_follow_the_strategy() {
        let run = |strategy: &str, phase: &str, paused| {
            let vm = vm(strategy, json!([]));
            let instance = (!phase.is_empty()).then(|| instance(phase));
            let seen = Seen {
                vm: &vm,
                instance: instance.as_ref(),
            };
            let mut options = Start::default();
            options.paused = paused;
            told(start(&seen, &options))
        };
        assert_eq!(run("Halted", "", false), "Runs(true)");
        assert_eq!(run("Halted", "", true), "Start!");
        assert_eq!(run("Manual", "", false), "Start");
        assert_eq!(run("Manual", "", true), "Start!");
        assert_eq!(run("Manual", "Succeeded", false), "Stopu Start");
        assert_eq!(run("Manual", "Failed", true), "Stopu Start!");
        assert_eq!(run("RerunOnFailure", "Succeeded", false), "Stopu Start");
        for (strategy, phase, said) in [
            ("Manual", "Running", "409 VM is already running"),
            ("Always", "Running", "409 VM is already running"),
            (
                "Always",
                "",
                "409 Always does not support manual start requests",
            ),
            (
                "Once",
                "",
                "409 Once does not support manual start requests",
            ),
            (
                "RerunOnFailure",
                "Failed",
                "409 RerunOnFailure does not support starting VM from failed state",
            ),
        ] {
            assert_eq!(run(strategy, phase, false), said, "{strategy} {phase}");
        }
    }

    #[test]
    fn stops_follow_the_strategy() {
        let run = |strategy: &str, phase: &str, grace| {
            let vm = vm(strategy, json!([]));
            let instance = (!phase.is_empty()).then(|| instance(phase));
            let seen = Seen {
                vm: &vm,
                instance: instance.as_ref(),
            };
            let mut options = Stop::default();
            options.grace_period = grace;
            told(stop(&seen, &options))
        };
        assert_eq!(run("Always", "Running", None), "Runs(false)");
        assert_eq!(run("Always", "", None), "Runs(false)");
        assert_eq!(run("Once", "Running", None), "Runs(false)");
        assert_eq!(run("Manual", "Running", None), "Stopu");
        assert_eq!(run("RerunOnFailure", "Scheduling", None), "Stopu");
        assert_eq!(run("Halted", "Running", Some(0)), "Hurry");
        for (strategy, phase, grace, said) in [
            ("Halted", "", None, "409 VM is not running"),
            ("Manual", "", None, "409 VM is not running"),
            ("Manual", "Succeeded", None, "409 VM is not running"),
            (
                "Halted",
                "Running",
                Some(30),
                "409 Halted only supports manual stop requests with a shorter graceperiod",
            ),
            (
                "Always",
                "Running",
                Some(-1),
                "400 gracePeriod has to be greater or equal to 0",
            ),
        ] {
            assert_eq!(run(strategy, phase, grace), said, "{strategy} {phase}");
        }
    }

    #[test]
    fn restarts_are_requests() {
        let run = |strategy: &str, phase: &str, grace, requests| {
            let vm = vm(strategy, requests);
            let instance = (!phase.is_empty()).then(|| instance(phase));
            let seen = Seen {
                vm: &vm,
                instance: instance.as_ref(),
            };
            let mut options = Restart::default();
            options.grace_period_seconds = grace;
            told(restart(&seen, &options))
        };
        let none = || json!([]);
        assert_eq!(run("Always", "Running", Some(0), none()), "Stopu Start");
        assert_eq!(run("Manual", "Running", None, none()), "Stopu Start");
        assert_eq!(
            run("Halted", "", None, none()),
            "409 RunStategy Halted does not support manual restart requests"
        );
        assert_eq!(
            run("Manual", "", None, none()),
            "409 VM is not running: Halted"
        );
        assert!(run("Always", "Running", Some(5), none()).starts_with("400 "));
        let underway = json!([{ "action": "Stop", "uid": "u" }, { "action": "Start" }]);
        assert_eq!(
            run("Always", "Running", None, underway),
            "409 unable to complete request: stop/start already underway"
        );
        // One that was followed, and is still to be taken out of the status.
        let followed = json!([{ "action": "Stop", "uid": "old" }, { "action": "Start" }]);
        assert_eq!(run("Manual", "Running", None, followed), "Stopu Start");
    }
}
