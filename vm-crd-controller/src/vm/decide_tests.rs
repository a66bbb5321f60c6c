//! Plans for machines, step by step as a cluster would show them.

use serde_json::{Value, json};
use vm_api::v1::PrintableStatus;

use super::super::instance;
use super::*;

const CREATED: &str = "2026-01-01T00:00:00Z";

fn at(second: u32) -> Time {
    let created: Time = serde_json::from_value(json!(CREATED)).unwrap();
    clock::after(&created, second)
}

fn vm(more: Value) -> VirtualMachine {
    let mut object = json!({
        "metadata": { "name": "tl", "namespace": "default", "uid": "vm-uid", "generation": 1,
            "creationTimestamp": CREATED },
        "spec": { "runStrategy": "Always", "template": { "spec": { "domain": {
            "memory": { "guest": "64Mi" } } } } },
    });
    for (key, value) in more.as_object().unwrap() {
        match key.as_str() {
            "status" => object[key] = value.clone(),
            _ => object["metadata"][key] = value.clone(),
        }
    }
    serde_json::from_value(object).unwrap()
}

fn made(vm: &VirtualMachine, status: Value) -> VirtualMachineInstance {
    let mut instance = instance::of(vm, false);
    instance.metadata.uid = Some("vmi-uid".to_owned());
    instance.metadata.creation_timestamp = Some(at(0));
    instance.status = serde_json::from_value(status).unwrap();
    instance
}

fn running() -> Value {
    json!({ "phase": "Running",
        "phaseTransitionTimestamps": [{ "phase": "Running", "phaseTransitionTimestamp": CREATED }],
        "conditions": [{ "type": "Ready", "status": "True" }] })
}

/// Of a machine without instance type and preference.
static NOTHING: Refs = Refs {
    instancetype: None,
    preference: None,
};

fn observed<'a>(
    vm: &'a VirtualMachine,
    instance: Option<&'a VirtualMachineInstance>,
) -> Observed<'a> {
    Observed {
        vm,
        expanded: Some(vm),
        refs: &NOTHING,
        instance,
        trouble: None,
        crashes: 0,
        now: at(1),
        progress_delay: Duration::from_secs(5),
    }
}

fn plan(
    vm: &VirtualMachine,
    instance: Option<&VirtualMachineInstance>,
    strategy: RunStrategy,
) -> Plan {
    decide(&observed(vm, instance), strategy)
}

fn word(plan: &Plan) -> Option<PrintableStatus> {
    plan.status
        .as_ref()
        .and_then(|status| status.printable_status)
}

#[test]
fn a_start_that_goes_well_costs_one_status_and_one_finalizer() {
    let fresh = vm(json!({}));
    let start = plan(&fresh, None, RunStrategy::Always);
    assert_eq!(
        start,
        Plan {
            create: true,
            ..Plan::default()
        }
    );

    let pending = made(&fresh, json!(null));
    let quiet = plan(&fresh, Some(&pending), RunStrategy::Always);
    assert_eq!((quiet.status, quiet.hold), (None, false));
    assert_eq!(quiet.again, Some(Duration::from_secs(4)));
    let slow = decide(
        &Observed {
            now: at(5),
            ..observed(&fresh, Some(&pending))
        },
        RunStrategy::Always,
    );
    assert_eq!(word(&slow), Some(PrintableStatus::Starting));
    let said = slow.status.unwrap().conditions;
    assert_eq!(said[0].reason.as_deref(), Some("VMIConditionMissing"));

    let up = made(&fresh, running());
    let told = plan(&fresh, Some(&up), RunStrategy::Always);
    assert_eq!(word(&told), Some(PrintableStatus::Running));
    assert!(
        !told.hold,
        "the version that was seen is an old one by then"
    );
    let status = told.status.unwrap();
    assert_eq!((status.created, status.ready), (Some(true), Some(true)));
    assert_eq!(status.run_strategy.as_deref(), Some("Always"));

    let settled = vm(json!({ "status": status }));
    let hold = plan(&settled, Some(&up), RunStrategy::Always);
    assert_eq!(
        hold,
        Plan {
            hold: true,
            ..Plan::default()
        }
    );
    let held = vm(json!({ "status": status, "finalizers": [FINALIZER] }));
    assert_eq!(plan(&held, Some(&up), RunStrategy::Always), Plan::default());
}

