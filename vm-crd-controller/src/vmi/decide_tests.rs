//! Plans for instances, step by step as a cluster would show them.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::ask::{AccessCredentials, Agent, Interface, Os, State};
use crate::conditions::find;

const CREATED: &str = "2026-01-01T00:00:00Z";

fn at(second: u32) -> Time {
    let created: Time = serde_json::from_value(json!(CREATED)).unwrap();
    clock::after(&created, second)
}

fn instance(more: Value) -> VirtualMachineInstance {
    let mut object = json!({
        "metadata": {
            "name": "tl", "namespace": "default", "uid": "u", "creationTimestamp": CREATED,
            "finalizers": [FINALIZER],
        },
        "spec": { "domain": { "memory": { "guest": "64Mi" } } },
    });
    for (key, value) in more.as_object().unwrap() {
        if key == "deletionTimestamp" {
            object["metadata"][key] = value.clone();
        } else {
            object[key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "p", "uid": "pod-uid", "creationTimestamp": CREATED },
        "spec": { "containers": [{ "name": "compute" }], "nodeName": "node1" },
        "status": status,
    }))
    .unwrap()
}

fn running() -> Pod {
    pod(json!({
        "phase": "Running", "podIP": "10.0.0.7",
        "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{ "name": "compute", "ready": true, "restartCount": 0, "image": "",
            "imageID": "", "state": { "running": { "startedAt": CREATED } } }],
    }))
}

fn starting() -> Pod {
    pod(json!({ "phase": "Pending" }))
}

fn observed<'a>(instance: &'a VirtualMachineInstance, pod: Option<&'a Pod>) -> Observed<'a> {
    Observed {
        instance,
        pod,
        obstacle: None,
        complaint: None,
        emulated: false,
        told: None,
        resize_refused: None,
        now: at(1),
        progress_delay: Duration::from_secs(5),
    }
}

fn conditions(plan: &Plan) -> Vec<String> {
    let status = plan.status.as_ref().expect("a status is written");
    let mut words: Vec<_> = status
        .conditions
        .iter()
        .map(|c| {
            format!(
                "{}={}({})",
                c.r#type,
                c.status,
                c.reason.as_deref().unwrap_or("")
            )
        })
        .collect();
    words.sort();
    words
}

fn notes(plan: &Plan) -> Vec<&str> {
    plan.notes.iter().map(|note| &*note.reason).collect()
}

#[test]
fn a_machine_that_starts_paused_is_paused_and_has_not_failed() {
    let spec = json!({ "domain": { "memory": { "guest": "64Mi" } }, "startStrategy": "Paused" });
    let fresh = instance(json!({ "spec": spec.clone() }));
    let up = running();
    let plan = decide(&observed(&fresh, Some(&up)));
    let expected = [
        "LiveMigratable=False(NotMigratable)",
        "Paused=True(PausedByUser)",
        "Ready=True()",
        "StorageLiveMigratable=False(NotMigratable)",
    ];
    assert_eq!(conditions(&plan), expected);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Running));
    let mut told = instance(json!({ "spec": spec }));
    told.status = Some(status);
    assert_eq!(decide(&observed(&told, Some(&up))).status, None, "it stays");
    // Whoever lets it run takes the condition away, and it does not come back.
    let conditions = &mut told.status.as_mut().unwrap().conditions;
    conditions.retain(|condition| condition.r#type != "Paused");
    assert_eq!(decide(&observed(&told, Some(&up))).status, None);
}

