//! A machine's life with an end by SIGKILL before each step that the shim, the OCI runtime or QEMU
//! takes in it. Whatever was done by then: containerd's `delete` leaves nothing behind, and the same
//! pod can be made again.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use containerd_shim::protos::protobuf::Message;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::guest::Then;
use crate::pod::{PATIENCE, Pod, Task, make_log};
use crate::traced::{Step, Traced, Watch};

const SHIM: Watch = Watch {
    program: "containerd-shim-kubevirt-v1",
    parents: &[],
};
const RUNC: Watch = Watch {
    program: "runc",
    parents: &["containerd-shim-kubevirt-v1"],
};
const QEMU: Watch = Watch {
    program: "qemu-system-x86_64",
    parents: &["containerd-shim-kubevirt-v1", "runc"],
};

/// How many of the steps are tried where all of them would take minutes.
const SOME: usize = 10;

/// The variable that names the one step to be tried, to see again what failed there.
const ONLY: &str = "KUBEVIRT_TEST_STEP";

/// Writes the bundles as containerd does before `start`.
fn prepare(pod: &Pod) {
    pod.prepare_sandbox();
    pod.prepare_machine("vm", Then::Halt);
    for id in ["sandbox", "vm"] {
        make_log(&pod.bundle(id));
    }
}

/// Container `id` after `start`.
async fn started(pod: &Pod, id: &str) -> Result<Task, String> {
    let output = pod.try_start(id);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let address = String::from_utf8_lossy(&output.stdout);
    pod.try_connect(id, &address).await
}

/// One machine, from its pod's `start` to its end, up to the first call that fails. Then all is deleted
/// as containerd does it.
async fn live(pod: &Pod, sandbox: Result<Task, String>) -> Result<(), String> {
    let mut tasks = Vec::new();
    let said = |error| format!("{error}");
    let lived = async {
        tasks.push(sandbox?);
        tasks[0].create("").await.map_err(said)?;
        tasks[0].try_run().await.map_err(said)?;
        tasks.push(started(pod, "vm").await?);
        tasks[1].create("").await.map_err(said)?;
        tasks[1].try_run().await.map_err(said)?;
        for task in tasks.iter().rev() {
            // It may have ended by itself.
            let _ = task.kill(9).await;
            task.try_wait().await.map_err(said)?;
            task.delete().await.map_err(said)?;
            task.try_shutdown().await.map_err(said)?;
        }
        Ok(())
    };
    let lived = lived.await;
    if lived.is_err() {
        for task in tasks.iter().rev() {
            // Its server may be gone.
            let _ = task.delete().await;
            let _ = task.try_shutdown().await;
        }
        for id in ["vm", "sandbox"] {
            pod.delete(id).await;
        }
    }
    lived
}

/// Runs `command` under a tracer, which goes on with what it leaves, and its exit status.
async fn run(
    pod: &Pod,
    command: &Command,
    watch: Watch,
    before: impl FnMut(&Step) + Send + 'static,
) -> (Traced, Option<i32>) {
    fs::write(pod.path("in"), pod.options().write_to_bytes().unwrap()).unwrap();
    let traced = Traced::run(command, &pod.path(""), watch, before);
    let ended = spawn_blocking(|| {
        let status = traced.wait();
        (traced, status)
    });
    ended.await.unwrap()
}

/// Lives one life with `before` called ahead of each step; whether all calls succeeded.
async fn watched(pod: &Pod, watch: Watch, before: impl FnMut(&Step) + Send + 'static) -> bool {
    prepare(pod);
    let mut start = pod.program("sandbox");
    start
        .env("TTRPC_ADDRESS", pod.path("c.sock.ttrpc"))
        .arg("start");
    let (traced, status) = run(pod, &start, watch, before).await;
    let sandbox = if status == Some(0) {
        let address = fs::read_to_string(pod.path("out")).unwrap();
        pod.try_connect("sandbox", &address).await
    } else {
        Err(format!("start ended with {status:?}"))
    };
    let lived = timeout(PATIENCE, live(pod, sandbox)).await.unwrap();
    if let Err(error) = &lived {
        println!("  {error}");
    }
    let joined = timeout(PATIENCE, spawn_blocking(|| traced.join())).await;
    joined.unwrap().unwrap();
    end(pod).await;
    lived.is_ok()
}