#[test]
fn a_halted_machine_is_stopped_at_once_and_needs_no_finalizer() {
    let plan = plan(&vm(json!({})), None, RunStrategy::Halted);
    assert_eq!(word(&plan), Some(PrintableStatus::Stopped));
    assert!(!plan.hold && !plan.create);
    let status = plan.status.unwrap();
    assert_eq!(status.created, Some(false));
    assert_eq!(status.run_strategy, None, "it was never started");
}

#[test]
fn halting_deletes_and_lets_the_deletion_be_the_news() {
    let machine = vm(json!({ "status": { "runStrategy": "Always", "created": true } }));
    let up = made(&machine, running());
    let plan = plan(&machine, Some(&up), RunStrategy::Halted);
    assert!(plan.delete);
    assert_eq!(plan.status, None);
    assert_eq!(plan.notes[0].reason, "SuccessfulDelete");
}

/// Everything that a machine tells of itself, what it is made from and why its start failed.
#[test]
fn a_machine_tells_all_that_is_known() {
    let reference = |kind: &str, name: &str| {
        let reference = json!({
            "name": name, "kind": kind, "inferFromVolume": "root",
            "inferFromVolumeFailurePolicy": "Ignore",
            "controllerRevisionRef": { "name": format!("tl-{name}") },
        });
        Some(serde_json::from_value(reference).unwrap())
    };
    let refs = Refs {
        instancetype: reference("virtualmachineclusterinstancetype", "small"),
        preference: reference("virtualmachineclusterpreference", "linux"),
    };
    let mut machine = vm(json!({
        "status": { "instancetypeRef": &refs.instancetype, "preferenceRef": &refs.preference },
    }));
    let spec = machine.spec.template.spec.as_mut().unwrap();
    let claim = json!([{ "name": "root", "persistentVolumeClaim": { "claimName": "a" } }]);
    spec.volumes = serde_json::from_value(claim).unwrap();
    let with_refs = |instance| Observed {
        refs: &refs,
        ..observed(&machine, Some(instance))
    };
    let up = made(&machine, running());
    let told = decide(&with_refs(&up), RunStrategy::Always);
    let status = serde_json::to_value(told.status.unwrap()).unwrap();
    insta::assert_yaml_snapshot!(status);

    let failed = made(&machine, json!({ "phase": "Failed" }));
    let told = decide(&with_refs(&failed), RunStrategy::Always);
    let status = serde_json::to_value(told.status.unwrap()).unwrap();
    let failure = &status["startFailure"];
    assert_eq!(failure["consecutiveFailCount"], 1, "{failure}");
    assert_eq!(failure["lastFailedVMIUID"], "vmi-uid", "{failure}");
    assert!(failure["retryAfterTimestamp"].is_string(), "{failure}");
}

#[test]
fn what_must_be_remembered_is_written_before_the_instance_goes() {
    let machine = vm(json!({ "status": { "runStrategy": "RerunOnFailure" } }));
    let mut crashed = running();
    crashed["phase"] = json!("Failed");
    let crashed = made(&machine, crashed);
    let rerun = plan(&machine, Some(&crashed), RunStrategy::RerunOnFailure);
    assert!(rerun.delete);
    let requests = rerun.status.unwrap().state_change_requests;
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].action, "Start");

    // A guest that was quick, or its end would be forgotten with its instance, and it would run again.
    let unseen = vm(json!({}));
    let mut done = running();
    done["phase"] = json!("Succeeded");
    let done = made(&unseen, done);
    let ended = plan(&unseen, Some(&done), RunStrategy::RerunOnFailure);
    let told = ended.status.and_then(|status| status.run_strategy);
    assert_eq!(told.as_deref(), Some("RerunOnFailure"));

    let never = made(
        &machine,
        json!({ "phase": "Failed", "conditions": [
        { "type": "Synchronized", "status": "False", "reason": "StartError", "message": "no disk" },
    ] }),
    );
    let back_off = plan(&machine, Some(&never), RunStrategy::Always);
    assert!(back_off.delete);
    assert_eq!(word(&back_off), Some(PrintableStatus::CrashLoopBackOff));
    let status = back_off.status.unwrap();
    assert!(status.start_failure.is_some());
    // The instance is gone: its machine waits, and still says why.
    let waiting = vm(json!({ "status": status }));
    let waits = plan(&waiting, None, RunStrategy::Always);
    assert!(!waits.create && waits.again.is_some());
    let failure = waits
        .status
        .unwrap()
        .conditions
        .into_iter()
        .find(|c| c.r#type == "Failure");
    assert_eq!(failure.unwrap().message.as_deref(), Some("no disk"));
    let mended = vm(json!({ "status": status, "generation": 2 }));
    assert!(
        plan(&mended, None, RunStrategy::Always).create,
        "it is tried at once"
    );
    let later = Observed {
        now: at(60),
        ..observed(&waiting, None)
    };
    assert!(decide(&later, RunStrategy::Always).create);
}

