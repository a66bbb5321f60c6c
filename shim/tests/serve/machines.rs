//! Machines under containerd's verbs.

use std::fs;
use std::time::{Duration, Instant};

use containerd_shim::api::{
    DeleteRequest, ExecProcessRequest, PauseRequest, ResumeRequest, StartRequest, StatsRequest,
    Status, WaitRequest,
};
use containerd_shim::protos::cgroups::metrics::Metrics;
use containerd_shim::protos::protobuf::Message;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::guest::{GREETING, Then};
use crate::pod::{Pod, Task, bound, fifo, read};

/// A pod whose sandbox runs and whose machine was created, with output to a fifo.
pub(crate) async fn created(then: Then) -> (Pod, Task, Task, String) {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", then);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    vm.create(&stdout).await.unwrap();
    (pod, sandbox, vm, stdout)
}

#[tokio::test]
async fn a_guest_that_powers_off_at_once_loses_no_byte() {
    let (pod, sandbox, vm, stdout) = created(Then::PowerOff).await;
    assert_eq!(
        vm.state().await.unwrap().status.enum_value(),
        Ok(Status::CREATED)
    );
    let output = read(&stdout);
    vm.run().await;
    assert_eq!(vm.wait().await, 0);
    assert!(output.await.unwrap().ends_with(&format!("{GREETING}\r\n")));
    let message = fs::read_to_string(pod.path("termination-log")).unwrap();
    assert_eq!(message, "the guest powered itself off");
    let state = vm.state().await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(Status::STOPPED));
    assert_eq!(vm.delete().await.unwrap().exit_status, 0);
    vm.shutdown().await;
    assert!(
        sandbox.state().await.is_ok(),
        "the pod's other containers go on"
    );
    sandbox.finish().await;
    pod.assert_clean().await;
    let topics = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(pod.daemon.topics(&vm.id), topics);
}

/// A machine that starts paused, started.
async fn started_paused() -> (Pod, Task, Task, String) {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    let mut spec = pod.spec("vm", "container");
    let wish = json!({ "startStrategy": "Paused" }).to_string();
    spec["annotations"]["kubevirt.io/vmi-spec"] = wish.into();
    pod.write_spec("vm", &spec);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    vm.create(&stdout).await.unwrap();
    vm.run().await;
    (pod, sandbox, vm, stdout)
}