#[test]
fn a_start_that_goes_well_is_quiet_until_it_runs() {
    let fresh = instance(json!({}));
    let waiting = starting();
    let plan = decide(&observed(&fresh, Some(&waiting)));
    assert_eq!((plan.status, plan.notes.len()), (None, 0));
    assert_eq!(plan.again, Some(Duration::from_secs(2)), "it looks again");

    let slow = Observed {
        now: at(5),
        ..observed(&fresh, Some(&waiting))
    };
    let plan = decide(&slow);
    assert_eq!(conditions(&plan), ["Ready=False(GuestNotRunning)"]);
    assert_eq!(plan.status.unwrap().phase, Some(Phase::Scheduling));

    let up = running();
    let plan = decide(&observed(&fresh, Some(&up)));
    assert_eq!(
        conditions(&plan),
        [
            "LiveMigratable=False(NotMigratable)",
            "Ready=True()",
            "StorageLiveMigratable=False(NotMigratable)"
        ]
    );
    assert_eq!(notes(&plan), ["Created", "Started"]);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Running));
    assert_eq!(status.node_name.as_deref(), Some("node1"));
    assert_eq!(status.interfaces[0].ip_address.as_deref(), Some("10.0.0.7"));

    // Nothing new is nothing to write.
    let settled = instance(json!({ "status": status }));
    assert_eq!(decide(&observed(&settled, Some(&up))), Plan::default());
}

/// Everything that a running instance tells of itself, its guest and its pod.
#[test]
fn a_running_instance_tells_all_that_is_known() {
    let spec = json!({
        "domain": {
            "machine": { "type": "q35" },
            "cpu": { "sockets": 2, "cores": 1, "threads": 1 },
            "memory": { "guest": "64Mi" },
            "devices": {
                "disks": [{ "name": "data", "disk": { "bus": "virtio" } }],
                "interfaces": [{ "name": "default", "masquerade": {}, "macAddress": "02:00:00:00:00:01" }],
                "networkInterfaceMultiqueue": true,
            },
        },
        "networks": [{ "name": "default", "pod": {} }],
        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "c" } }],
    });
    let mut up = serde_json::to_value(running()).unwrap();
    up["metadata"]["annotations"] = json!({ "kubevirt.io/volume-sizes": r#"{"data":"2Gi"}"# });
    up["spec"]["securityContext"] = json!({ "runAsUser": 107 });
    up["spec"]["volumes"] =
        json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "c" } }]);
    up["status"]["qosClass"] = json!("Burstable");
    up["status"]["podIPs"] = json!([{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }]);
    let up: Pod = serde_json::from_value(up).unwrap();
    let text = |text: &str| text.to_owned();
    let told = Told {
        state: State::Running,
        machine_type: Some(text("pc-q35-7.2")),
        agent: Some(Agent {
            os: Os {
                id: text("debian"),
                name: text("Debian GNU/Linux"),
                pretty_name: text("Debian 12"),
                version: text("12 (bookworm)"),
                version_id: text("12"),
                kernel_release: text("6.1.0"),
                kernel_version: text("#1 SMP"),
                machine: text("x86_64"),
            },
            interfaces: vec![Interface {
                name: text("enp1s0"),
                mac: Some(text("02:00:00:00:00:01")),
                addresses: vec![text("10.0.2.2")],
            }],
        }),
        access_credentials: None,
    };
    let fresh = instance(json!({ "spec": spec }));
    let plan = decide(&Observed {
        told: Some(&told),
        ..observed(&fresh, Some(&up))
    });
    let status = serde_json::to_value(plan.status.unwrap()).unwrap();
    insta::assert_yaml_snapshot!(status);
}

#[test]
fn what_goes_wrong_is_told_at_once() {
    let fresh = instance(json!({}));
    let obstacle = Obstacle::ClaimMissing {
        namespace: "default".into(),
        claim: "c".into(),
        volume: "v".into(),
    };
    let blocked = Observed {
        obstacle: Some(&obstacle),
        ..observed(&fresh, None)
    };
    let plan = decide(&blocked);
    assert_eq!(
        conditions(&plan),
        [
            "PodScheduled=False(Unschedulable)",
            "Ready=False(PodNotExists)",
            "Synchronized=False(FailedPvcNotFound)"
        ]
    );
    assert_eq!(notes(&plan), ["FailedPvcNotFound"]);
    assert_eq!(plan.again, Some(LOOK_AGAIN.0));
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(Phase::Pending));

    // Said once; mended, it is quiet again as soon as that is written.
    let told = instance(json!({ "status": status }));
    let blocked = Observed {
        obstacle: Some(&obstacle),
        ..observed(&told, None)
    };
    assert_eq!(decide(&blocked).status, None);
    let waiting = starting();
    let plan = decide(&observed(&told, Some(&waiting)));
    assert_eq!(conditions(&plan), ["Ready=False(GuestNotRunning)"]);
}