#[test]
fn an_outdated_instance_that_never_ran_is_replaced() {
    let first = vm(json!({}));
    let stuck = made(
        &first,
        json!({ "phase": "Pending", "conditions": [
        { "type": "Synchronized", "status": "False", "reason": "UnsupportedField" } ] }),
    );
    let told = plan(&first, Some(&stuck), RunStrategy::Always);
    assert_eq!(word(&told), Some(PrintableStatus::Starting));
    let mut mended = vm(json!({ "generation": 2, "status": told.status }));
    mended
        .spec
        .template
        .spec
        .as_mut()
        .unwrap()
        .domain
        .memory
        .as_mut()
        .unwrap()
        .guest = Some("128Mi".into());
    assert!(plan(&mended, Some(&stuck), RunStrategy::Always).delete);
    // One that runs is left alone, and says that it wants a restart.
    let up = made(&first, running());
    let runs = plan(&mended, Some(&up), RunStrategy::Always);
    assert!(!runs.delete);
    let status = runs.status.unwrap();
    assert!(
        status
            .conditions
            .iter()
            .any(|c| c.r#type == "RestartRequired")
    );
    assert_eq!(
        (status.observed_generation, status.desired_generation),
        (Some(1), Some(2))
    );
}

#[test]
fn a_larger_size_is_handed_to_the_instance_that_runs() {
    let sized = |generation: i64, memory: &str, status: Value| {
        let mut machine = vm(json!({ "generation": generation, "status": status }));
        let domain = &mut machine.spec.template.spec.as_mut().unwrap().domain;
        domain.memory.as_mut().unwrap().guest = Some(memory.into());
        machine
    };
    let first = sized(1, "2Gi", json!(null));
    let up = made(&first, running());
    let status = plan(&first, Some(&up), RunStrategy::Always).status;
    let status = serde_json::to_value(status.unwrap()).unwrap();
    let more = plan(
        &sized(2, "4Gi", status.clone()),
        Some(&up),
        RunStrategy::Always,
    );
    let guest = more.update.unwrap()["spec"]["domain"]["memory"]["guest"].clone();
    assert_eq!(guest, "4Gi");
    assert_eq!(more.status, None, "the instance's change will be the news");
    // One that is being stopped has no use for it.
    let mut leaving = up.clone();
    leaving.metadata.deletion_timestamp = Some(at(0));
    let late = Observed {
        now: at(9),
        ..observed(&first, Some(&leaving))
    };
    assert_eq!(decide(&late, RunStrategy::Always).update, None);
}

#[test]
fn a_start_that_is_to_wait_paused_makes_such_an_instance() {
    let asked = |data: Value| {
        let request = json!({ "action": "Start", "data": data });
        vm(json!({ "status": { "stateChangeRequests": [request] } }))
    };
    let paused = plan(
        &asked(json!({ "paused": "true" })),
        None,
        RunStrategy::Manual,
    );
    assert!(paused.create && paused.paused);
    let ordinary = plan(&asked(json!({})), None, RunStrategy::Manual);
    assert!(ordinary.create && !ordinary.paused);
    // That it waits does not make it another machine than the template's.
    let machine = vm(json!({ "generation": 2 }));
    let mut waiting = instance::of(&vm(json!({})), true);
    waiting.status = serde_json::from_value(running()).unwrap();
    assert_eq!(
        plan(&machine, Some(&waiting), RunStrategy::Manual).update,
        None
    );
    let conditions = plan(&machine, Some(&waiting), RunStrategy::Manual).status;
    let conditions = conditions.unwrap().conditions;
    assert!(conditions.iter().all(|c| c.r#type != "RestartRequired"));
}

#[test]
fn a_stop_is_told_unless_the_guest_is_quick() {
    let machine = vm(json!({ "status": { "runStrategy": "Always", "created": true } }));
    let mut leaving = made(&machine, running());
    leaving.metadata.deletion_timestamp = Some(at(1));
    let quick = plan(&machine, Some(&leaving), RunStrategy::Always);
    assert_eq!((quick.status, quick.again), (None, Some(QUICK_END)));
    let slow = Observed {
        now: at(3),
        ..observed(&machine, Some(&leaving))
    };
    let slow = decide(&slow, RunStrategy::Always);
    assert_eq!(word(&slow), Some(PrintableStatus::Stopping));

    // The end of a halted one is told together with that its instance is gone, unless this takes long.
    let mut over = running();
    over["phase"] = json!("Succeeded");
    let ended = json!({ "phase": "Succeeded", "phaseTransitionTimestamp": at(3) });
    over["phaseTransitionTimestamps"]
        .as_array_mut()
        .unwrap()
        .push(ended);
    leaving.status = serde_json::from_value(over).unwrap();
    let at_once = |strategy, second| {
        let seen = Observed {
            now: at(second),
            ..observed(&machine, Some(&leaving))
        };
        let plan = decide(&seen, strategy);
        (word(&plan), plan.again)
    };
    let left = Some(QUICK_END);
    assert_eq!(at_once(RunStrategy::Halted, 3), (None, left));
    let stopped = (Some(PrintableStatus::Stopped), None);
    assert_eq!(at_once(RunStrategy::Halted, 5), stopped);
    // Another instance may follow, and it would not be told at all.
    assert_eq!(at_once(RunStrategy::Always, 3), stopped);
    let gone = plan(&machine, None, RunStrategy::Halted).status.unwrap();
    assert_eq!(gone.printable_status, Some(PrintableStatus::Stopped));
    assert_eq!(gone.created, Some(false));
}

#[test]
fn each_volume_says_that_it_cannot_be_snapshotted() {
    let mut machine = vm(json!({}));
    let spec = machine.spec.template.spec.as_mut().unwrap();
    spec.volumes = serde_json::from_value(json!([
        { "name": "root", "persistentVolumeClaim": { "claimName": "a" } },
        { "name": "seed", "cloudInitNoCloud": { "userData": "" } },
    ]))
    .unwrap();
    let status = plan(&machine, None, RunStrategy::Halted).status.unwrap();
    let said: Vec<_> = status
        .volume_snapshot_statuses
        .into_iter()
        .map(|volume| (volume.enabled, volume.reason.unwrap()))
        .collect();
    let expected = [
        "Snapshots of machines are not supported by this version [root]",
        "Snapshot is not supported for this volumeSource type [seed]",
    ];
    assert_eq!(said, expected.map(|reason| (false, reason.to_owned())));
}

#[test]
fn a_machine_leaves_after_its_instance() {
    let leaving = vm(
        json!({ "deletionTimestamp": CREATED, "finalizers": [FINALIZER],
        "status": { "created": true } }),
    );
    let up = made(&leaving, running());
    let first = plan(&leaving, Some(&up), RunStrategy::Always);
    assert!(first.delete && !first.release);
    assert_eq!(word(&first), Some(PrintableStatus::Terminating));
    let last = plan(&leaving, None, RunStrategy::Always);
    assert_eq!(
        last,
        Plan {
            release: true,
            ..Plan::default()
        }
    );
    // Orphans stay.
    let orphaning =
        vm(json!({ "deletionTimestamp": CREATED, "finalizers": [FINALIZER, "orphan"] }));
    let plan = plan(&orphaning, Some(&up), RunStrategy::Always);
    assert_eq!(
        plan,
        Plan {
            release: true,
            ..Plan::default()
        }
    );
}

#[test]
fn a_halt_drops_the_start_that_a_crash_left() {
    let halted = vm(
        json!({ "status": { "created": false, "runStrategy": "RerunOnFailure",
        "printableStatus": "CrashLoopBackOff", "stateChangeRequests": [{ "action": "Start" }] } }),
    );
    let plan = plan(&halted, None, RunStrategy::Halted);
    assert!(!plan.become_always && !plan.create);
    let status = plan.status.unwrap();
    assert!(status.state_change_requests.is_empty());
    assert_eq!(status.run_strategy.as_deref(), Some("Halted"));
}

#[test]
fn a_refused_start_is_still_to_happen() {
    let once = vm(
        json!({ "status": { "created": false, "runStrategy": "Halted",
        "printableStatus": "Stopped" } }),
    );
    let refused = Trouble::Refused("exceeded quota".to_owned());
    let observed = Observed {
        trouble: Some(&refused),
        ..observed(&once, None)
    };
    let status = decide(&observed, RunStrategy::Once).status.unwrap();
    assert_eq!(status.run_strategy.as_deref(), Some("Halted"));
    let later = vm(json!({ "status": serde_json::to_value(status).unwrap() }));
    assert!(plan(&later, None, RunStrategy::Once).create);
}

#[test]
fn statuses_come_in_kubevirts_order() {
    let machine = vm(json!({}));
    let false_ =
        |kind: &str, reason: &str| json!({ "type": kind, "status": "False", "reason": reason });
    let scheduling = |conditions: Value| json!({ "phase": "Scheduling", "conditions": conditions });
    let table = [
        (running(), PrintableStatus::Running),
        (
            json!({ "phase": "Running", "conditions": [{ "type": "Paused", "status": "True" }] }),
            PrintableStatus::Paused,
        ),
        (
            scheduling(json!([false_("PodScheduled", "Unschedulable")])),
            PrintableStatus::ErrorUnschedulable,
        ),
        (
            scheduling(json!([
                false_("PodScheduled", "Unschedulable"),
                false_("Synchronized", "FailedPvcNotFound")
            ])),
            PrintableStatus::ErrorPvcNotFound,
        ),
        (
            scheduling(json!([false_("Synchronized", "ErrImagePull")])),
            PrintableStatus::ErrImagePull,
        ),
        (
            scheduling(json!([false_("Synchronized", "InvalidImageName")])),
            PrintableStatus::ErrImagePull,
        ),
        (
            scheduling(json!([false_("Synchronized", "ImagePullBackOff")])),
            PrintableStatus::ImagePullBackOff,
        ),
        (
            scheduling(json!([false_("Synchronized", "FailedMount")])),
            PrintableStatus::Starting,
        ),
        (json!({ "phase": "Succeeded" }), PrintableStatus::Stopped),
    ];
    for (status, expected) in table {
        let instance = made(&machine, status.clone());
        let late = Observed {
            now: at(9),
            ..observed(&machine, Some(&instance))
        };
        assert_eq!(
            word(&decide(&late, RunStrategy::Manual)),
            Some(expected),
            "{status}"
        );
    }
}

#[test]
fn what_an_instance_is_made_from_is_remembered_first() {
    let reference = |revision: &str| {
        let reference = json!({ "name": "small", "controllerRevisionRef": { "name": revision } });
        Some(serde_json::from_value(reference).unwrap())
    };
    let refs = Refs {
        instancetype: reference("r"),
        preference: None,
    };
    let fresh = vm(json!({}));
    let observed_with = |vm| Observed {
        refs: &refs,
        ..observed(vm, None)
    };
    let first = decide(&observed_with(&fresh), RunStrategy::Always);
    assert!(!first.create, "not before it is written");
    let status = first.status.unwrap();
    assert_eq!(status.instancetype_ref, refs.instancetype);
    assert!(status.conditions.is_empty(), "and nothing else is said");
    let known = vm(json!({ "status": serde_json::to_value(&status).unwrap() }));
    assert!(decide(&observed_with(&known), RunStrategy::Always).create);
    let halted = decide(&observed_with(&fresh), RunStrategy::Halted);
    assert_eq!(halted.status.unwrap().instancetype_ref, refs.instancetype);
    let without = plan(&known, None, RunStrategy::Halted).status.unwrap();
    assert_eq!(without.instancetype_ref, None, "the matcher was taken away");
}
