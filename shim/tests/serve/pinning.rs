//! A machine whose vCPUs have processors of the node to themselves, as kubelet's static CPU manager
//! gives them: by a list in the container's spec, and another one in an update.

use std::fs;

use serde_json::{Value, json};

use crate::guest::Then;
use crate::pod::{Pod, Task, end, fifo, read};

/// A pod whose machine container has these processors, and a vCPU for each but for one that is QEMU's
/// if it is `isolated`.
async fn prepared(cpus: &str, count: u64, isolated: bool) -> (Pod, Task, Task) {
    prepared_with(resources(cpus, count), isolated, json!({})).await
}

async fn prepared_with(resources: Value, isolated: bool, devices: Value) -> (Pod, Task, Task) {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    let mut spec = pod.spec("vm", "container");
    let cpu = json!({ "dedicatedCpuPlacement": true, "isolateEmulatorThread": isolated });
    let wish = json!({ "domain": { "cpu": cpu, "devices": devices } });
    spec["annotations"]["kubevirt.io/vmi-spec"] = wish.to_string().into();
    spec["linux"]["resources"]["cpu"] = resources;
    pod.write_spec("vm", &spec);
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = pod.start("vm").await;
    (pod, sandbox, vm)
}

/// What kubelet asks for, from 1.33 on without a limit.
fn resources(cpus: &str, count: u64) -> Value {
    json!({ "cpus": cpus, "shares": count * 1024, "quota": -1, "period": 100_000 })
}

async fn run(pod: &Pod, vm: &Task) -> u32 {
    let stdout = fifo(pod, "stdout");
    vm.create(&stdout).await.unwrap();
    drop(read(&stdout));
    vm.run().await
}

/// The processors that the vCPUs and the main thread may use, as the kernel says.
fn allowed(pid: u32) -> (Vec<String>, String) {
    let mut vcpus = Vec::new();
    let mut main = String::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap();
        let name = fs::read_to_string(thread.path().join("comm")).unwrap();
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = allowed.unwrap().trim().to_owned();
        if name.starts_with("CPU ") {
            vcpus.push((name, allowed));
        } else if thread.file_name().to_str() == Some(&pid.to_string()) {
            main = allowed;
        }
    }
    vcpus.sort();
    (
        vcpus.into_iter().map(|(_, allowed)| allowed).collect(),
        main,
    )
}

/// The programs in the control group of the process `pid`, but for that one.
fn beside(pid: u32) -> Vec<u32> {
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of_group = |id: &u32| {
        let other = fs::read_to_string(format!("/proc/{id}/cgroup"));
        *id != pid && other.is_ok_and(|other| other == group)
    };
    let entries = fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(of_group).collect()
}

async fn update(vm: &Task, cpus: &str, count: u64) -> Result<(), String> {
    vm.update(&json!({ "cpu": resources(cpus, count) })).await
}

fn owned(cpus: &[&str]) -> Vec<String> {
    cpus.iter().map(|cpu| (*cpu).to_owned()).collect()
}

/// The kernel must have two processors, as the bench does.
#[tokio::test]
async fn each_vcpu_is_bound_to_a_processor() {
    let (pod, sandbox, vm) = prepared("0-1", 2, false).await;
    let pid = run(&pod, &vm).await;
    assert_eq!(allowed(pid), (owned(&["0", "1"]), "0-1".to_owned()));
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn qemu_has_one_of_its_own_if_it_is_isolated() {
    let (pod, sandbox, vm) = prepared("0-1", 2, true).await;
    let pid = run(&pod, &vm).await;
    assert_eq!(allowed(pid), (owned(&["0"]), "1".to_owned()));
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn it_follows_the_processors_of_an_update() {
    let (pod, sandbox, vm) = prepared("0", 1, false).await;
    let pid = run(&pod, &vm).await;
    assert_eq!(allowed(pid), (owned(&["0"]), "0".to_owned()));
    update(&vm, "1", 1).await.unwrap();
    assert_eq!(allowed(pid), (owned(&["1"]), "1".to_owned()));
    update(&vm, "0-1", 2).await.unwrap();
    assert_eq!(allowed(pid), (owned(&["0"]), "1".to_owned()));
    // What all containers share is nobody's.
    let error = update(&vm, "0-1", 1).await.unwrap_err();
    assert!(error.contains("no processors to itself"), "{error}");
    assert_eq!(allowed(pid), (owned(&["0"]), "1".to_owned()));
    end(pod, sandbox, vm).await;
}

/// The same with a limit of so many processors.
fn limited(cpus: &str, count: u64, limit: u64) -> Value {
    let mut cpu = resources(cpus, count);
    cpu["quota"] = (limit * 100_000).into();
    cpu
}

#[tokio::test]
async fn a_vcpu_that_comes_is_bound_too() {
    let (pod, sandbox, vm) = prepared_with(limited("1", 1, 1), false, json!({})).await;
    let pid = run(&pod, &vm).await;
    assert_eq!(allowed(pid), (owned(&["1"]), "1".to_owned()));
    let wanted = json!({ "cpu": limited("0-1", 2, 2) });
    vm.update(&wanted).await.unwrap();
    assert_eq!(allowed(pid), (owned(&["0", "1"]), "0-1".to_owned()));
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn more_vcpus_than_processors_are_refused_and_nothing_has_changed() {
    let (pod, sandbox, vm) = prepared_with(limited("0-1", 2, 2), true, json!({})).await;
    let pid = run(&pod, &vm).await;
    assert_eq!(allowed(pid), (owned(&["0"]), "1".to_owned()));
    for (cpu, words) in [
        (
            limited("0-1", 2, 3),
            "has 2 processors to itself and needs 3",
        ),
        (limited("0", 1, 2), "has 1 processors to itself and needs 2"),
        (limited("0", 2, 2), "no processors to itself"),
    ] {
        let error = vm.update(&json!({ "cpu": cpu })).await.unwrap_err();
        assert!(error.contains(words), "{error}");
        assert_eq!(allowed(pid), (owned(&["0"]), "1".to_owned()));
    }
    end(pod, sandbox, vm).await;
}

/// Needs swtpm.
#[tokio::test]
async fn programs_beside_qemu_are_bound_like_its_own_threads() {
    let devices = json!({ "tpm": {} });
    let (pod, sandbox, vm) = prepared_with(resources("0-1", 2), true, devices).await;
    let pid = run(&pod, &vm).await;
    let [swtpm] = beside(pid)[..] else {
        panic!("one program: {:?}", beside(pid))
    };
    assert_eq!(allowed(swtpm).1, "1");
    let error = update(&vm, "0", 1).await.unwrap_err();
    assert!(error.contains("needs 2"), "{error}");
    update(&vm, "0-1", 2).await.unwrap();
    assert_eq!(allowed(swtpm).1, "1");
    end(pod, sandbox, vm).await;
}

#[tokio::test]
async fn without_processors_to_itself_it_is_refused() {
    for (cpus, count, isolated, words) in [
        ("0-1", 1, false, "no processors to itself"),
        ("", 2, false, "cpuManagerPolicy static"),
        ("0", 1, true, "has 1 processors to itself and needs 2"),
    ] {
        let (pod, sandbox, vm) = prepared(cpus, count, isolated).await;
        let stdout = fifo(&pod, "stdout");
        let error = vm.create(&stdout).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        sandbox.finish().await;
        pod.assert_clean().await;
    }
}