#[test]
fn kubelets_complaint_shows_only_while_it_holds() {
    let fresh = instance(json!({}));
    let waiting = starting();
    let complaint = Complaint::new("FailedMount", "secret \"seed\" not found");
    let stuck = Observed {
        complaint: Some(&complaint),
        ..observed(&fresh, Some(&waiting))
    };
    let plan = decide(&stuck);
    assert_eq!(
        conditions(&plan),
        [
            "Ready=False(GuestNotRunning)",
            "Synchronized=False(FailedMount)"
        ]
    );
    let told = instance(json!({ "status": plan.status }));
    let up = running();
    let still = Observed {
        complaint: Some(&complaint),
        ..observed(&told, Some(&up))
    };
    let plan = decide(&still);
    assert_eq!(
        conditions(&plan),
        [
            "LiveMigratable=False(NotMigratable)",
            "Ready=True()",
            "StorageLiveMigratable=False(NotMigratable)"
        ]
    );
}

#[test]
fn an_instance_leaves_after_its_pod() {
    let up = running();
    let status = decide(&observed(&instance(json!({})), Some(&up))).status;
    let leaving = instance(json!({ "status": status, "deletionTimestamp": CREATED }));
    let plan = decide(&observed(&leaving, Some(&up)));
    assert!(plan.delete_pod && !plan.release);
    assert_eq!(plan.status, None, "the pod's deletion will be the news");

    let mut dying = up.clone();
    dying.metadata.deletion_timestamp = Some(at(1));
    let quick = decide(&observed(&leaving, Some(&dying)));
    assert_eq!((quick.status, quick.again), (None, Some(QUICK_END)));
    let plan = decide(&Observed {
        now: at(3),
        ..observed(&leaving, Some(&dying))
    });
    assert!(!plan.delete_pod && !plan.release);
    assert_eq!(
        conditions(&plan),
        [
            "LiveMigratable=False(NotMigratable)",
            "Ready=False(PodTerminating)",
            "StorageLiveMigratable=False(NotMigratable)"
        ]
    );
    assert_eq!(notes(&plan), ["ShuttingDown"]);

    // One that was quick is told whole.
    let mut over = pod(json!({ "phase": "Succeeded" }));
    over.metadata.deletion_timestamp = Some(at(1));
    let whole = decide(&observed(&leaving, Some(&over)));
    assert_eq!(notes(&whole), ["ShuttingDown", "Deleted", "Stopped"]);

    let mut ended = pod(json!({ "phase": "Succeeded" }));
    ended.metadata.deletion_timestamp = Some(at(1));
    let leaving = instance(json!({ "status": plan.status, "deletionTimestamp": CREATED }));
    let plan = decide(&observed(&leaving, Some(&ended)));
    assert_eq!(notes(&plan), ["Deleted", "Stopped"]);
    let status = plan.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Succeeded));
    assert_eq!(status.interfaces[0].ip_address, None);

    let leaving = instance(json!({ "status": status, "deletionTimestamp": CREATED }));
    let plan = decide(&observed(&leaving, None));
    assert_eq!(
        plan,
        Plan {
            release: true,
            ..Plan::default()
        }
    );
}

