use serde_json::{Value, json};

use super::*;

fn pool(more: Value) -> VirtualMachinePool {
    let template = json!({ "spec": { "runStrategy": "Always", "template": { "spec": {
        "domain": { "memory": { "guest": "64Mi" } } } } } });
    let mut spec = json!({ "selector": {}, "virtualMachineTemplate": template });
    let fields = spec.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let metadata = json!({ "name": "web", "namespace": "default", "uid": "u" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

fn condition(kind: &str, status: &str) -> Value {
    json!({ "type": kind, "status": status, "lastTransitionTime": at(0) })
}

/// A machine as `pool` makes it, with that status.
fn vm(pool: &VirtualMachinePool, number: usize, status: Value) -> VirtualMachine {
    let mut vm = child::of(pool, &child::name(pool, number));
    vm.metadata.uid = Some(format!("uid-{number}"));
    vm.metadata.generation = Some(2);
    vm.status = serde_json::from_value(status).unwrap();
    vm
}

fn ready() -> Value {
    json!({ "desiredGeneration": 2, "ready": true, "conditions": [condition("Ready", "True")] })
}

fn outdated(ready: &str) -> Value {
    json!({ "desiredGeneration": 2, "ready": ready == "True",
        "conditions": [condition("Ready", ready), condition("RestartRequired", "True")] })
}

/// The instance of a machine, made from a template before.
fn old_instance(vm: &VirtualMachine) -> VirtualMachineInstance {
    let labels = json!({ REVISION_LABEL: "web-before" });
    let metadata = json!({ "name": vm.name_any(), "labels": labels });
    serde_json::from_value(json!({ "metadata": metadata, "spec": {} })).unwrap()
}

fn plan<'a>(pool: &'a VirtualMachinePool, wanted: usize, members: &'a [Member<'a>]) -> Plan<'a> {
    decide(&Observed {
        pool,
        wanted,
        acts: true,
        members,
        coming: 0,
        now: at(100),
    })
}

fn members(vms: &[VirtualMachine]) -> Vec<Member<'_>> {
    vms.iter()
        .map(|vm| Member {
            vm,
            instance: None,
            is_busy: false,
        })
        .collect()
}

fn names(vms: &[&VirtualMachine]) -> Vec<String> {
    vms.iter().map(|vm| vm.name_any()).collect()
}

#[test]
fn the_number_of_machines_is_set_right() {
    let ordered = json!({ "scaleInStrategy": { "proactive": {
        "selectionPolicy": { "sortPolicy": "DescendingOrder" } } } });
    let pool = pool(ordered);
    let vms: Vec<_> = (0..3).map(|number| vm(&pool, number, ready())).collect();
    let members = members(&vms);
    let more = plan(&pool, 5, &members);
    assert_eq!((more.create, more.delete.len()), (2, 0));
    assert_eq!((more.counts.replicas, more.counts.ready), (3, 3));
    let fewer = plan(&pool, 1, &members);
    assert_eq!(names(&fewer.delete), ["web-2", "web-1"]);
    let coming = decide(&Observed {
        pool: &pool,
        wanted: 5,
        acts: true,
        members: &members,
        coming: 2,
        now: at(0),
    });
    assert_eq!(coming.create, 0);
}

#[test]
fn a_machine_that_leaves_counts_until_it_is_gone() {
    let pool = pool(json!({}));
    let mut vms: Vec<_> = (0..3).map(|number| vm(&pool, number, ready())).collect();
    vms[0].metadata.deletion_timestamp = Some(at(1));
    let members = members(&vms);
    assert_eq!(plan(&pool, 3, &members).create, 0, "its name is taken");
    assert!(plan(&pool, 2, &members).delete.is_empty());
    assert_eq!(plan(&pool, 1, &members).delete.len(), 1);
}

#[test]
fn only_a_proactive_pool_deletes() {
    for strategy in ["unmanaged", "opportunistic"] {
        let pool = pool(json!({ "scaleInStrategy": { strategy: {} } }));
        let vms: Vec<_> = (0..3).map(|number| vm(&pool, number, ready())).collect();
        assert!(
            plan(&pool, 1, &members(&vms)).delete.is_empty(),
            "{strategy}"
        );
    }
}

