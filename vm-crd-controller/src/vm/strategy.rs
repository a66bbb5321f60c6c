//! When an instance runs: the run strategies as one decision table.
//!
//! A strategy looks at the instance there is and at the oldest request that has not been followed;
//! what it wishes is carried out elsewhere.

use vm_api::v1::{Phase, RunStrategy, StateChangeRequest, VirtualMachineInstance};

use crate::api::PAUSED_KEY;

/// The instance of a machine, as far as strategies depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// There is none.
    None,
    /// It starts or runs.
    Live,
    /// It never ran, and the template has changed since it was made.
    Outdated,
    /// Its guest powered off.
    Succeeded,
    /// It failed.
    Failed,
    /// It is being deleted.
    Leaving,
}

/// What a user asked for once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Start.
    Start,
    /// Stop this very instance.
    Stop,
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing.
    Nothing,
    /// Make an instance.
    Start,
    /// Delete the instance.
    Stop,
    /// Delete the instance and remember that another is to follow.
    Replace,
    /// Change the strategy to Always, which then starts.
    BecomeAlways,
}

/// What `strategy` wishes; `started`: the machine was started under this strategy before.
pub(super) fn wish(
    strategy: RunStrategy,
    life: Life,
    request: Option<Request>,
    started: bool,
) -> Wish {
    use Life::{Failed, Leaving, Live, None, Outdated, Succeeded};
    use RunStrategy::{Always, Halted, Manual, Once, RerunOnFailure, WaitAsReceiver};
    let start = request == Some(Request::Start);
    let stop = request == Some(Request::Stop);
    match (strategy, life) {
        (_, Leaving) | (WaitAsReceiver, _) => Wish::Nothing,

        (Halted, None) if start => Wish::BecomeAlways,
        (Halted, None) => Wish::Nothing,
        (Halted, _) => Wish::Stop,

        (_, Live | Outdated) if stop => Wish::Stop,
        (_, Live) => Wish::Nothing,
        (Always, Outdated) => Wish::Stop,
        (_, Outdated) => Wish::Replace,

        (Always, None) => Wish::Start,
        (Always, Succeeded | Failed) => Wish::Stop,

        (RerunOnFailure | Once, None) if start || !started => Wish::Start,
        (RerunOnFailure | Once, None) => Wish::Nothing,
        // What was killed because its user was in a hurry has not failed.
        (RerunOnFailure, Failed) if stop => Wish::Stop,
        (RerunOnFailure, Failed) => Wish::Replace,
        (RerunOnFailure, Succeeded) => Wish::Stop,

        (Manual, None) if start => Wish::Start,
        (Manual, None) => Wish::Nothing,

        (Manual | Once, Succeeded | Failed) if start || stop => Wish::Stop,
        (Manual | Once, Succeeded | Failed) => Wish::Nothing,
    }
}

/// Whether the machine ran by another strategy (`before`, as its status has it) until now and is to
/// be halted.
pub(super) fn is_new_halt(strategy: RunStrategy, before: Option<&str>) -> bool {
    strategy == RunStrategy::Halted && before.is_some_and(|before| before != strategy.as_str())
}

/// How the instance of a machine is.
pub(super) fn life(instance: Option<&VirtualMachineInstance>, outdated: bool) -> Life {
    let Some(instance) = instance else {
        return Life::None;
    };
    if instance.metadata.deletion_timestamp.is_some() {
        return Life::Leaving;
    }
    let phase = instance.status.as_ref().and_then(|status| status.phase);
    match phase.unwrap_or(Phase::Pending) {
        Phase::Succeeded => Life::Succeeded,
        Phase::Failed => Life::Failed,
        Phase::Pending | Phase::Scheduling | Phase::Scheduled if outdated => Life::Outdated,
        _ => Life::Live,
    }
}

/// The requests that are still to be followed: a start is followed once an instance lives, a stop
/// once its instance is gone.
pub(super) fn open_requests<'a>(
    requests: &'a [StateChangeRequest],
    life: Life,
    instance: Option<&VirtualMachineInstance>,
) -> &'a [StateChangeRequest] {
    let uid = instance.and_then(|instance| instance.metadata.uid.as_deref());
    let followed = |request: &StateChangeRequest| match request.action.as_str() {
        "Start" => matches!(life, Life::Live | Life::Outdated),
        "Stop" => uid.is_none() || request.uid.as_deref() != uid,
        // Nothing could ever follow it.
        _ => true,
    };
    let count = requests
        .iter()
        .take_while(|request| followed(request))
        .count();
    &requests[count..]
}

/// Whether the oldest of the open requests is a start whose machine is to wait paused.
pub(super) fn starts_paused(requests: &[StateChangeRequest]) -> bool {
    first(requests) == Some(Request::Start)
        && requests
            .first()
            .and_then(|request| request.data.get(PAUSED_KEY))
            .map(String::as_str)
            == Some("true")
}

