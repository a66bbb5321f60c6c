//! What the state of a namespace says about the manifest that was applied to it.

use serde_json::Value;

use super::verdict::Field;
use super::verdict::{Kubevirt, Stage, Verdict};

/// What is seen of a namespace's machines.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// One of them runs.
    Runs(String),
    /// They are halted.
    Stopped,
    /// A condition says what is wrong.
    Tells(Verdict),
    /// Nothing yet.
    Nothing,
}

/// What its objects say: machines, instances and what keeps so many of either.
pub(super) fn seen(objects: &[Value]) -> Seen {
    let instances = || {
        objects
            .iter()
            .filter(|it| it["kind"] == "VirtualMachineInstance")
    };
    for instance in instances() {
        let paused = condition(instance, "Paused").is_some_and(|it| it["status"] == "True");
        match instance["status"]["phase"].as_str() {
            Some("Running") if paused => return Seen::Runs("Paused".to_owned()),
            Some("Running") => return Seen::Runs("Running".to_owned()),
            Some("Succeeded") => return Seen::Runs("ran, and powered off".to_owned()),
            _ => {}
        }
    }
    if let Some(verdict) = objects.iter().find_map(told) {
        return Seen::Tells(verdict);
    }
    let mut machines = objects.iter().filter(|it| it["kind"] == "VirtualMachine");
    let is_halted = |machine: &Value| machine["status"]["printableStatus"] == "Stopped";
    if instances().next().is_none() && machines.next().is_some_and(is_halted) {
        return Seen::Stopped;
    }
    Seen::Nothing
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// What the conditions of an object say is wrong.
fn told(object: &Value) -> Option<Verdict> {
    let wrong = [
        ("Synchronized", "False"),
        ("Failure", "True"),
        ("ReplicaFailure", "True"),
        ("PodScheduled", "False"),
    ];
    wrong.iter().find_map(|(kind, status)| {
        let condition = condition(object, kind)?;
        let is_meant = condition["status"] == *status;
        is_meant.then(|| of_condition(condition)).flatten()
    })
}

fn of_condition(condition: &Value) -> Option<Verdict> {
    let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    let (reason, message) = (text("reason"), text("message"));
    let fields = || {
        let field = Field {
            path: String::new(),
            message: message.clone(),
        };
        vec![field]
    };
    match reason.as_str() {
        "UnsupportedField" => Some(Verdict::NotSupported { fields: fields() }),
        "InvalidSpec" | "FailedCreate" => Some(Verdict::Refused {
            stage: Stage::Start,
            fields: fields(),
            kubevirt: Kubevirt::Unknown,
        }),
        "FailedPvcNotFound" | "FailedFindInstancetype" | "FailedFindPreference" => {
            Some(Verdict::Needs {
                what: vec![message],
            })
        }
        "Unschedulable" => Some(unschedulable(message)),
        _ => None,
    }
}

/// What the scheduler's word means: too little room, or something that no node has.
fn unschedulable(message: String) -> Verdict {
    let lacks_room = ["Insufficient memory", "Insufficient cpu"]
        .iter()
        .any(|part| message.contains(part));
    if message.contains("unbound immediate PersistentVolumeClaims") {
        let what = "a volume for its claim: nothing makes volumes on the cluster".to_owned();
        return Verdict::Needs { what: vec![what] };
    }
    let lacks_else = [
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
        "didn't match",
        "hugepages",
    ]
    .iter()
    .any(|part| message.contains(part));
    if lacks_room && !lacks_else {
        Verdict::Unschedulable { why: message }
    } else {
        Verdict::Needs {
            what: vec![message],
        }
    }
}

/// The verdict about machines that did not run in time. What was known to be missing explains it.
pub(super) fn at_last(objects: &[Value], warnings: &[String], expected: &Verdict) -> Verdict {
    let last = warnings.last().map_or("no warning", String::as_str);
    if let Verdict::Needs { what } = expected {
        let mut what = what.clone();
        what.push(format!("the last warning is: {last}"));
        return Verdict::Needs { what };
    }
    let is_failed = |object: &&Value| object["status"]["phase"] == "Failed";
    if let (Verdict::NotSupported { .. }, true) =
        (expected, objects.iter().any(|it| is_failed(&it)))
    {
        return expected.clone();
    }
    let states: Vec<_> = objects
        .iter()
        .map(|object| {
            let status = &object["status"];
            let state = status["printableStatus"]
                .as_str()
                .or(status["phase"].as_str());
            let kind = object["kind"].as_str().unwrap_or_default();
            format!("{kind} is {}", state.unwrap_or("without a state"))
        })
        .collect();
    let why = format!("not in time: {}; {last}", states.join(", "));
    Verdict::Failed { why }
}

/// The verdict about an instance type or a preference with which no plain machine can be made.
pub(super) fn not_expanded(message: &str) -> Verdict {
    if message.contains("requires") || message.contains("needs") || message.contains("divided") {
        let seen = format!("applied; a plain machine is not enough for it: {message}");
        return Verdict::Runs { seen };
    }
    let why = format!("no plain machine expands with it: {message}");
    Verdict::Failed { why }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::verdict::Class;
    use super::*;

    fn instance(phase: &str, conditions: Value) -> Value {
        let status = json!({ "phase": phase, "conditions": conditions });
        json!({ "kind": "VirtualMachineInstance", "status": status })
    }

    fn machine(status: &str) -> Value {
        json!({ "kind": "VirtualMachine", "status": { "printableStatus": status } })
    }

    #[test]
    fn machines_are_seen_to_run_or_to_be_halted() {
        let paused = json!([{ "type": "Paused", "status": "True" }]);
        for (objects, expected) in [
            (vec![], Seen::Nothing),
            (vec![machine("Stopped")], Seen::Stopped),
            (
                vec![machine("Starting"), instance("Scheduling", json!([]))],
                Seen::Nothing,
            ),
            (
                vec![machine("Running"), instance("Running", json!([]))],
                Seen::Runs("Running".to_owned()),
            ),
            (
                vec![instance("Running", paused)],
                Seen::Runs("Paused".to_owned()),
            ),
        ] {
            assert_eq!(seen(&objects), expected);
        }
    }

    #[test]
    fn conditions_are_classes() {
        for (kind, status, reason, message, class) in [
            (
                "Synchronized",
                "False",
                "UnsupportedField",
                "spec.x",
                Class::NotSupported,
            ),
            (
                "Synchronized",
                "False",
                "InvalidSpec",
                "spec.x",
                Class::Refused,
            ),
            (
                "Failure",
                "True",
                "FailedFindInstancetype",
                "none",
                Class::Needs,
            ),
            (
                "Synchronized",
                "False",
                "FailedPvcNotFound",
                "PVC a",
                Class::Needs,
            ),
            (
                "PodScheduled",
                "False",
                "Unschedulable",
                "0/2 nodes are available: 2 Insufficient memory.",
                Class::Unschedulable,
            ),
            (
                "PodScheduled",
                "False",
                "Unschedulable",
                "0/2 nodes are available: 2 Insufficient example.com/gpu.",
                Class::Needs,
            ),
        ] {
            let condition = json!({
                "type": kind, "status": status, "reason": reason, "message": message,
            });
            let Seen::Tells(verdict) = seen(&[instance("Pending", json!([condition]))]) else {
                panic!("{reason} says nothing");
            };
            assert_eq!(verdict.class(), class, "{reason}: {message}");
        }
    }

    #[test]
    fn what_does_not_come_in_time_is_a_failure_unless_it_was_known_to_lack_something() {
        let objects = [machine("Starting")];
        let warnings = ["MountVolume.SetUp failed".to_owned()];
        let class = |expected| at_last(&objects, &warnings, &expected).class();
        assert_eq!(class(Verdict::Works), Class::Failed);
        let what = vec!["the Secret seed".to_owned()];
        assert_eq!(class(Verdict::Needs { what }), Class::Needs);
        assert_eq!(class(Verdict::not_supported("a", "b")), Class::Failed);
        let failed = [instance("Failed", json!([]))];
        let verdict = at_last(&failed, &warnings, &Verdict::not_supported("a", "b"));
        assert_eq!(verdict.class(), Class::NotSupported);
    }
}