#[test]
fn a_new_template_reaches_machines_then_guests() {
    let before = pool(json!({}));
    let mut after = before.clone();
    let template = after.spec.virtual_machine_template.spec.as_mut().unwrap();
    let spec = template.template.spec.as_mut().unwrap();
    spec.hostname = Some("new".to_owned());
    let vms: Vec<_> = (0..3).map(|number| vm(&before, number, ready())).collect();
    let changed = plan(&after, 3, &members(&vms)).update.len();
    assert_eq!(changed, 3);
    assert!(plan(&before, 3, &members(&vms)).update.is_empty());

    let vms: Vec<_> = (0..3)
        .map(|number| vm(&after, number, outdated("True")))
        .collect();
    let instances: Vec<_> = vms.iter().map(old_instance).collect();
    let with = |pool: &VirtualMachinePool, vms: &[VirtualMachine]| {
        let members: Vec<_> = vms
            .iter()
            .zip(&instances)
            .map(|(vm, instance)| Member {
                vm,
                instance: Some(instance),
                is_busy: false,
            })
            .collect();
        let plan = plan(pool, 3, &members);
        assert!(plan.update.is_empty());
        plan.restart.len()
    };
    assert_eq!(with(&after, &vms), 3, "all at once by default");
    let mut few = after.clone();
    few.spec.max_unavailable = serde_json::from_value(json!("34%")).unwrap();
    assert_eq!(with(&few, &vms), 1);
    let mut late = vms.clone();
    late[0].status = serde_json::from_value(outdated("False")).unwrap();
    assert_eq!(
        with(&few, &late),
        1,
        "the one that is away anyway, and no other"
    );
    let mut unseen = vms.clone();
    for vm in &mut unseen {
        vm.metadata.generation = Some(3);
    }
    assert_eq!(with(&few, &unseen), 0, "its status is not up to date");
    let busy: Vec<_> = vms
        .iter()
        .zip(&instances)
        .enumerate()
        .map(|(number, (vm, instance))| Member {
            vm,
            instance: Some(instance),
            is_busy: number == 0,
        })
        .collect();
    let restarted = plan(&few, 3, &busy).restart.len();
    assert_eq!(restarted, 0, "one was restarted a moment ago");
    for strategy in ["unmanaged", "opportunistic"] {
        let mut lazy = after.clone();
        lazy.spec.update_strategy = serde_json::from_value(json!({ strategy: {} })).unwrap();
        assert_eq!(with(&lazy, &vms), 0, "{strategy}");
    }
}

#[test]
fn an_unmanaged_pool_changes_nothing() {
    let before = pool(json!({}));
    let mut after = pool(json!({ "updateStrategy": { "unmanaged": {} } }));
    after.spec.virtual_machine_template.metadata = Some(Default::default());
    let vms = [vm(&before, 0, ready())];
    assert!(plan(&after, 1, &members(&vms)).update.is_empty());
}

#[test]
fn a_machine_that_fails_to_start_is_replaced_where_the_pool_heals() {
    let crashed = json!({ "startFailure": { "consecutiveFailCount": 3 } });
    let stuck = json!({ "printableStatus": "ErrorUnschedulable", "conditions": [condition("Ready", "False")] });
    let healing = pool(json!({ "autohealing": { "minFailingToStartDuration": "2m" } }));
    let vms = [
        vm(&healing, 0, crashed.clone()),
        vm(&healing, 1, stuck.clone()),
        vm(&healing, 2, ready()),
    ];
    let early = plan(&healing, 3, &members(&vms)).delete.len();
    assert_eq!(early, 1);
    let only_stuck = [vm(&healing, 1, stuck.clone())];
    let members_of = members(&only_stuck);
    let waits = plan(&healing, 1, &members_of);
    assert_eq!(
        (waits.delete.len(), waits.again),
        (0, Some(Duration::from_secs(20)))
    );
    let late = decide(&Observed {
        pool: &healing,
        wanted: 1,
        acts: true,
        members: &members_of,
        coming: 0,
        now: at(120),
    });
    assert_eq!(names(&late.delete), ["web-1"]);
    let patient = pool(json!({ "autohealing": { "startUpFailureThreshold": 4 } }));
    let vms = [vm(&patient, 0, crashed.clone())];
    assert!(plan(&patient, 1, &members(&vms)).delete.is_empty());
    let plain = pool(json!({}));
    let vms = [vm(&plain, 0, crashed), vm(&plain, 1, stuck)];
    assert!(plan(&plain, 2, &members(&vms)).delete.is_empty());
}

#[test]
fn nothing_is_done_while_it_is_paused() {
    let pool = pool(json!({}));
    let plan = decide(&Observed {
        pool: &pool,
        wanted: 3,
        acts: false,
        members: &[],
        coming: 0,
        now: at(0),
    });
    assert_eq!(plan.create, 0);
}