#[tokio::test]
async fn a_machine_that_starts_paused_runs_when_it_is_resumed() {
    let (pod, sandbox, vm, stdout) = started_paused().await;
    let id = vm.id.clone();
    let state = vm.state().await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    // It can be looked at; a command in the guest fails at once, nobody waits for an agent.
    for (exec_id, words, status) in [("a", &["vm:status"][..], 0), ("b", &["true"], 126)] {
        assert_eq!(process(&vm, &id, exec_id, words).await, status, "{words:?}");
    }
    assert_eq!(process(&vm, &id, "c", &["vm:resume"]).await, 0);
    // The fifo has been written to by nobody before.
    let output = read(&stdout);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(process(&vm, &id, "d", &["vm:status"]).await, 0);
    vm.kill(9).await.unwrap();
    assert_eq!(vm.wait().await, 137);
    assert!(output.await.unwrap().contains(GREETING));
    vm.delete().await.unwrap();
    vm.shutdown().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

/// It has no guest that could follow its power button, and does not begin to boot one for it.
#[tokio::test]
async fn a_machine_that_never_ran_ends_at_once() {
    let (pod, sandbox, vm, stdout) = started_paused().await;
    let output = read(&stdout);
    vm.kill(15).await.unwrap();
    assert_eq!(vm.wait().await, 137);
    assert_eq!(output.await.unwrap(), "");
    vm.delete().await.unwrap();
    vm.shutdown().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn it_is_paused_measured_and_killed() {
    let (pod, sandbox, vm, stdout) = created(Then::Halt).await;
    let _output = read(&stdout);
    let pid = vm.run().await;
    let (id, pause) = (vm.id.clone(), PauseRequest::default());
    vm.client
        .pause(
            bound(),
            &PauseRequest {
                id: id.clone(),
                ..pause
            },
        )
        .await
        .unwrap();
    assert_eq!(
        vm.state().await.unwrap().status.enum_value(),
        Ok(Status::PAUSED)
    );
    let resume = ResumeRequest {
        id: id.clone(),
        ..ResumeRequest::default()
    };
    vm.client.resume(bound(), &resume).await.unwrap();
    assert_eq!(
        vm.state().await.unwrap().status.enum_value(),
        Ok(Status::RUNNING)
    );

    let request = StatsRequest {
        id: id.clone(),
        ..StatsRequest::default()
    };
    let stats = vm
        .client
        .stats(bound(), &request)
        .await
        .unwrap()
        .stats
        .unwrap();
    if stats.type_url.contains("v1") {
        let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
        assert!(metrics.cpu.usage.total > 1_000_000, "{metrics}");
        assert!(metrics.memory.usage.usage > 10 << 20, "{metrics}");
        assert!(
            metrics.memory.usage.limit > 64 << 20,
            "QEMU's own need is on top: {metrics}"
        );
    }

    // A verb is done, and what is none, or needs an agent that is not there, says so by its status.
    for (index, (words, status)) in [
        (&["vm:pause", "-o", "json"][..], 0),
        (&["true"], 126),
        (&["vm:resume"], 0),
        (&["vm:explode"], 2),
        (&["vm:agent"], 1),
    ]
    .iter()
    .enumerate()
    {
        let ended = process(&vm, &id, &format!("exec-{index}"), words).await;
        assert_eq!(ended, *status, "{words:?}");
    }

    let pause = PauseRequest {
        id: id.clone(),
        ..PauseRequest::default()
    };
    vm.client.pause(bound(), &pause).await.unwrap();
    // The size of a terminal is nothing to it, but it wakes up for its power button.
    for (signal, status) in [(28, Status::PAUSED), (15, Status::RUNNING)] {
        vm.kill(signal).await.unwrap();
        assert_eq!(vm.state().await.unwrap().status.enum_value(), Ok(status));
    }

    vm.kill(9).await.unwrap();
    assert_eq!(vm.wait().await, 137);
    assert!(
        fs::metadata(format!("/proc/{pid}")).is_err(),
        "QEMU is reaped"
    );
    assert!(
        vm.client.stats(bound(), &request).await.is_ok(),
        "figures also after the end"
    );
    vm.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
    let topics = pod.daemon.topics(&vm.id);
    let resumed = topics.iter().filter(|topic| *topic == "/tasks/resumed");
    assert_eq!(resumed.count(), 2, "{topics:?}");
}

#[tokio::test]
async fn a_qemu_that_hangs_holds_up_nobody() {
    let (pod, sandbox, vm, stdout) = created(Then::Halt).await;
    let _output = read(&stdout);
    let pid = Pid::from_raw(vm.run().await.try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    assert_eq!(
        vm.state().await.unwrap().status.enum_value(),
        Ok(Status::RUNNING)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "State took {:?}",
        begun.elapsed()
    );
    vm.kill(15).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "Kill took {:?}",
        begun.elapsed()
    );
    vm.kill(9).await.unwrap();
    assert_eq!(vm.wait().await, 137);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "all took {:?}",
        begun.elapsed()
    );
    vm.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_creation_that_fails_leaves_nothing_and_the_next_one_works() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let disk = pod.image("bad").join("disk");
    fs::create_dir_all(&disk).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", disk.join("disk.img")).unwrap();
    pod.write_spec("bad", &pod.spec("vm", "container"));
    let before = pod.leftovers();
    let bad = pod.start("bad").await;
    let error = bad.create("").await.unwrap_err().to_string();
    assert!(error.contains("disk.img"), "{error}");
    assert_eq!(pod.leftovers(), before);
    assert!(bad.state().await.is_err());

    pod.prepare_machine("vm", Then::PowerOff);
    let vm = pod.start("vm").await;
    vm.create("").await.unwrap();
    vm.run().await;
    assert_eq!(vm.wait().await, 0);
    vm.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_checkpoint_and_a_mount_target_are_refused_by_name() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let before = pod.leftovers();
    let vm = pod.start("vm").await;
    let mut restored = vm.create_request("");
    restored.checkpoint = "/var/checkpoint".into();
    let mut elsewhere = vm.create_request("");
    elsewhere.rootfs[0].target = "/data".into();
    for (request, words) in [(restored, "/var/checkpoint"), (elsewhere, "/data")] {
        let error = vm.client.create(bound(), &request).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(pod.leftovers(), before);
    }
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_missing_fifo_is_an_error_of_create() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let before = pod.leftovers();
    let vm = pod.start("vm").await;
    let error = vm.create("/no/such/fifo").await.unwrap_err().to_string();
    assert!(error.contains("/no/such/fifo"), "{error}");
    assert_eq!(pod.leftovers(), before);
    sandbox.finish().await;
    pod.assert_clean().await;
}

/// Runs a process beside the machine; its exit status.
async fn process(vm: &Task, id: &str, exec_id: &str, words: &[&str]) -> u32 {
    let spec = json!({
        "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": words, "cwd": "/",
    });
    let mut exec = ExecProcessRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    exec.spec.mut_or_insert_default().value = spec.to_string().into_bytes();
    vm.client.exec(bound(), &exec).await.unwrap();
    let start = StartRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    vm.client.start(bound(), &start).await.unwrap();
    let wait = WaitRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    let ended = vm.client.wait(bound(), &wait).await.unwrap();
    let delete = DeleteRequest {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    };
    let deleted = vm.client.delete(bound(), &delete).await.unwrap();
    assert_eq!(deleted.exit_status, ended.exit_status);
    ended.exit_status
}