#[test]
fn an_instance_that_never_had_a_pod_fails_and_leaves() {
    let leaving = instance(json!({ "deletionTimestamp": CREATED }));
    let plan = decide(&observed(&leaving, None));
    let status = plan.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Failed));
    assert_eq!(
        notes(&plan),
        Vec::<&str>::new(),
        "nothing was started, nothing stopped"
    );
    let leaving = instance(json!({ "status": status, "deletionTimestamp": CREATED }));
    assert!(decide(&observed(&leaving, None)).release);
}

#[test]
fn a_failed_start_says_why_for_good() {
    let refused = pod(json!({
        "phase": "Failed",
        "containerStatuses": [{ "name": "compute", "ready": false, "restartCount": 0, "image": "",
            "imageID": "", "state": { "terminated": { "exitCode": 128, "reason": "StartError",
                "message": "no disk in /disk", "startedAt": "1970-01-01T00:00:00Z" } } }],
    }));
    let fresh = instance(json!({}));
    let plan = decide(&observed(&fresh, Some(&refused)));
    let status = plan.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Failed));
    assert!(
        status
            .phase_transition_timestamps
            .iter()
            .all(|t| t.phase != Some(Phase::Running))
    );
    assert_eq!(status.reason.as_deref(), Some("StartError"));
    let said = |status: &VirtualMachineInstanceStatus| {
        let found = status
            .conditions
            .iter()
            .find(|c| c.r#type == "Synchronized");
        found.and_then(|c| c.message.clone())
    };
    assert_eq!(said(&status).as_deref(), Some("no disk in /disk"));
    // Its pod goes; its error stays.
    let mut dying = refused.clone();
    dying.metadata.deletion_timestamp = Some(at(1));
    let failed = instance(json!({ "status": status }));
    let plan = decide(&observed(&failed, Some(&dying)));
    assert_eq!(
        said(plan.status.as_ref().unwrap()).as_deref(),
        Some("no disk in /disk")
    );
}

#[test]
fn a_guest_never_runs_behind_a_final_instance() {
    let failed = instance(json!({ "status": { "phase": "Failed" } }));
    let up = running();
    assert!(decide(&observed(&failed, Some(&up))).delete_pod);
    let over = pod(json!({ "phase": "Failed" }));
    assert!(
        !decide(&observed(&failed, Some(&over))).delete_pod,
        "its log is kept"
    );
}

#[test]
fn what_the_machine_tells_shows_and_stays_until_it_tells_otherwise() {
    let up = running();
    let fresh = instance(json!({}));
    let first = decide(&observed(&fresh, Some(&up))).status.unwrap();
    let mac = first.interfaces[0].mac.clone();
    let told = |state| Told {
        state,
        machine_type: Some("pc-q35-7.2".to_owned()),
        agent: Some(Agent {
            os: Os {
                id: "debian".to_owned(),
                ..Os::default()
            },
            interfaces: vec![Interface {
                name: "enp1s0".to_owned(),
                mac: mac.clone(),
                addresses: vec!["10.0.2.2".to_owned()],
            }],
        }),
        access_credentials: Some(AccessCredentials {
            synchronized: false,
            message: "no such user".to_owned(),
        }),
    };
    let runs = instance(json!({ "status": first }));
    let paused = told(State::Paused);
    let plan = decide(&Observed {
        told: Some(&paused),
        ..observed(&runs, Some(&up))
    });
    let said = conditions(&plan);
    for expected in [
        "AgentConnected=True()",
        "AccessCredentialsSynchronized=False()",
        "Paused=True(PausedByUser)",
        "Ready=False(ReadinessGatesNotReady)",
    ] {
        assert!(said.contains(&expected.to_owned()), "{said:?}");
    }
    assert_eq!(notes(&plan), ["Paused"]);
    // What the subresource API did, it has told.
    let mut asked = runs.clone();
    let a_moment_ago = at(0).0.to_string();
    asked
        .annotations_mut()
        .insert(ASK_ANNOTATION.to_owned(), a_moment_ago);
    let quiet = decide(&Observed {
        told: Some(&paused),
        ..observed(&asked, Some(&up))
    });
    assert_eq!(conditions(&quiet), said);
    assert!(notes(&quiet).is_empty(), "{:?}", notes(&quiet));
    let status = plan.status.unwrap();
    let interface = &status.interfaces[0];
    assert_eq!(interface.interface_name.as_deref(), Some("enp1s0"));
    assert_eq!(
        interface.ip_address.as_deref(),
        Some("10.0.0.7"),
        "the pod's"
    );
    // A replica that has not asked yet takes nothing back.
    let known = instance(json!({ "status": status }));
    assert_eq!(decide(&observed(&known, Some(&up))).status, None);
    // The type of the machine alone is no news.
    let mut other = told(State::Paused);
    other.machine_type = Some("pc-q35-9.0".to_owned());
    let same = decide(&Observed {
        told: Some(&other),
        ..observed(&known, Some(&up))
    });
    assert_eq!(same.status, None);
    let goes_on = Told {
        agent: None,
        ..told(State::Running)
    };
    let plan = decide(&Observed {
        told: Some(&goes_on),
        ..observed(&known, Some(&up))
    });
    assert_eq!(notes(&plan), ["Unpaused"]);
    let status = plan.status.unwrap();
    assert!(find(&status.conditions, "AgentConnected").is_none());
    assert_eq!(status.guest_os_info, None);
    assert_eq!(status.interfaces[0].interface_name, None);
}

