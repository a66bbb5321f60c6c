//! A running machine gets other limits. Its guest of one sector neither takes nor returns anything:
//! what a guest that does would see is in the end-to-end tests.

use std::fs;
use std::time::{Duration, Instant};

use containerd_shim::api::{StatsRequest, Status};
use containerd_shim::protos::cgroups::metrics::Metrics;
use containerd_shim::protos::protobuf::Message;
use serde_json::json;

use crate::guest::Then;
use crate::pod::{Pod, Task, bound, end, fifo, read};

const MIB: u64 = 1 << 20;

/// A running machine of one vCPU and 64 MiB, with room for 128, and its sandbox.
async fn machine() -> (Pod, Task, Task, u32) {
    machine_in(Pod::new().await).await
}

async fn machine_in(pod: Pod) -> (Pod, Task, Task, u32) {
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    let mut spec = pod.spec("vm", "container");
    let wish = json!({ "domain": { "memory": { "maxGuest": "128Mi" } } });
    spec["annotations"]["kubevirt.io/vmi-spec"] = wish.to_string().into();
    pod.write_spec("vm", &spec);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    vm.create(&stdout).await.unwrap();
    drop(read(&stdout));
    let pid = vm.run().await;
    (pod, sandbox, vm, pid)
}

async fn cpu(vm: &Task, quota: i64) -> Result<(), String> {
    vm.update(&json!({ "cpu": { "quota": quota, "period": 100_000 } }))
        .await
}

async fn memory(vm: &Task, limit: u64) -> Result<(), String> {
    vm.update(&json!({ "memory": { "limit": limit } })).await
}

/// The control group's limit of memory, where the figures have a form that tells it.
async fn memory_limit(vm: &Task) -> Option<u64> {
    let request = StatsRequest {
        id: vm.id.clone(),
        ..StatsRequest::default()
    };
    let stats = vm.client.stats(bound(), &request).await.unwrap();
    let stats = stats.stats.unwrap();
    let v1 = stats.type_url.contains("v1");
    v1.then(|| {
        let metrics = Metrics::parse_from_bytes(&stats.value).unwrap();
        metrics.memory.usage.limit
    })
}

/// The threads that are the machine's vCPUs.
fn vcpus(pid: u32) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).unwrap();
    threads
        .map(|thread| name(thread.unwrap()))
        .filter(|name| name.starts_with("CPU "))
        .count()
}

#[tokio::test]
async fn vcpus_come_with_the_limit_and_go_if_the_guest_lets_them() {
    let (pod, sandbox, vm, pid) = machine().await;
    let processors = std::thread::available_parallelism().unwrap().get();
    for quota in [50_000, 100_000] {
        cpu(&vm, quota).await.unwrap();
        assert_eq!(vcpus(pid), 1);
    }
    if processors > 1 {
        cpu(&vm, 150_000).await.unwrap();
        assert_eq!(vcpus(pid), 2);
        // Again, and back: this guest keeps what it has, but its time is less.
        cpu(&vm, 200_000).await.unwrap();
        cpu(&vm, 100_000).await.unwrap();
        assert_eq!(vcpus(pid), 2);
    }
    let most = processors.min(4);
    let error = cpu(&vm, 500_000).await.unwrap_err();
    let expected = format!("5 processors are more than the {most} that this machine can have");
    assert!(error.contains(&expected), "{error}");
    let error = cpu(&vm, -1).await.unwrap_err();
    assert!(error.contains("the CPU limit"), "{error}");
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn a_pod_gets_the_limits_that_its_machine_got_before() {
    let pod = Pod::new().await;
    let Some(group) = pod.limit_cpu(100_000) else {
        // cgroup v2 takes a limit of a pod below that of its container.
        return;
    };
    let (pod, sandbox, vm, _) = machine_in(pod).await;
    for quota in [100_000, 50_000, 20_000] {
        cpu(&vm, quota).await.unwrap();
        // Kubelet's next step.
        fs::write(&group, quota.to_string()).unwrap();
    }
    fs::write(&group, "100000").unwrap();
    cpu(&vm, 100_000).await.unwrap();
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn a_resize_that_fails_is_taken_back() {
    let (pod, sandbox, vm, pid) = machine().await;
    let quota = pod.cpu_quota("vm");
    let both = json!({
        "cpu": { "quota": 150_000, "period": 100_000 }, "memory": { "limit": 128 * MIB }
    });
    let error = vm.update(&both).await.unwrap_err();
    assert!(
        error.contains("has taken 64 MiB of the 128 MiB") || error.contains("2 processors"),
        "{error}"
    );
    assert_eq!(pod.cpu_quota("vm"), quota);
    assert!(vcpus(pid) <= 2);
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn memory_comes_with_the_limit_and_the_limit_goes_with_the_memory() {
    let (pod, sandbox, vm, _) = machine().await;
    let before = memory_limit(&vm).await;
    memory(&vm, 64 * MIB).await.unwrap();
    assert_eq!(memory_limit(&vm).await, before);

    let error = memory(&vm, 32 * MIB).await.unwrap_err();
    assert!(
        error.contains("still holds 64 MiB") && error.contains("no more than 32 MiB"),
        "{error}"
    );
    assert_eq!(memory_limit(&vm).await, before);

    let error = memory(&vm, 128 * MIB).await.unwrap_err();
    assert!(error.contains("has taken 64 MiB of the 128 MiB"), "{error}");
    assert_eq!(memory_limit(&vm).await, before, "all of it is taken back");
    memory(&vm, 64 * MIB).await.unwrap();
    assert_eq!(memory_limit(&vm).await, before);

    let error = memory(&vm, 132 * MIB).await.unwrap_err();
    let expected = "132 MiB of guest memory are more than the 128 MiB";
    assert!(error.contains(expected), "{error}");
    let error = vm.update(&json!({ "memory": { "limit": -1 } })).await;
    assert!(error.unwrap_err().contains("the memory limit"));
    assert_eq!(memory_limit(&vm).await, before);
    let state = vm.state().await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(Status::RUNNING));
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn a_machine_that_ends_in_the_middle_ends_the_wait() {
    let (pod, sandbox, vm, _) = machine().await;
    let begun = Instant::now();
    let (updated, killed) = tokio::join!(memory(&vm, 32 * MIB), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        vm.kill(9).await
    });
    killed.unwrap();
    let error = updated.unwrap_err();
    assert!(error.contains("ended while its size"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(vm.wait().await, 137);
    end(pod, sandbox, vm).await;
}
