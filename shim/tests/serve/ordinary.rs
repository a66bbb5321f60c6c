//! Ordinary containers, run by the node's own shim.

use std::time::Duration;

use containerd_shim::api::{
    DeleteRequest, ExecProcessRequest, KillRequest, StartRequest, StateRequest, Status, WaitRequest,
};
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::ttrpc::context::with_duration;
use rustix::process::{Pid, Signal, kill_process};

use crate::pod::{Pod, Task, bound, fifo, read};

async fn sandbox(pod: &Pod) -> Task {
    pod.prepare_sandbox();
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    sandbox
}

#[tokio::test]
async fn output_exit_code_and_commands() {
    let pod = Pod::new().await;
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("first", "echo hello; exit 5");
    pod.prepare_ordinary("second", "while :; do sleep 1; done");
    let first = pod.start("first").await;
    assert_eq!(first.address, sandbox.address);
    let stdout = fifo(&pod, "stdout");
    let output = read(&stdout);
    first.create(&stdout).await.unwrap();
    let second = pod.start("second").await;
    second.create("").await.unwrap();
    let shims = pod
        .processes()
        .iter()
        .filter(|(_, line)| line.contains("shim-runc"))
        .count();
    assert_eq!(shims, 1, "{:?}", pod.processes());
    first.run().await;
    assert_eq!(first.wait().await, 5);
    assert_eq!(output.await.unwrap(), "hello\n");
    first.finish().await;

    second.run().await;
    let exec = ExecProcessRequest {
        id: second.id.clone(),
        exec_id: "e".into(),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: br#"{"args":["/bin/sh","-c","exit 3"],"cwd":"/","user":{"uid":0,"gid":0}}"#
                .to_vec(),
            ..Any::default()
        })
        .into(),
        ..ExecProcessRequest::default()
    };
    second.client.exec(bound(), &exec).await.unwrap();
    let (id, exec_id) = (second.id.clone(), "e".to_owned());
    let start = StartRequest {
        id: id.clone(),
        exec_id: exec_id.clone(),
        ..Default::default()
    };
    second.client.start(bound(), &start).await.unwrap();
    let wait = WaitRequest {
        id,
        exec_id,
        ..Default::default()
    };
    assert_eq!(
        second
            .client
            .wait(bound(), &wait)
            .await
            .unwrap()
            .exit_status,
        3
    );
    second.finish().await;
    assert!(
        !pod.processes()
            .iter()
            .any(|(_, line)| line.contains("shim-runc"))
    );
    assert!(sandbox.state().await.is_ok());
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn the_death_of_the_nodes_own_shim_is_told() {
    let pod = Pod::new().await;
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("side", "while :; do sleep 1; done");
    let side = pod.start("side").await;
    side.create("").await.unwrap();
    side.run().await;
    let inner = Pid::from_raw(pod.process("shim-runc")).unwrap();
    kill_process(inner, Signal::KILL).unwrap();
    assert_eq!(side.wait().await, 137);
    assert_eq!(
        side.state().await.unwrap().status.enum_value(),
        Ok(Status::STOPPED)
    );
    let kill = KillRequest {
        id: side.id.clone(),
        signal: 9,
        ..Default::default()
    };
    let error = side
        .client
        .kill(bound(), &kill)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("NOT_FOUND"), "{error}");
    side.delete().await.unwrap();
    side.shutdown().await;
    assert_eq!(pod.daemon.exit_status(&side.id), Some(137));

    // The next container gets a new one.
    pod.prepare_ordinary("next", "exit 4");
    let next = pod.start("next").await;
    next.create("").await.unwrap();
    next.run().await;
    assert_eq!(next.wait().await, 4);
    next.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_deletion_that_outlasts_its_caller_is_done_to_the_end() {
    let pod = Pod::new().await;
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("side", "exit 3");
    let side = pod.start("side").await;
    side.create("").await.unwrap();
    side.run().await;
    assert_eq!(side.wait().await, 3);
    let inner = Pid::from_raw(pod.process("shim-runc")).unwrap();
    kill_process(inner, Signal::STOP).unwrap();
    let request = DeleteRequest {
        id: side.id.clone(),
        ..Default::default()
    };
    let limit = with_duration(Duration::from_millis(300));
    assert!(side.client.delete(limit, &request).await.is_err());
    kill_process(inner, Signal::CONT).unwrap();
    // The caller tries again; by then the first call may have done everything.
    let _ = side.delete().await;
    assert!(side.state().await.is_err());
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn what_the_nodes_own_shim_has_no_more_is_deleted() {
    let pod = Pod::new().await;
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("side", "exit 3");
    pod.prepare_ordinary("other", "while :; do sleep 1; done");
    let (side, other) = (pod.start("side").await, pod.start("other").await);
    for task in [&side, &other] {
        task.create("").await.unwrap();
        task.run().await;
    }
    assert_eq!(side.wait().await, 3);
    pod.delete_inside("side").await;
    let deleted = tokio::join!(side.delete(), side.delete());
    assert_eq!(deleted.0.unwrap().exit_status, 3);
    drop(deleted.1);
    assert!(side.state().await.is_err());
    assert!(
        other.state().await.is_ok(),
        "its shim was ended with the other container"
    );
    other.finish().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_is_refused_and_leaves_nothing() {
    let pod = Pod::new().await;
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("bad", "exit 0");
    let mut spec = pod.spec("bad", "container");
    spec["process"]["args"] = serde_json::json!(["/no/such/program"]);
    pod.write_spec("bad", &spec);
    let bad = pod.start("bad").await;
    let error = bad.create("").await.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
    let question = StateRequest {
        id: bad.id.clone(),
        ..Default::default()
    };
    assert!(bad.client.state(bound(), &question).await.is_err());
    sandbox.finish().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_shim_that_is_too_slow_to_start_does_not_stay_behind() {
    let pod = Pod::new().await;
    // The node's own, which is there but does not say so in time.
    let slow = pod.path("slow-shim");
    let script = "#!/bin/sh\ncontainerd-shim-runc-v2 \"$@\" > /dev/null\nexec sleep 60\n";
    std::fs::write(&slow, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&slow, executable).unwrap();
    pod.configure(&format!("[runtime]\nordinary-shim = {slow:?}\n"));
    let sandbox = sandbox(&pod).await;
    pod.prepare_ordinary("first", "true");
    let first = pod.start("first").await;
    let error = first.create("").await.unwrap_err().to_string();
    assert!(error.contains("start took more than 10 s"), "{error}");
    let left = pod.processes();
    let left: Vec<_> = left
        .iter()
        .filter(|(_, line)| line.contains("shim-runc"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    first.shutdown().await;
    sandbox.finish().await;
    pod.assert_clean().await;
}