#[test]
fn an_unready_pod_says_why() {
    let fresh = instance(json!({}));
    let with = |ready: Value| {
        let mut up = running();
        let conditions = serde_json::from_value(json!([ready])).unwrap();
        up.status.as_mut().unwrap().conditions = Some(conditions);
        conditions_of(&fresh, &up)
    };
    let unready = with(json!({ "type": "Ready", "status": "False",
        "reason": "ContainersNotReady", "message": "the probe failed" }));
    assert!(
        unready.contains(&"Ready=False(ContainersNotReady)".to_owned()),
        "{unready:?}"
    );
    let silent = with(json!({ "type": "Initialized", "status": "True" }));
    assert!(
        silent.contains(&"Ready=False(PodConditionMissing)".to_owned()),
        "{silent:?}"
    );
}

fn conditions_of(instance: &VirtualMachineInstance, pod: &Pod) -> Vec<String> {
    conditions(&decide(&observed(instance, Some(pod))))
}

#[test]
fn a_value_that_no_machine_can_have_is_told_by_its_path() {
    let fresh = instance(json!({}));
    let path = "spec.domain.memory.guest: is no amount";
    let obstacle = Obstacle::Invalid(vec![path.to_owned()]);
    let plan = decide(&Observed {
        obstacle: Some(&obstacle),
        ..observed(&fresh, None)
    });
    let expected = [
        "Ready=False(PodNotExists)",
        "Synchronized=False(InvalidSpec)",
    ];
    assert_eq!(conditions(&plan), expected);
    assert_eq!(plan.notes, [Note::warning("InvalidSpec", path)]);
}

#[test]
fn emulation_is_visible() {
    let up = running();
    let fresh = instance(json!({}));
    let plan = decide(&Observed {
        emulated: true,
        ..observed(&fresh, Some(&up))
    });
    assert!(conditions(&plan).contains(&"SoftwareEmulation=True(NoHardwareVirtualization)".into()));
}

#[test]
fn pods_are_wanted_only_by_those_who_never_had_one() {
    let wants = |more: Value| wants_pod(&instance(more), None);
    assert!(wants(json!({})));
    assert!(wants(json!({ "status": { "phase": "Pending" } })));
    assert!(!wants(json!({ "status": { "phase": "Scheduling" } })));
    assert!(!wants(json!({ "status": { "phase": "Failed" } })));
    assert!(!wants(json!({ "deletionTimestamp": CREATED })));
    assert!(!wants_pod(&instance(json!({})), Some(&starting())));
}
