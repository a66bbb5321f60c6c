//! What happens when something dies that should not: the shim, its holder, QEMU.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::guest::Then;
use crate::pod::{Pod, Task, fifo};

/// A running pod: sandbox, machine, and an ordinary container.
async fn running() -> (Pod, [Task; 3]) {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    pod.prepare_ordinary("side", "while :; do sleep 1; done");
    let mut tasks = Vec::new();
    for id in ["sandbox", "vm", "side"] {
        let task = pod.start(id).await;
        task.create("").await.unwrap();
        task.run().await;
        tasks.push(task);
    }
    let Ok(tasks) = tasks.try_into() else {
        panic!("three tasks")
    };
    (pod, tasks)
}

fn end(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

async fn gone(pid: i32) {
    let end = Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
        assert!(Instant::now() < end, "{pid} lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_shim_takes_the_machine_along_and_delete_the_rest() {
    let (pod, [sandbox, ..]) = running().await;
    let (qemu, holder) = (pod.process("qemu-system"), pod.process("kubevirt-holder"));
    end(sandbox.shim_pid().await);
    gone(holder).await;
    gone(qemu).await;
    // containerd deletes in any order, and may do so twice.
    for id in ["sandbox", "side", "vm", "vm"] {
        assert_eq!(pod.delete(id).await.exit_status, 137, "{id}");
    }
    pod.assert_clean().await;
    let message = fs::read_to_string(pod.path("termination-log")).unwrap();
    assert!(message.contains("its shim was killed"), "{message}");
}

#[tokio::test]
async fn delete_ends_a_container_of_a_living_shim_and_spares_the_others() {
    let (pod, [sandbox, vm, side]) = running().await;
    assert_eq!(pod.delete("vm").await.exit_status, 137);
    assert!(vm.state().await.is_err());
    assert!(side.state().await.is_ok());
    assert!(
        !pod.processes()
            .iter()
            .any(|(_, line)| line.contains("qemu-system"))
    );
    for id in ["side", "sandbox"] {
        pod.delete(id).await;
    }
    drop((sandbox, side));
    pod.assert_clean().await;
}

#[tokio::test]
async fn delete_has_a_living_shim_forget_what_has_exited_and_what_nobody_reads() {
    let pod = Pod::new().await;
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    pod.prepare_ordinary("side", "exit 3");
    let sandbox = pod.start("sandbox").await;
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let side = pod.start("side").await;
    side.create("").await.unwrap();
    side.run().await;
    assert_eq!(side.wait().await, 3);
    pod.delete("side").await;
    assert!(side.state().await.is_err());

    let vm = pod.start("vm").await;
    let stdout = fifo(&pod, "stdout");
    let full = fill(&stdout);
    vm.create(&stdout).await.unwrap();
    vm.run().await;
    // Until the greeting waits for a reader.
    tokio::time::sleep(Duration::from_secs(3)).await;
    pod.delete("vm").await;
    let end = Instant::now() + Duration::from_secs(15);
    while vm.state().await.is_ok() {
        assert!(Instant::now() < end, "the server keeps the machine");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(full);
    sandbox.finish().await;
    pod.assert_clean().await;
}

/// Fills `fifo`, which the result keeps open.
fn fill(fifo: &str) -> fs::File {
    let mut options = fs::OpenOptions::new();
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let options = options.read(true).write(true).custom_flags(nonblock);
    let mut file = options.open(fifo).unwrap();
    while file.write(&[b'x'; 4096]).is_ok() {}
    file
}

#[tokio::test]
async fn a_dead_holder_is_told_and_ends_the_machine() {
    let (pod, [sandbox, vm, side]) = running().await;
    end(pod.process("kubevirt-holder"));
    assert_eq!(sandbox.wait().await, 137);
    assert_eq!(vm.wait().await, 137);
    for task in [vm, side, sandbox] {
        task.finish().await;
    }
    pod.assert_clean().await;
}

#[tokio::test]
async fn a_dead_qemu_is_told_with_its_reason() {
    let (pod, [sandbox, vm, side]) = running().await;
    end(pod.process("qemu-system"));
    assert_eq!(vm.wait().await, 137);
    let message = fs::read_to_string(pod.path("termination-log")).unwrap();
    assert!(message.contains("signal 9"), "{message}");
    for task in [vm, side, sandbox] {
        task.finish().await;
    }
    pod.assert_clean().await;
}
