//! The sandbox: the holder of the pod's namespaces, from its creation to its end.

use std::fs;
use std::os::unix::fs::MetadataExt;

use containerd_shim::api::{PidsRequest, StatsRequest, Status};
use serde_json::json;

use crate::pod::{Pod, bound};

fn namespace(pid: u32, name: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{name}"))
        .unwrap()
        .ino()
}

#[tokio::test]
async fn it_lives_and_ends_in_order() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let mut spec = pod.spec("sandbox", "sandbox");
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "7"});
    pod.write_spec("sandbox", &spec);
    let task = pod.start("sandbox").await;
    let pid = task.create("").await.unwrap().pid;
    assert_eq!(
        task.state().await.unwrap().status.enum_value(),
        Ok(Status::CREATED)
    );
    assert_eq!(task.run().await, pid);
    assert_eq!(
        task.state().await.unwrap().status.enum_value(),
        Ok(Status::RUNNING)
    );

    let ours = std::process::id();
    for name in ["pid", "ipc", "uts", "net", "mnt"] {
        assert_ne!(namespace(pid, name), namespace(ours, name), "{name}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(field("Uid:"), "65535 65535 65535 65535");
    assert_eq!(field("CapBnd:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(field("NSpid:").ends_with(" 1"), "{status}");
    let resident: u64 = field("VmRSS:").trim_end_matches(" kB").parse().unwrap();
    assert!(resident <= 512, "{resident} kB");

    let request = PidsRequest {
        id: task.id.clone(),
        ..PidsRequest::default()
    };
    let pids = task.client.pids(bound(), &request).await.unwrap();
    assert_eq!(pids.processes[0].pid, pid);
    let request = StatsRequest {
        id: task.id.clone(),
        ..StatsRequest::default()
    };
    let stats = task.client.stats(bound(), &request).await.unwrap();
    assert!(stats.stats.type_url.starts_with("io.containerd.cgroups.v"));

    task.kill(15).await.unwrap();
    assert_eq!(task.wait().await, 0);
    assert_eq!(task.delete().await.unwrap().exit_status, 0);
    task.shutdown().await;
    pod.assert_clean().await;
    let topics = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(pod.daemon.topics(&task.id), topics);
}

#[tokio::test]
async fn it_ends_by_sigkill_also_before_its_start() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let task = pod.start("sandbox").await;
    task.create("").await.unwrap();
    task.kill(15).await.unwrap();
    assert_eq!(task.wait().await, 137);
    assert_eq!(task.delete().await.unwrap().exit_status, 137);
    assert!(task.state().await.is_err());
    task.shutdown().await;
    pod.assert_clean().await;
    assert_eq!(pod.daemon.exit_status(&task.id), Some(137));
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_is_refused_and_leaves_nothing() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let mut spec = pod.spec("sandbox", "sandbox");
    spec["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}]);
    pod.write_spec("sandbox", &spec);
    let task = pod.start("sandbox").await;
    let error = task.create("").await.unwrap_err().to_string();
    assert!(error.contains("hostNetwork"), "{error}");
    task.shutdown().await;
    pod.assert_clean().await;
}

#[tokio::test]
async fn creating_twice_is_one_creation() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    let task = pod.start("sandbox").await;
    let request = task.create_request("");
    let (one, two) = tokio::join!(
        task.client.create(bound(), &request),
        task.client.create(bound(), &request)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.pid, two.pid);
    task.run().await;
    assert!(
        task.create("")
            .await
            .unwrap_err()
            .to_string()
            .contains("exists already")
    );
    task.finish().await;
    pod.assert_clean().await;
}