/// Looks for what was left, and removes the bundles as containerd does.
async fn end(pod: &Pod) {
    pod.assert_clean().await;
    fs::remove_dir_all(pod.path("bundles")).unwrap();
}

/// Has containerd's `delete` of container `id` called with `before` ahead of each of its steps, after
/// the server of a running machine was killed, and then again as containerd may; whether it had ended
/// well.
async fn deleted(pod: &Pod, id: &str, before: impl FnMut(&Step) + Send + 'static) -> bool {
    prepare(pod);
    let sandbox = started(pod, "sandbox").await.unwrap();
    sandbox.create("").await.unwrap();
    sandbox.run().await;
    let vm = started(pod, "vm").await.unwrap();
    vm.create("").await.unwrap();
    vm.run().await;
    let server = Pid::from_raw(sandbox.shim_pid().await);
    kill(server, Signal::SIGKILL).unwrap();
    let mut delete = pod.program(id);
    delete.arg("-bundle").arg(pod.bundle(id)).arg("delete");
    let (traced, status) = run(pod, &delete, SHIM, before).await;
    spawn_blocking(|| traced.join()).await.unwrap();
    for id in ["vm", "sandbox"] {
        pod.delete(id).await;
    }
    end(pod).await;
    status == Some(0)
}

/// What is watched: a life, or the `delete` of a container whose server is dead.
#[derive(Clone, Copy)]
enum Course {
    Life(Watch),
    Delete(&'static str),
}

impl Course {
    /// Whether nothing failed.
    async fn run(self, pod: &Pod, before: impl FnMut(&Step) + Send + 'static) -> bool {
        match self {
            Self::Life(watch) => watched(pod, watch, before).await,
            Self::Delete(id) => deleted(pod, id, before).await,
        }
    }

    /// The names of all steps that are taken when nothing ends.
    async fn steps(self) -> Vec<&'static str> {
        let pod = Pod::new().await;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let see = move |step: &Step| seen.lock().unwrap().push(step.call);
        assert!(self.run(&pod, see).await);
        let calls = calls.lock().unwrap();
        calls.clone()
    }

    /// Ends whoever takes the steps before each of at most `most` of them, evenly spread, and lets a
    /// machine live after it.
    async fn end_before(self, most: usize) {
        let steps = self.steps().await;
        println!("{} steps", steps.len());
        let numbers: Vec<usize> = match std::env::var(ONLY) {
            Ok(number) => vec![number.parse().unwrap()],
            Err(_) => {
                let stride = steps.len().div_ceil(most);
                (0..steps.len()).step_by(stride).collect()
            }
        };
        let mut met = 0;
        for number in numbers {
            println!("ends before step {number}, {}", steps[number]);
            let pod = Pod::new().await;
            let ended = Arc::new(AtomicBool::new(false));
            let end_here = Arc::clone(&ended);
            self.run(&pod, move |step| {
                if step.number == number {
                    kill(step.thread, Signal::SIGKILL).unwrap();
                    end_here.store(true, Ordering::Relaxed);
                }
            })
            .await;
            met += usize::from(ended.load(Ordering::Relaxed));
            prepare(&pod);
            live(&pod, started(&pod, "sandbox").await).await.unwrap();
            end(&pod).await;
        }
        // One life has a few steps more or less than the next.
        assert!(met > 0, "none of them was met");
    }
}

#[tokio::test]
async fn the_shim_may_end_before_a_step() {
    Course::Life(SHIM).end_before(SOME).await;
}

#[tokio::test]
async fn the_oci_runtime_may_end_before_a_step() {
    Course::Life(RUNC).end_before(SOME).await;
}

#[tokio::test]
async fn qemu_may_end_before_a_step() {
    Course::Life(QEMU).end_before(SOME).await;
}

#[tokio::test]
async fn a_delete_may_end_before_a_step() {
    for id in ["vm", "sandbox"] {
        Course::Delete(id).end_before(SOME).await;
    }
}

#[tokio::test]
#[ignore = "it takes minutes"]
async fn all_may_end_before_every_step() {
    for watch in [SHIM, RUNC, QEMU] {
        Course::Life(watch).end_before(usize::MAX).await;
    }
    for id in ["vm", "sandbox"] {
        Course::Delete(id).end_before(usize::MAX).await;
    }
}