/// The oldest of the open requests.
pub(super) fn first(requests: &[StateChangeRequest]) -> Option<Request> {
    requests
        .first()
        .map(|request| match request.action.as_str() {
            "Start" => Request::Start,
            _ => Request::Stop,
        })
}

#[cfg(test)]
mod tests {
    use Life::{Failed, Leaving, Live, None as Nobody, Outdated, Succeeded};
    use RunStrategy::{Always, Halted, Manual, Once, RerunOnFailure};

    use super::*;

    #[test]
    fn requests_from_before_a_halt_are_dropped() {
        assert!(is_new_halt(Halted, Some("RerunOnFailure")));
        assert!(!is_new_halt(Halted, Some("Halted")));
        assert!(!is_new_halt(Halted, None));
        assert!(!is_new_halt(Always, Some("Halted")));
    }

    #[test]
    fn strategies_wish_as_kubevirts_do() {
        let start = Some(Request::Start);
        let stop = Some(Request::Stop);
        let table = [
            (Always, Nobody, None, false, Wish::Start),
            (Always, Nobody, None, true, Wish::Start),
            (Always, Live, None, true, Wish::Nothing),
            (Always, Live, stop, true, Wish::Stop),
            (Always, Outdated, None, true, Wish::Stop),
            (Always, Succeeded, None, true, Wish::Stop),
            (Always, Failed, None, true, Wish::Stop),
            (Always, Leaving, None, true, Wish::Nothing),
            (RerunOnFailure, Nobody, None, false, Wish::Start),
            (RerunOnFailure, Nobody, None, true, Wish::Nothing),
            (RerunOnFailure, Nobody, start, true, Wish::Start),
            (RerunOnFailure, Succeeded, None, true, Wish::Stop),
            (RerunOnFailure, Failed, None, true, Wish::Replace),
            (RerunOnFailure, Failed, stop, true, Wish::Stop),
            (RerunOnFailure, Live, stop, true, Wish::Stop),
            (RerunOnFailure, Outdated, None, true, Wish::Replace),
            (Once, Nobody, None, false, Wish::Start),
            (Once, Nobody, None, true, Wish::Nothing),
            (Once, Succeeded, None, true, Wish::Nothing),
            (Once, Failed, None, true, Wish::Nothing),
            (Once, Outdated, None, true, Wish::Replace),
            (Manual, Nobody, None, false, Wish::Nothing),
            (Manual, Nobody, start, false, Wish::Start),
            (Manual, Live, None, true, Wish::Nothing),
            (Manual, Live, stop, true, Wish::Stop),
            (Manual, Succeeded, None, true, Wish::Nothing),
            (Manual, Succeeded, start, true, Wish::Stop),
            (Manual, Failed, stop, true, Wish::Stop),
            (Halted, Nobody, None, true, Wish::Nothing),
            (Halted, Nobody, start, true, Wish::BecomeAlways),
            (Halted, Live, None, true, Wish::Stop),
            (Halted, Succeeded, None, true, Wish::Stop),
            (Halted, Leaving, start, true, Wish::Nothing),
        ];
        for (strategy, life, request, started, expected) in table {
            assert_eq!(
                wish(strategy, life, request, started),
                expected,
                "{strategy} {life:?} {request:?} started: {started}"
            );
        }
    }

    #[test]
    fn requests_are_followed_in_their_order() {
        let request = |action: &str, uid: Option<&str>| StateChangeRequest {
            action: action.to_owned(),
            uid: uid.map(str::to_owned),
            ..StateChangeRequest::default()
        };
        let mut instance = VirtualMachineInstance::new("tl", Default::default());
        instance.metadata.uid = Some("new".to_owned());
        let restart = [request("Stop", Some("old")), request("Start", None)];
        fn open(
            requests: &[StateChangeRequest],
            life: Life,
            instance: Option<&VirtualMachineInstance>,
        ) -> usize {
            open_requests(requests, life, instance).len()
        }
        // The old instance is gone: start.
        assert_eq!(open(&restart, Nobody, None), 1);
        // The new one is there: both were followed.
        assert_eq!(open(&restart, Live, Some(&instance)), 0);
        // A stop of the very instance stays until that is gone.
        let stop = [request("Stop", Some("new")), request("Start", None)];
        assert_eq!(open(&stop, Live, Some(&instance)), 2);
        assert_eq!(open(&stop, Leaving, Some(&instance)), 2);
        // A start waits for the old instance to go.
        assert_eq!(open(&[request("Start", None)], Leaving, Some(&instance)), 1);
        assert_eq!(open(&[request("Start", None)], Failed, Some(&instance)), 1);
        assert_eq!(open(&[request("Dance", None)], Nobody, None), 0);
    }
}
